"""What one item of the sweep adds up: its rows go straight into the answer, sums over rows wait for their turn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.inputs import Request
from probe.kernels.lookup import Found
from probe.kernels.raw import Raw
from probe.kernels.scores import Prepared
from probe.kernels.sequences import Sequence, rows_per_strip
from probe.kernels.statistics import EFFECTS


@dataclass(frozen=True)
class Item:
    """Every `ways`-th strip, from strip `way` on, of one key/value head of one sequence."""

    sequence: Sequence
    group: int
    way: int
    ways: int
    found: Found
    request: Request
    prepared: Prepared
    band_of_key: Float[Tensor, "S bands"] | None
    """One-hot thumbnail band of every position; None where no thumbnail is asked for."""

    @property
    def heads(self) -> slice:
        """The query heads of the group."""
        r = self.sequence.group
        return slice(self.group * r, (self.group + 1) * r)


class Sums:
    """Views of the answer's rows of an item's heads, and its own sums over rows (float64) until `join`."""

    def __init__(self, item: Item, raw: Raw) -> None:
        """Zeroed sums; rows are views of `raw`."""
        sequence = item.sequence
        self.item, self.raw, self.sequence = item, raw, sequence
        self.rows_a_strip = rows_per_strip(sequence)
        self.v = item.prepared[2]
        # i₀ − j for every key of a strip is a slice of this, whatever the strip: from the farthest down to −rows.
        self.farthest = sequence.offset + sequence.n_rows
        steps = torch.arange(self.farthest + max(sequence.n_keys, self.rows_a_strip), device=self.v.device)
        self.back = (self.farthest - steps).to(raw.dtype)
        b, heads = sequence.index, item.heads
        self.rows, self.z = raw.rows[:, b, heads], raw.z[b, heads]
        self.sink_part, self.local_part = raw.sink_part[b, heads], raw.local_part[b, heads]
        self.sink_weights = raw.sink_weights[b, heads]
        self.received = self._zeros(sequence.n_keys)
        self.by_distance = self._zeros(sequence.n_keys)
        self.seen_rows = self._zeros(sequence.n_keys) if sequence.allowed is not None else None
        self.received_max = None if raw.received_max is None else self._zeros(sequence.n_keys)
        self.counts = self._zeros(len(item.request.thresholds), sequence.n_keys)
        self.effects = torch.zeros(len(EFFECTS), sequence.group, dtype=torch.float64, device=self.v.device)
        self.thumbnail = None if item.band_of_key is None else self._zeros(raw.bands, raw.bands)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(self.sequence.group, *shape, dtype=torch.float64, device=self.v.device)

    def rows_of(self, start: int, stop: int) -> slice:
        """Where rows [start, stop) of the sequence stand in the padded tensors of the answer."""
        return slice(self.sequence.first_row + start, self.sequence.first_row + stop)

    @property
    def profiled(self) -> bool:
        """Whether the mass by distance is asked for and defined."""
        sequence = self.sequence
        return self.item.request.distances and sequence.causal and not sequence.score.sigmoid

    @property
    def watched(self) -> bool:
        """Whether something is asked for that is read from a strip's weights once its stage is done."""
        request = self.item.request
        asked = request.argmax or request.received_max or request.thresholds or request.direction is not None
        return bool(asked) or self.sequence.allowed is not None

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
        if self.item.request.thresholds:
            raw.counts[sequence.index, heads, :, keys] += self.counts.long()
        if self.item.request.direction is not None:
            raw.effects[:, sequence.index, heads] += self.effects
