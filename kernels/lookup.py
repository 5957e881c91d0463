"""Which keys carry a query's label, as sparse pairs: found once a sequence, read by every layer and head."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.inputs import Lookup
from probe.kernels.strips import Sequence, Strip

PAIRS_A_TOKEN = 64
"""Pairs are kept only up to this many a token, so that memory stays linear in length (some KiB a token)."""

DENSE_SHARE = 0.1
"""Above this share of matching entries a masked sum is faster than gathering them."""


class Pairs:
    """The matching (query row, key) pairs of one lookup on one sequence, sorted by row, or None when too many."""

    def __init__(self, lookup: Lookup, sequence: Sequence) -> None:
        """Find the pairs in strips; give up (and look strip by strip later) beyond PAIRS_A_TOKEN a token."""
        b = sequence.index
        rows = slice(sequence.first_row, sequence.first_row + sequence.n_rows)
        keys = slice(sequence.first_key, sequence.first_key + sequence.n_keys)
        self.query = lookup.query_label[b, rows]
        self.key = lookup.key_label[b, keys]
        self.gap, self.offset = lookup.gap, sequence.offset
        self.starts: Int[Tensor, "rows_plus_1"] | None = None
        self.columns: Int[Tensor, "pairs"] | None = None
        self.places: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        found, counts, budget = [], [], PAIRS_A_TOKEN * (sequence.n_rows + sequence.n_keys)
        for start in range(0, sequence.n_rows, 256):
            stop = min(start + 256, sequence.n_rows)
            match = self.match(start, stop, 0, sequence.n_keys)
            counts.append(match.sum(1))
            found.append(match.nonzero()[:, 1].int())
            budget -= found[-1].numel()
            if budget < 0:
                return
        self.columns = torch.cat(found)
        zero = torch.zeros(1, dtype=torch.long, device=self.query.device)
        self.starts = torch.cat([zero, torch.cat(counts).cumsum(0)])

    def match(self, start: int, stop: int, low: int, high: int) -> Tensor:
        """Bool [stop − start, high − low]: which keys of [low, high) count for which rows of [start, stop)."""
        query, key = self.query[start:stop, None], self.key[None, low:high]
        rows = torch.arange(start, stop, device=query.device)[:, None] + self.offset
        columns = torch.arange(low, high, device=query.device)
        return (query == key) & (query >= 0) & (rows - columns >= self.gap)

    def mass(self, strip: Strip, out: Float[Tensor, "r rows"]) -> None:
        """Write Σ of the strip's unnormalised weights over the matching keys of each row into `out`."""
        weights = strip.weights
        found = self._in_strip(strip)
        if found is None:
            match = self.match(strip.start, strip.stop, strip.low, strip.high)
            if match.sum() > DENSE_SHARE * match.numel():
                torch.sum(weights * match, -1, out=out)
                return
            found = self._places(strip, *match.nonzero(as_tuple=True))
        row, place = found
        # One flat view of all heads' rows: index_select copies anything but a flat, dense tensor first.
        r, rows, keys = weights.shape
        flat = weights.as_strided(((r * rows - 1) * weights.stride(1) + keys,), (1,))
        sums = weights.new_zeros(r * rows)
        out.copy_(sums.index_add_(0, row, flat.index_select(0, place)).view(out.shape))

    def _in_strip(self, strip: Strip) -> tuple[Tensor, Tensor] | None:
        """Row of every pair and its place in the strip's memory; None when the pairs were too many to keep."""
        if self.starts is None or self.columns is None:
            return None
        key = (
            strip.start,
            strip.stop,
            strip.low,
            strip.high,
            *strip.weights.stride(),
            strip.weights.shape[0],
        )
        kept = self.places.get(key)
        if kept is None:
            bounds = self.starts[strip.start : strip.stop + 1]
            column = self.columns[bounds[0] : bounds[-1]].long() - strip.low
            row = torch.repeat_interleave(torch.arange(strip.stop - strip.start, device=column.device), bounds.diff())
            inside = (column >= 0) & (column < strip.high - strip.low)
            kept = self.places[key] = self._places(strip, row[inside], column[inside])
        return kept

    @staticmethod
    def _places(strip: Strip, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """(row, column) of one head -> row in [r · rows] and place in memory, for all heads of the group."""
        r, rows, _ = strip.weights.shape
        head = torch.arange(r, device=row.device)[:, None]
        place = head * strip.weights.stride(0) + row * strip.weights.stride(1) + column
        return (head * rows + row).flatten().int(), place.flatten().int()


def pairs_of(lookup: Lookup, sequence: Sequence) -> Pairs:
    """The pairs of `lookup` on `sequence`, found on first use and kept with the lookup."""
    key = (
        sequence.index,
        sequence.offset,
        sequence.first_row,
        sequence.n_rows,
        sequence.first_key,
        sequence.n_keys,
    )
    kept = lookup.found.get(key)
    if not isinstance(kept, Pairs):
        kept = lookup.found[key] = Pairs(lookup, sequence)
    return kept
