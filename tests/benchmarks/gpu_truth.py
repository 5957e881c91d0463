"""Every statistic of one head of a long causal call by its definition, in float64, a few rows at a time; its bounds.

Plain formulas on blocks of P, independent of every backend; `reference` is the same in one piece, for short calls.
Bounds: scores are off by eps · Σ|q k| <= eps · ‖q‖‖k‖, FACTOR times (see `testing`), which is `unit`: the absolute
error of a log-sum-exp and an entropy, the relative one of a weight or a mass. Weights are rounded to the dtype of v
before they meet it: eps / 2 of that dtype, times Σ P |v|. Sums over rows add (rows / 32 + 64) eps of float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from probe.kernels.inputs import Attention, Request
from probe.kernels.statistics import Statistics
from probe.kernels.testing import FACTOR, TINY

EPS = torch.finfo(torch.float32).eps
ADDED = 256 * EPS
"""Products added in float32 within a block of rows and columns before they leave it: 128 and 128, as a share."""


class HeadTruth:
    """values[name], allowed[name]: the statistic of one head and its largest error, float64, elementwise."""

    def __init__(self, call: Attention, request: Request, b: int, h: int, *, rows: int = 512) -> None:
        """Compute everything, `rows` rows at a time: their weights take rows · S · 8 bytes."""
        self.call, self.request, self.b, self.h = call, request, b, h
        group = h // (call.q.shape[1] // call.k.shape[1])
        self.q, self.k, self.v = call.q[b, h].double(), call.k[b, group].double(), call.v[b, group].double()
        T, S = len(self.q), len(self.k)
        largest = float(self.q.norm(dim=-1).max() * self.k.norm(dim=-1).max()) * call.score.scale
        self.unit = FACTOR * EPS * (1 + largest)
        half = torch.finfo(call.q.dtype).eps / 2
        self.rounding = half if call.q.dtype != torch.float32 else 0.0
        self.weight = self.unit + self.rounding
        self.added = (T / 32 + 64) * EPS
        self.values: dict[str, Tensor] = {}
        self.allowed: dict[str, Tensor] = {}
        self.rows: dict[str, list[Tensor]] = {}
        self.sums = {name: self.q.new_zeros(()) for name in ("dropped", "norm", *_EFFECTS)}
        self.sum_errors = {name: self.q.new_zeros(()) for name in self.sums}
        self.columns = {name: self.q.new_zeros(S) for name in ("received", "peak", "by_distance")}
        self.counts = self.q.new_zeros(2, len(request.thresholds), S)  # certainly above, possibly above
        self.cells = self.q.new_zeros(request.bands, request.bands)
        for start in range(0, T, rows):
            self._block(start, min(start + rows, T))
        self._finish(T)

    def _block(self, start: int, stop: int) -> None:
        i = torch.arange(start, stop, device=self.q.device)[:, None]
        j = torch.arange(stop, device=self.q.device)
        s = (self.q[start:stop] @ self.k[:stop].T * self.call.score.scale).masked_fill(j > i, -torch.inf)
        lse = s.logsumexp(-1)
        P = torch.exp(s - lse[:, None])
        self._row_statistics(P, lse, i, j)
        self._outputs(P, i, j)
        self._column_statistics(P, i, start, stop)

    def _row_statistics(self, P: Tensor, lse: Tensor, i: Tensor, j: Tensor) -> None:
        gap, sink = i - j, j < self.request.sinks
        near = (gap >= 0) & (gap < self.request.window)
        masses = {
            "max_weight": P.amax(-1),
            "first": P[:, 0],
            "previous": (P * (gap == 1)).sum(-1),
            "current": (P * (gap == 0)).sum(-1),
            "local": (P * near).sum(-1),
            "row_mass": P.sum(-1),
            "sink_mass": (P * sink).sum(-1),
            "local_mass": (P * (near & ~sink)).sum(-1),
        }
        for name, lookup in self.request.lookups.items():
            query, key = lookup.query_label[self.b, i], lookup.key_label[self.b, j]
            masses[f"lookup.{name}"] = (P * ((query == key) & (query >= 0) & (gap >= lookup.gap))).sum(-1)
        distance = (P * gap).sum(-1)
        one = torch.ones_like(lse)
        self._add("lse", lse, self.unit * one)
        self._add("entropy", -torch.xlogy(P, P).sum(-1), self.unit * one)
        self._add("distance", distance, self.unit * (distance + 128 / FACTOR))
        for name, mass in masses.items():
            self._add(name, mass, self.unit * mass + TINY)

    def _outputs(self, P: Tensor, i: Tensor, j: Tensor) -> None:
        """z, the parts of the kept classes, and the head-level sums made of them."""
        sink = (j < self.request.sinks).expand_as(P)
        near = (i - j < self.request.window) & ~sink
        v, size = self.v[: P.shape[1]], self.v[: P.shape[1]].abs()
        classes = [P * sink, P * near, P * ~(sink | near)]
        (sinks, local, rest), (a_sinks, a_local, a_rest) = ([one @ x for one in classes] for x in (v, size))
        m_sinks, m_local, m_rest = (one.sum(-1, keepdim=True) for one in classes)
        z, w = sinks + local + rest, self.weight
        d_z = w * (a_sinks + a_local + a_rest)
        half = torch.finfo(self.call.q.dtype).eps / 2
        self._add("z", z, d_z + half * z.abs() + TINY)
        self._add("sink_part", sinks, w * a_sinks + TINY)
        self._add("local_part", local, w * a_local + TINY)
        ratio = m_rest / (m_sinks + m_local)
        gap = rest - (sinks + local) * ratio
        # As parts, or as the difference of z and what is kept: then a float32's error of z stays where they are equal.
        d_gap = 2 * w * (a_rest + (a_sinks + a_local) * ratio) + 2 * self.unit * (a_sinks + a_local + a_rest)
        others = m_local + m_rest
        # Where the sinks are all there is, the row keeps its z.
        ratio = torch.where(others > 0, m_sinks / others, 0)
        moved, d_moved = sinks - (local + rest) * ratio, 2 * w * (a_sinks + (a_local + a_rest) * ratio)
        moved, d_moved = (torch.where(others > 0, x, 0) for x in (moved, d_moved))
        self._sum("dropped", gap * gap, 2 * gap.abs() * d_gap + d_gap**2)
        self._sum("norm", z * z, 2 * z.abs() * d_z + d_z**2)
        if self.request.direction is None:
            return
        g = self.request.direction[self.b, self.h, i[:, 0]].double()
        self._sum("zero", g * z, g.abs() * d_z)
        self._sum("sink_removed", g * moved, g.abs() * d_moved)
        self._sum("streaming", g * gap, g.abs() * d_gap)
        if self.request.mean is not None:
            full = self.request.mean.expand(*self.call.q.shape[:3], self.v.shape[1])
            self._sum("mean", g * (z - full[self.b, self.h, i[:, 0]].double()), g.abs() * d_z)

    def _column_statistics(self, P: Tensor, i: Tensor, start: int, stop: int) -> None:
        rows = stop - start
        self.columns["received"][:stop] += P.sum(0)
        self.columns["peak"][:stop] = torch.maximum(self.columns["peak"][:stop], P.amax(0))
        for number, threshold in enumerate(self.request.thresholds):
            for side, edge in enumerate((threshold * (1 + self.unit) + TINY, threshold * (1 - self.unit) - TINY)):
                self.counts[side, number, :stop] += P.gt(edge).sum(0)
        # Row r turned round holds distance f − (rows − 1 − r) in column f: a stride one short takes the shift away.
        skew = P.new_zeros(rows, stop + rows)
        skew[:, :stop] = P.flip(-1)
        by_distance = skew.as_strided((rows, stop), (stop + rows - 1, 1), rows - 1)
        self.columns["by_distance"][:stop] += by_distance[max(0, 1 - start) :].sum(0)
        if self.request.bands:
            n, bands = len(self.k), self.request.bands
            row, key = (torch.arange(a, stop, device=P.device) * bands // n for a in (start, 0))
            # Products with zeros and ones: on a GPU, adding by index is slow and in no fixed order.
            of_row, of_key = (torch.nn.functional.one_hot(band, bands).to(P) for band in (row, key))
            self.cells += of_row.T @ (P @ of_key)

    def _finish(self, T: int) -> None:
        for name, parts in self.rows.items():
            holder = self.allowed if name.endswith(" allowed") else self.values
            holder[name.removesuffix(" allowed")] = torch.cat(parts)
        for name, total in self.sums.items():
            self._put(name, total, self.sum_errors[name])
        share = self.unit + self.added
        for name in ("received", "by_distance"):
            self._put(name, self.columns[name], share * self.columns[name] + TINY)
        self._put("received_max", self.columns["peak"], self.unit * self.columns["peak"] + TINY)
        value = self.columns["received"] * self.v.norm(dim=-1)
        self._put("received_value", value, (share + self.added) * value + TINY)
        middle, half = self.counts.sum(0) / 2, (self.counts[1] - self.counts[0]) / 2
        self._put("received_counts", middle, half)
        if self.request.bands:
            hits = torch.bincount(torch.arange(T) * self.request.bands // T, minlength=self.request.bands)
            mean = self.cells / hits.to(self.cells)[:, None]
            self._put("thumbnail", torch.where(hits.to(self.cells)[:, None] > 0, mean, torch.nan), share * mean + TINY)

    def _add(self, name: str, value: Tensor, allowed: Tensor) -> None:
        self.rows.setdefault(name, []).append(value)
        self.rows.setdefault(f"{name} allowed", []).append(allowed)

    def _sum(self, name: str, terms: Tensor, errors: Tensor) -> None:
        self.sums[name] += terms.sum()
        self.sum_errors[name] += errors.sum() + (ADDED * terms.abs()).sum()

    def _put(self, name: str, value: Tensor, allowed: Tensor) -> None:
        self.values[name], self.allowed[name] = value, allowed

    def argmax_error(self, found: Tensor, *, rows: int = 512) -> float:
        """How much less than the largest score the found keys score, in units of the scores' error; ∞ out of sight."""
        worst = 0.0
        for start in range(0, len(self.q), rows):
            stop = min(start + rows, len(self.q))
            i = torch.arange(start, stop, device=self.q.device)[:, None]
            s = self.q[start:stop] @ self.k[:stop].T * self.call.score.scale
            s = s.masked_fill(torch.arange(stop, device=self.q.device) > i, -torch.inf)
            key = found[start:stop, None]
            if bool(((key < 0) | (key > i)).any()):
                return float("inf")
            worst = max(worst, float((s.amax(-1) - s.gather(-1, key)[:, 0]).max()) / self.unit)
        return worst


_EFFECTS = ("zero", "mean", "sink_removed", "streaming")


def shares(truth: HeadTruth, z: Tensor, found: Statistics) -> dict[str, float]:
    """Worst |found − truth| / allowed of each statistic that was computed; NaN where the truth has none counts as ∞."""
    b, h, given = truth.b, truth.h, truth.request
    actual: dict[str, Tensor | None] = {"z": z[b, h], "sink_part": None, "local_part": None}
    if found.streaming is None:  # the parts themselves were asked for
        actual |= {"sink_part": found.sink_part[b, h], "local_part": found.local_part[b, h]}
    for name in truth.values:
        if name.startswith("lookup."):
            actual[name] = found.lookup[name.removeprefix("lookup.")][b, h]
        elif name in ("dropped", "norm"):
            number = ("dropped", "norm").index(name)
            actual[name] = None if found.streaming is None else found.streaming[b, h, number]
        elif name in _EFFECTS:
            actual[name] = None if found.effects is None else found.effects[name][b, h]
        elif name not in actual:
            whole = getattr(found, name)
            actual[name] = None if whole is None else whole[b, h]
    if given.mean is None:
        actual["mean"] = None
    out = {
        name: _share(value, truth.values[name], truth.allowed[name])
        for name, value in actual.items()
        if value is not None
    }
    if found.argmax is not None:
        out["argmax"] = truth.argmax_error(found.argmax[b, h])
    return out


def _share(found: Tensor, wanted: Tensor, allowed: Tensor) -> float:
    if found.shape != wanted.shape or not torch.equal(found.isnan(), wanted.isnan()):
        return float("inf")
    error = (found.double() - wanted).abs()
    ratio = torch.where((error == 0) | wanted.isnan(), 0, error / allowed)
    return float(ratio.max())
