"""Softmax weights of a strip of query rows against every key they may see: the step all CPU passes share.

A strip is a few rows, all query heads of one key/value head, and their whole visible key range, so one matrix
product serves the group without repeating keys, and the row maximum is known before any exponential: no rescaling.
Rows live in a buffer with `pad` zero columns on the left. Read with row stride + 1, the same memory shows the
weights by distance i − j instead of by key (see `Strip.by_distance`), which is how distances cost one product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.scores import LOG2E, Prepared, heads_of, of_group, put_scores
from probe.kernels.sequences import Sequence, rows_per_strip

TILE = 1024
"""Keys whose weights are summed, weighed and multiplied with v together, before the cache has lost them."""

HIDDEN = -1e30
"""Score of a key out of sight: exp(HIDDEN − m) is exactly 0 and, unlike −inf, HIDDEN · 0 is 0 and not NaN."""


class Workspace:
    """Two reusable buffers, [heads · rows, pad + keys], for the scores and the weights of a strip, and its masks."""

    def __init__(self, heads: int, rows: int, keys: int, like: Tensor, *, in_place: bool = False) -> None:
        """Allocate buffers for strips of up to `rows` rows of `heads` heads; the zero pad is `rows` wide.

        in_place: weights take the place of scores, for a stage that reads each score once it knows its row.
        """
        self.pad = rows
        self.scores = torch.empty(heads * rows, rows + keys, dtype=like.dtype, device=like.device)
        self.weights = self.scores if in_place else torch.empty_like(self.scores)
        self.weights[:, :rows] = 0
        square = torch.ones(rows, rows, dtype=torch.bool, device=like.device)
        self.ahead, self.behind = square.triu(1), square.tril(-1)


def workspace(served: list[Sequence], like: Tensor, *, in_place: bool = False) -> Workspace:
    """Buffers large enough for the strips of any of these sequences (of one call, so of one group size)."""
    rows = max(min(rows_per_strip(sequence), sequence.n_rows) for sequence in served)
    return Workspace(served[0].group, rows, max(sequence.n_keys for sequence in served), like, in_place=in_place)


@dataclass(frozen=True)
class Strip:
    """Unnormalised weights of rows [start, stop) of one group against keys [low, high).

    weights: exp(s − shift), exactly 0 where not visible (gates, for sigmoid attention).
    shift: row maximum, times log2 e. mass: Σ weights. total: what normalises: mass and a learned sink; 1 for sigmoid.
    output: Σ weights · v. surprise: Σ weights · (s − shift) · log2 e.
    seen: the visible entries, where a rule beyond causal and window says so; else None.
    """

    sequence: Sequence
    start: int
    stop: int
    low: int
    high: int
    weights: Float[Tensor, "r rows keys"]
    shift: Float[Tensor, "r rows"]
    mass: Float[Tensor, "r rows"]
    total: Float[Tensor, "r rows"]
    output: Float[Tensor, "r rows Dv"]
    surprise: Float[Tensor, "r rows"]
    seen: Bool[Tensor, "#r rows keys"] | None

    def by_distance(self) -> Float[Tensor, "r rows distances"]:
        """A view of `weights` with the key axis turned into distance, descending to 0 in the last column.

        Column x of row i holds key i − (n − 1 − x), n = position of the last row − low + 1. Keys that do not exist
        read the zero pad; keys after the query are masked and read 0. Needs a causal strip.
        """
        _, rows, _ = self.weights.shape
        r_stride, stride, _ = self.weights.stride()
        first_position = self.start + self.sequence.offset
        distances = first_position + rows - self.low
        offset = self.weights.storage_offset() + (first_position - self.low) - (distances - 1)
        return self.weights.as_strided((self.weights.shape[0], rows, distances), (r_stride, stride + 1, 1), offset)


def strip(sequence: Sequence, group: int, start: int, stop: int, work: Workspace, tensors: Prepared) -> Strip:
    """Scores, mask, maximum, then tile by tile the exponentials and what is summed while a tile is in the cache.

    tensors come from `prepared`, in the dtype of `work`.
    """
    q, _, v = tensors
    r, rows = q.shape[0], stop - start
    low, high = keys_of(sequence, start, stop)
    keys = high - low
    s = work.scores[: r * rows, work.pad : work.pad + keys]
    p = work.weights[: r * rows, work.pad : work.pad + keys]
    put_scores(s, sequence, group, slice(start, stop), slice(low, high), tensors)
    seen = hide(heads_of(s, r), sequence, group, start, stop, low, high, work)
    normal = not sequence.score.sigmoid
    m = s.amax(1, keepdim=True) if keys and normal else s.new_full((r * rows, 1), HIDDEN if normal else 0)
    # Where nothing is visible m is HIDDEN itself, and exp2(0) would weigh every key.
    empty = m == HIDDEN if normal and (seen is not None or sequence.blind(stop - 1 + sequence.offset)) else None
    learned = None
    if sequence.score.sinks is not None:
        learned = sequence.score.sinks[group * r : (group + 1) * r].to(s).repeat_interleave(rows)[:, None] * LOG2E
        m = torch.maximum(m, learned)
    mass, surprise = s.new_zeros(r * rows), s.new_zeros(r * rows)
    output = s.new_zeros(r * rows, v.shape[1])
    for tile in range(0, keys, TILE):
        s_tile, p_tile = s[:, tile : tile + TILE], p[:, tile : tile + TILE]
        if normal:
            s_tile -= m
            torch.exp2(s_tile, out=p_tile)
            if empty is not None:
                p_tile.masked_fill_(empty, 0)
        else:
            torch.sigmoid(s_tile, out=p_tile)  # sigmoid(HIDDEN) is exactly 0
        mass += p_tile.sum(1)
        output.addmm_(p_tile, v[low + tile : low + tile + p_tile.shape[1]])
        surprise += s_tile.mul_(p_tile).sum(1)
    total = mass if normal else torch.ones_like(mass)
    if learned is not None:
        total = mass + torch.exp2(learned - m)[:, 0]
    return Strip(
        sequence,
        start,
        stop,
        low,
        high,
        heads_of(p, r),
        m.view(r, rows),
        mass.view(r, rows),
        total.view(r, rows),
        output.view(r, rows, -1),
        surprise.view(r, rows),
        seen,
    )


def keys_of(sequence: Sequence, start: int, stop: int) -> tuple[int, int]:
    """First and last-plus-one key that any of the rows [start, stop) may see, by causality and window."""
    first, last = start + sequence.offset, stop - 1 + sequence.offset
    low = sequence.span(first)[0]
    return low, max(sequence.span(last)[1], low)


def hide(
    s: Tensor, sequence: Sequence, group: int, start: int, stop: int, low: int, high: int, work: Workspace
) -> Bool[Tensor, "#r rows keys"] | None:
    """Put HIDDEN on the keys out of sight, in place. Returns the visible entries only where `allowed` says more."""
    rows, first = stop - start, start + sequence.offset
    if sequence.causal and first < high:
        # Only the last columns can hold keys after a query.
        s[..., first - low :].masked_fill_(work.ahead[:rows, : high - first], HIDDEN)
    if sequence.window is not None:
        # Only the first columns can lie behind the window of the later rows, from row `skip` on.
        skip = max(0, low - (first - sequence.window + 1))
        reach = min(rows - skip, high - low)
        if reach > 0:
            s[:, skip:, :reach].masked_fill_(work.behind[: rows - skip, :reach], HIDDEN)
        ahead = max(low, first + sequence.window)
        if not sequence.causal and ahead < high:
            positions = torch.arange(first, first + rows, device=s.device)[:, None]
            columns = torch.arange(ahead, high, device=s.device)
            s[..., ahead - low :].masked_fill_(columns >= positions + sequence.window, HIDDEN)
    if sequence.allowed is None:
        return None
    padded_rows = torch.arange(start, stop, device=s.device) + sequence.first_row + sequence.padded_offset
    columns = torch.arange(low, high, device=s.device) + sequence.first_key
    seen = of_group(sequence.allowed(padded_rows, columns), sequence, group)
    s.masked_fill_(~seen, HIDDEN)
    return (s != HIDDEN) if seen.shape[0] > 1 else (s[:1] != HIDDEN)


