"""The strips of one key/value head, one after the other: weights, then everything that is counted of them.

Python's time between products is what short sequences wait for, so a step touches each tensor as seldom as it can:
raw sums go to their rows as they are, and `Raw.finish` does the arithmetic for all rows at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.effects import strip_effects
from probe.kernels.inputs import Request
from probe.kernels.lookup import Pairs
from probe.kernels.raw import Raw
from probe.kernels.statistics import EFFECTS
from probe.kernels.strips import Prepared, Sequence, Strip, Workspace, rows_per_strip, strip


@dataclass(frozen=True)
class Item:
    """Every `ways`-th strip, from strip `way` on, of one key/value head of one sequence."""

    sequence: Sequence
    group: int
    way: int
    ways: int
    pairs: dict[str, Pairs]
    request: Request
    prepared: Prepared
    band_of_key: Float[Tensor, "S bands"] | None
    """One-hot thumbnail band of every position; None where no thumbnail is asked for."""

    @property
    def heads(self) -> slice:
        """The query heads of the group."""
        r = self.sequence.group
        return slice(self.group * r, (self.group + 1) * r)


class Sweep:
    """Runs an item: rows go straight into `raw`, sums over rows are kept here (float64) until `join`."""

    def __init__(self, item: Item, raw: Raw, work: Workspace) -> None:
        """`work` is this sweep's alone while it runs."""
        sequence = item.sequence
        self.item, self.raw, self.sequence = item, raw, sequence
        self.rows_a_strip = rows_per_strip(sequence)
        self.v = item.prepared[2]
        self.work = work
        # i₀ − j for every key of a strip is a slice of this, whatever the strip: from the farthest down to −rows.
        self.farthest = sequence.offset + sequence.n_rows
        steps = torch.arange(self.farthest + max(sequence.n_keys, self.rows_a_strip), device=self.v.device)
        self.back = (self.farthest - steps).to(raw.dtype)
        b, heads = sequence.index, item.heads
        self.rows, self.z, self.local_part = raw.rows[:, b, heads], raw.z[b, heads], raw.local_part[b, heads]
        self.sink_weights = raw.sink_weights[b, heads]
        self.lookup = {name: (pairs, raw.lookup[name][b, heads]) for name, pairs in item.pairs.items()}
        self.received = self._zeros(sequence.n_keys)
        self.by_distance = self._zeros(sequence.n_keys)
        self.seen_rows = self._zeros(sequence.n_keys) if sequence.allowed is not None else None
        self.received_max = None if raw.received_max is None else self._zeros(sequence.n_keys)
        self.counts = self._zeros(len(item.request.thresholds), sequence.n_keys)
        self.effects = torch.zeros(len(EFFECTS), sequence.group, dtype=torch.float64, device=self.v.device)
        self.band_of_key = item.band_of_key
        self.thumbnail = None if item.band_of_key is None else self._zeros(raw.bands, raw.bands)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(self.sequence.group, *shape, dtype=torch.float64, device=self.v.device)

    def run(self) -> Sweep:
        """All strips of the item."""
        item, sequence, step = self.item, self.sequence, self.rows_a_strip
        for start in range(item.way * step, sequence.n_rows, item.ways * step):
            part = strip(sequence, item.group, start, min(start + step, sequence.n_rows), self.work, item.prepared)
            inverse = part.total.reciprocal()
            if part.seen is not None or sequence.blind(part.stop - 1 + sequence.offset):
                inverse.masked_fill_(part.total == 0, 0)
            rows = slice(sequence.first_row + part.start, sequence.first_row + part.stop)
            self._write_rows(part, rows, inverse)
            self._add_sums(part, inverse)
            self._add_by_key(part, inverse)
            self._add_effects(part, rows, inverse)
        return self

    def join(self) -> None:
        """Add the sums over rows to those of the other items (in a fixed order: see `blockwise`)."""
        raw, sequence, heads = self.raw, self.sequence, self.item.heads
        keys = slice(sequence.first_key, sequence.first_key + sequence.n_keys)
        raw.received[sequence.index, heads, keys] += self.received
        raw.by_distance[sequence.index, heads, : sequence.n_keys] += self.by_distance.flip(-1)
        if self.thumbnail is not None and raw.thumbnail is not None:
            raw.thumbnail[sequence.index, heads] += self.thumbnail
        if self.seen_rows is not None:
            raw.received_rows[sequence.index, heads, keys] += self.seen_rows.long()
        if raw.received_max is not None and self.received_max is not None:
            place = raw.received_max[sequence.index, heads, keys]
            torch.maximum(place, self.received_max.to(place), out=place)
        raw.counts[sequence.index, heads, :, keys] += self.counts.long()
        raw.effects[:, sequence.index, heads] += self.effects

    def _write_rows(self, part: Strip, rows: slice, inverse: Tensor) -> None:
        """Output and raw row sums of one strip."""
        weights, low, high = part.weights, part.low, part.high
        total, mass, shift, peak, surprise, first, previous, current, local, distance = self.rows[:, :, rows].unbind(0)
        torch.mul(part.output, inverse[..., None], out=self.z[:, rows])
        total.copy_(part.total)
        if low == 0 and high:
            first.copy_(weights[..., 0])
        mass.copy_(part.mass)
        shift.copy_(part.shift)
        surprise.copy_(part.surprise)
        if self.sequence.score.sinks is not None:
            peak.copy_(weights.amax(-1))
        if self.sequence.causal:
            position = part.start + self.sequence.offset
            # Distance from the strip's first row keeps the summands small beside what they add up to.
            begin = self.farthest - (position - low)
            back = self.back[begin : begin + high - low]
            distance.copy_(torch.mv(weights.flatten(0, 1), back).view(inverse.shape))
            diagonals = part.by_distance()
            n = diagonals.shape[-1]
            current.copy_(diagonals[..., n - 1])
            if n > 1:
                previous.copy_(diagonals[..., n - 2])
            torch.sum(diagonals[..., max(0, n - self.item.request.window) :], -1, out=local)
            self._write_classes(part, rows, inverse)
        for pairs, out in self.lookup.values():
            pairs.mass(part, out[:, rows])
        if self.raw.argmax is not None and high > low:
            low_key = low + self.sequence.first_key
            self.raw.argmax[self.sequence.index, self.item.heads, rows] = weights.argmax(-1) + low_key
        if part.seen is not None:
            self.raw.visible[self.sequence.index, self.item.heads, rows] = part.seen.sum(-1)

    def _write_classes(self, part: Strip, rows: slice, inverse: Tensor) -> None:
        """Weights of the sinks, and the output of the window without them: a small product beside the diagonal."""
        weights, low, high = part.weights, part.low, part.high
        near = max(0, min(self.item.request.sinks, high) - low)
        if near:
            self.sink_weights[:, rows, low : low + near] = weights[..., :near]
        window_start = part.start + self.sequence.offset - self.item.request.window + 1
        begin = max(low + near, window_start)
        if begin >= high:
            return
        band = weights[..., begin - low :]
        count = weights.shape[1]
        skip = begin - window_start  # rows whose window begins at `begin` or before need no mask
        if skip < count:
            band = band.clone()
            reach = min(count - skip, high - begin)
            band[:, skip:, :reach].masked_fill_(self.work.behind[: count - skip, :reach], 0)
        out = torch.mm(band.flatten(0, 1), self.v[begin:high]).view(*inverse.shape, -1)
        torch.mul(out, inverse[..., None], out=self.local_part[:, rows])

    def _add_by_key(self, part: Strip, inverse: Tensor) -> None:
        """Maximum and counts over the rows of one strip, by key: each a pass of its own over the weights."""
        if self.received_max is None and not self.item.request.thresholds:
            return
        P, keys = part.weights * inverse[..., None], slice(part.low, part.high)
        if self.received_max is not None:
            place = self.received_max[:, keys]
            torch.maximum(place, P.amax(1).to(place), out=place)
        for number, threshold in enumerate(self.item.request.thresholds):
            self.counts[:, number, keys] += P.gt(threshold).sum(1)

    def _add_effects(self, part: Strip, rows: slice, inverse: Tensor) -> None:
        """Effects along the request's direction, of one strip."""
        request, b, heads = self.item.request, self.sequence.index, self.item.heads
        if request.direction is None:
            return
        direction, mean = request.direction[b, heads, rows].to(self.v.dtype), None
        if request.mean is not None:
            shape = (*self.raw.z.shape[:3], self.v.shape[1])
            mean = request.mean.expand(shape)[b, heads, rows].to(self.v.dtype)
        near = max(0, min(request.sinks, part.high) - part.low)
        local = self.local_part[:, rows]
        self.effects += strip_effects(
            part, inverse, self.v, local, self._local_mass(part, inverse), near, direction, mean
        )

    def _local_mass(self, part: Strip, inverse: Tensor) -> Tensor:
        """Mass of the window without the sinks, as `_write_classes` cuts it."""
        i = torch.arange(part.start, part.stop, device=self.v.device)[:, None] + self.sequence.offset
        window_start = part.start + self.sequence.offset - self.item.request.window + 1
        begin = min(max(self.item.request.sinks, part.low, window_start), part.high)
        j = torch.arange(begin, part.high, device=self.v.device)
        inside = i - j < self.item.request.window
        return (part.weights[..., begin - part.low :] * inside).sum(-1) * inverse

    def _add_sums(self, part: Strip, inverse: Tensor) -> None:
        """Sums over the rows of one strip, by key, by band and by distance: one small product a head."""
        weights, low, high = part.weights, part.low, part.high
        chosen = inverse[:, None]  # [r, 1, rows]: one row of factors a sum
        first_band = last_band = 0
        if self.band_of_key is not None:
            bands, n = self.raw.bands, self.sequence.n_keys
            first_band, last_band = bands * part.start // n, bands * (part.stop - 1) // n
            if first_band < last_band:
                of_row = self.band_of_key[part.start : part.stop, first_band : last_band + 1]
                chosen = chosen * of_row.t()
        by_key = torch.bmm(chosen, weights)  # [r, bands of the strip, keys]
        if self.thumbnail is not None and self.band_of_key is not None:
            cells = by_key.flatten(0, 1) @ self.band_of_key[low:high]
            self.thumbnail[:, first_band : last_band + 1] += cells.view(*by_key.shape[:2], -1)
        self.received[:, low:high] += by_key[:, 0] if first_band == last_band else by_key.sum(1)
        if self.seen_rows is not None and part.seen is not None:
            self.seen_rows[:, low:high] += part.seen.sum(-2)
        if self.item.request.distances and self.sequence.causal and not self.sequence.score.sigmoid:
            if part.start + self.sequence.offset == 0:
                inverse = inverse.clone()
                inverse[:, 0] = 0  # the profile is over positions 1 and later
            diagonals = part.by_distance()
            n, limit = diagonals.shape[-1], self.sequence.n_keys
            # Kept with distance 0 in the last place, as the view has it; turned round by `join`.
            by_distance = torch.bmm(inverse[:, None], diagonals)[:, 0]
            self.by_distance[:, max(0, limit - n) :] += by_distance[:, max(0, n - limit) :]


def band_of_key(sequence: Sequence, bands: int, dtype: torch.dtype) -> Float[Tensor, "S bands"] | None:
    """One-hot ⌊bands · i / S⌋ of every position of a whole sequence; None for a part of one, or no bands."""
    if not bands or sequence.n_rows != sequence.n_keys or sequence.offset:
        return None
    position = torch.arange(sequence.n_keys, device=sequence.q.device)
    out = torch.zeros(sequence.n_keys, bands, dtype=dtype, device=sequence.q.device)
    out[position, bands * position // sequence.n_keys] = 1
    return out
