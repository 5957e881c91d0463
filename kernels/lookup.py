"""Which keys carry a query's label, as sparse pairs: found by sorting once a sequence, read by every layer and head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.inputs import Lookup
from probe.kernels.sequences import Sequence
from probe.kernels.strips import Strip

PAIRS_A_TOKEN = 64
"""Places of pairs are kept up to this many a token, else made anew for each strip: memory stays linear in length."""

DENSE_SHARE = 0.1
"""Above this share of matching entries a masked sum is faster than gathering them."""


class Pairs:
    """The matching keys of every query row of one lookup on one sequence, without any [T, S] comparison.

    Keys are sorted by (label, position), so the keys of a query are one run of that order: `order[low:high]`.
    """

    def __init__(self, lookup: Lookup, sequence: Sequence) -> None:
        """Sort the keys, find each query's run."""
        b, n_keys = sequence.index, sequence.n_keys
        rows = slice(sequence.first_row, sequence.first_row + sequence.n_rows)
        self.query = lookup.query_label[b, rows].long()
        self.key = lookup.key_label[b, sequence.first_key : sequence.first_key + n_keys].long()
        position = torch.arange(n_keys, device=self.key.device)
        code, self.order = (self.key * (n_keys + 1) + position).sort()
        self.last = torch.arange(sequence.n_rows, device=self.key.device) + sequence.offset - lookup.gap
        first = self.query * (n_keys + 1)
        self.low = torch.searchsorted(code, first)
        high = torch.searchsorted(code, first + self.last.clamp(min=-1, max=n_keys - 1), right=True)
        self.high = torch.where((self.query >= 0) & (self.last >= 0), torch.maximum(high, self.low), self.low)
        pairs = int((self.high - self.low).sum())
        self.keep = pairs <= PAIRS_A_TOKEN * (sequence.n_rows + n_keys)
        self.places: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def mass(self, strip: Strip, out: Float[Tensor, "r rows"]) -> None:
        """Write Σ of the strip's unnormalised weights over the matching keys of each row into `out`."""
        weights = strip.weights
        r, rows, keys = weights.shape
        found = self._in_strip(strip)
        if found is None:
            torch.sum(weights * self._match(strip), -1, out=out)
            return
        row, place = found
        # One flat view of all heads' rows: index_select copies anything but a flat, dense tensor first.
        flat = weights.as_strided(((r * rows - 1) * weights.stride(1) + keys,), (1,))
        head = torch.arange(r, dtype=torch.int32, device=row.device)[:, None]
        chosen = flat.index_select(0, (place + head * weights.stride(0)).view(-1))
        sums = weights.new_zeros(r * rows).index_add_(0, (row + head * rows).view(-1), chosen)
        out.copy_(sums.view(out.shape))

    def _match(self, strip: Strip) -> Tensor:
        """Bool [rows, keys] of a strip."""
        query, key = self.query[strip.start : strip.stop, None], self.key[None, strip.low : strip.high]
        position = torch.arange(strip.low, strip.high, device=query.device)
        seen = position <= self.last[strip.start : strip.stop, None]
        return (query == key).logical_and_(query >= 0).logical_and_(seen)

    def _in_strip(self, strip: Strip) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"]] | None:
        """Row of every pair and its place in the memory of one head; None where pairs are too dense to gather."""
        stride = strip.weights.stride(1)
        key = (strip.start, strip.stop, strip.low, strip.high, stride)
        kept = self.places.get(key)
        if kept is not None:
            return kept
        low = self.low[strip.start : strip.stop]
        counts = self.high[strip.start : strip.stop] - low
        total = int(counts.sum())
        if total > DENSE_SHARE * (strip.stop - strip.start) * (strip.high - strip.low):
            return None
        row = torch.repeat_interleave(torch.arange(len(counts), device=low.device), counts, output_size=total)
        within = torch.arange(total, device=low.device) - (counts.cumsum(0) - counts)[row]
        column = self.order[low[row] + within] - strip.low
        if strip.low or strip.high < strip.sequence.n_keys:
            inside = (column >= 0) & (column < strip.high - strip.low)
            row, column = row[inside], column[inside]
        found = row.int(), (row * stride + column).int()
        if self.keep:
            self.places[key] = found
        return found


@dataclass(frozen=True)
class Found:
    """The pairs of all lookups of a request on one sequence, by name."""

    pairs: dict[str, Pairs]

    @cached_property
    def runs(self) -> tuple[Int[Tensor, "n S"], Int[Tensor, "n T"], Int[Tensor, "n T"]]:
        """Of every lookup the keys' order, and the first and last-plus-one place in it of each query's keys."""
        every = list(self.pairs.values())
        if not every:
            none = torch.zeros(0, 0, dtype=torch.long)
            return none, none, none
        order, low, high = zip(*((pairs.order, pairs.low, pairs.high) for pairs in every), strict=True)
        return torch.stack(order), torch.stack(low), torch.stack(high)


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
