"""Raw sums of a call, filled strip by strip, and the arithmetic that turns them into statistics once at the end."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.inputs import Attention, Request
from probe.kernels.metrics import streaming_sums
from probe.kernels.sequences import Sequence, rows_per_strip, sequences
from probe.kernels.statistics import EFFECTS, Statistics

LN2 = math.log(2)

FIELDS = (
    "total",
    "mass",
    "shift",
    "peak",
    "surprise",
    "first",
    "previous",
    "current",
    "local",
    "distance",
)
"""Row sums kept before normalisation: what normalises; Σ w; row maximum · log2 e; max w (kept only beside a learned
sink: without one it is 1); Σ w (s − m) · log2 e; single weights; Σ w of the window; Σ w (i₀ − j),
i₀ the first row of the strip."""


class Raw:
    """Tensors of the answer: z and parts [B, H, T, Dv], rows [fields, B, H, T], sums by key, distance and band."""

    def __init__(self, call: Attention, request: Request, dtype: torch.dtype) -> None:
        """Zeroed, in `dtype` (sums over rows in float64)."""
        (B, H, T, _), S, Dv, device = call.q.shape, call.k.shape[2], call.v.shape[3], call.q.device
        self.dtype, self.bands, self.call, self.request = dtype, request.bands, call, request

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.z, self.sink_part, self.local_part = (zeros(B, H, T, Dv) for _ in range(3))
        self.rows = zeros(len(FIELDS), B, H, T)
        self.sink_weights = zeros(B, H, T, min(request.sinks, S))
        self.lookups = zeros(len(request.lookups), B, H, T)
        self.lookup = dict(zip(request.lookups, self.lookups, strict=True))
        self.visible = zeros(B, H, T, dtype=torch.long)
        self.received = zeros(B, H, S, dtype=torch.float64)
        self.by_distance = zeros(B, H, S, dtype=torch.float64)
        self.received_rows = zeros(B, H, S, dtype=torch.long)
        square = self.bands and T == S and call.mask.query_offset == 0
        self.argmax = zeros(B, H, T, dtype=torch.long) if request.argmax else None
        self.received_max = zeros(B, H, S) if request.received_max else None
        self.counts = zeros(B, H, len(request.thresholds), S, dtype=torch.long)
        self.effects = zeros(len(EFFECTS), B, H, dtype=torch.float64)
        self.thumbnail = zeros(B, H, self.bands, self.bands, dtype=torch.float64) if square else None

    def count(self, sequence: Sequence) -> None:
        """Visible keys a row and visible rows a key, from the rules alone (no [T, S] mask)."""
        if sequence.allowed is not None:
            return
        low, high = sequence.spans(self.z.device)
        rows = slice(sequence.first_row, sequence.first_row + sequence.n_rows)
        self.visible[sequence.index, :, rows] = high - low
        edges = torch.zeros(sequence.n_keys + 1, dtype=torch.long, device=self.z.device)
        ones = torch.ones_like(low)
        edges.index_add_(0, low, ones).index_add_(0, high, -ones)
        keys = slice(sequence.first_key, sequence.first_key + sequence.n_keys)
        self.received_rows[sequence.index, :, keys] = edges.cumsum(0)[:-1]

    def finish(self) -> Statistics:
        """Normalise the raw sums; rows that see no key are NaN."""
        raw, blind = dict(zip(FIELDS, self.rows.unbind(0), strict=True)), self.visible == 0
        normal, ordered = not self.call.score.sigmoid, self.call.mask.causal
        inverse = raw["total"].reciprocal().masked_fill_(blind, torch.nan)
        nowhere = torch.full_like(inverse, torch.nan)
        mass = raw["mass"]
        log_total = raw["total"].log()
        local_mass = (raw["local"] - self._sinks_in_window(raw["local"])) * inverse
        if not ordered or bool(blind.any()):
            for part in (self.sink_part, self.local_part):
                part.masked_fill_((blind | (not ordered))[..., None], torch.nan)
        by_distance = self.by_distance if normal and ordered else torch.full_like(self.by_distance, torch.nan)
        made = Statistics(
            lse=(raw["shift"] * LN2 + log_total).masked_fill(blind, torch.nan) if normal else nowhere,
            # −Σ P log P = −Σ P (s − m) + (Σ P) log(total); rebased at the row maximum nothing cancels.
            entropy=(mass * log_total - raw["surprise"] * LN2) * inverse if normal else nowhere,
            max_weight=(raw["peak"] if self.call.score.sinks is not None else 1) * inverse if normal else nowhere,
            distance=(raw["distance"] + mass * self._row_in_strip()) * inverse if normal and ordered else nowhere,
            first=raw["first"] * inverse,
            previous=raw["previous"] * inverse if ordered else nowhere,
            current=raw["current"] * inverse if ordered else nowhere,
            local=raw["local"] * inverse if ordered else nowhere,
            row_mass=mass * inverse,
            sink_mass=self.sink_weights.sum(-1) * inverse if ordered else nowhere,
            local_mass=local_mass if ordered else nowhere,
            sink_part=self.sink_part,
            local_part=self.local_part,
            lookup={name: value * inverse for name, value in self.lookup.items()},
            visible=self.visible,
            received=self.received,
            received_rows=self.received_rows,
            by_distance=by_distance,
            thumbnail=self._mean_thumbnail(),
        )
        return self._as_asked(made, blind)

    def _as_asked(self, made: Statistics, blind: Tensor) -> Statistics:
        """What the request adds to every call's statistics, or spares."""
        request, call, changes = self.request, self.call, dict[str, Any]()
        if not request.distances:
            changes["by_distance"] = made.by_distance.new_full((), torch.nan).expand_as(made.by_distance)
        if not request.parts:
            nowhere = made.sink_part.new_full((), torch.nan).expand_as(made.sink_part)
            changes["streaming"] = torch.stack(streaming_sums(made, self.z, call.score.sinks is not None), -1)
            changes["sink_part"] = changes["local_part"] = nowhere
        if self.argmax is not None:
            changes["argmax"] = self.argmax.masked_fill(blind, -1)
        if self.received_max is not None:
            changes["received_max"] = self.received_max.masked_fill(made.received_rows == 0, torch.nan)
        if request.received_value:
            norm = torch.linalg.vector_norm(call.v, dim=-1, dtype=torch.float64)
            changes["received_value"] = made.received * norm.repeat_interleave(call.q.shape[1] // call.k.shape[1], 1)
        if request.thresholds:
            changes["received_counts"] = self.counts
        if request.direction is not None:
            changes["effects"] = dict(zip(EFFECTS, self.effects.unbind(0), strict=True))
        return replace(made, **changes)

    def _row_in_strip(self) -> Float[Tensor, "B 1 T"]:
        step = torch.zeros(self.rows.shape[1], 1, self.rows.shape[3], dtype=self.dtype, device=self.z.device)
        for sequence in sequences(self.call):
            own = torch.arange(sequence.n_rows, device=step.device) % rows_per_strip(sequence)
            step[sequence.index, :, sequence.first_row : sequence.first_row + sequence.n_rows] = own.to(step)
        return step

    def _sinks_in_window(self, like: Float[Tensor, "B H T"]) -> Float[Tensor, "B H T"]:
        """Weight of the sinks that also lie in the window: counted once, as sinks."""
        both = torch.zeros_like(like)
        for sequence in sequences(self.call):
            j = torch.arange(min(self.sink_weights.shape[-1], sequence.n_keys), device=both.device)
            n = min(sequence.n_rows, max(0, self.request.window + len(j) - sequence.offset))
            i = torch.arange(n, device=both.device)[:, None] + sequence.offset
            place = (sequence.index, slice(None), slice(sequence.first_row, sequence.first_row + n))
            both[place] = (self.sink_weights[place][..., : len(j)] * (i - j < self.request.window)).sum(-1)
        return both

    def _mean_thumbnail(self) -> Tensor | None:
        if self.thumbnail is None:
            return None
        for b, n in enumerate(_own_lengths(self.call)):
            hits = torch.bincount(self.bands * torch.arange(n) // max(n, 1), minlength=self.bands)
            rows = hits.to(self.thumbnail)[:, None]
            self.thumbnail[b] = torch.where(rows > 0, self.thumbnail[b] / rows, torch.nan)
        return self.thumbnail


def _own_lengths(call: Attention) -> list[int]:
    if call.mask.lengths is None:
        return [call.q.shape[2]] * call.q.shape[0]
    return [end - first for first, end in call.mask.lengths.tolist()]
