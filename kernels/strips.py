"""Softmax weights of a strip of query rows against every key they may see: the step all CPU passes share.

A strip is a few rows, all query heads of one key/value head, and their whole visible key range, so one matrix
product serves the group without repeating keys, and the row maximum is known before any exponential: no rescaling.
Rows live in a buffer with `pad` zero columns on the left. Read with row stride + 1, the same memory shows the
weights by distance i − j instead of by key (see `Strip.by_distance`), which is how distances cost one product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.inputs import Attention, BlockBias, BlockMask, Score
from probe.kernels.rules import block_bias, block_mask

LOG2E = math.log2(math.e)
"""Scores are kept in units of log 2: torch's exp2 takes two thirds of the time of its exp."""

TILE = 1024
"""Keys whose weights are summed, weighed and multiplied with v together, before the cache has lost them."""

HIDDEN = -1e30
"""Score of a key out of sight: exp(HIDDEN − m) is exactly 0 and, unlike −inf, HIDDEN · 0 is 0 and not NaN."""


@dataclass(frozen=True)
class Sequence:
    """One sequence of a batch, padding cut away: positions count its own tokens.

    q [H, T, D], k [G, S, D], v [G, S, Dv]; row t stands at position t + offset. first_row and first_key say where
    the cut begins in the padded tensors.
    """

    q: Float[Tensor, "H T D"]
    k: Float[Tensor, "G S D"]
    v: Float[Tensor, "G S Dv"]
    offset: int
    causal: bool
    window: int | None
    score: Score
    first_row: int
    first_key: int
    padded_offset: int
    allowed: BlockMask | None
    bias: BlockBias | None
    temperature: Float[Tensor, "T"] | None
    index: int

    @cached_property
    def n_rows(self) -> int:
        """T, queries of this sequence."""
        return self.q.shape[1]

    @cached_property
    def n_keys(self) -> int:
        """S, keys of this sequence."""
        return self.k.shape[1]

    @cached_property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.q.shape[0] // self.k.shape[0]

    def span(self, position: int) -> tuple[int, int]:
        """First and last-plus-one key that the rules show to the query at `position` (before `allowed`)."""
        low, high = 0, self.n_keys
        if self.causal:
            high = min(high, position + 1)
        if self.window is not None:
            low = max(low, position - self.window + 1)
            if not self.causal:
                high = min(high, position + self.window)
        return min(low, high), high

    def spans(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """`span` of every row at once: first and last-plus-one visible key, each [T]."""
        position = torch.arange(self.n_rows, device=device) + self.offset
        low, high = torch.zeros_like(position), torch.full_like(position, self.n_keys)
        if self.causal:
            high = torch.minimum(high, position + 1)
        if self.window is not None:
            low = (position - self.window + 1).clamp(min=0)
            if not self.causal:
                high = torch.minimum(high, position + self.window)
        return torch.minimum(low, high), high

    def blind(self, position: int) -> bool:
        """Whether the rules alone show nothing to the query at `position` (a query far past the last key)."""
        low, high = self.span(position)
        return low == high


def sequences(call: Attention) -> list[Sequence]:
    """The sequences of a batch, each cut to its own tokens; those without a query or a key are left out."""
    T, S, offset = call.q.shape[2], call.k.shape[2], call.mask.query_offset
    spans = [(0, S)] * call.q.shape[0] if call.mask.lengths is None else call.mask.lengths.tolist()
    out = []
    for b, (first, end) in enumerate(spans):
        row, row_end = max(0, first - offset), min(T, end - offset) if call.mask.lengths is not None else T
        if row >= row_end or first >= end:
            continue
        out.append(
            Sequence(
                q=call.q[b, :, row:row_end],
                k=call.k[b, :, first:end],
                v=call.v[b, :, first:end],
                offset=row + offset - first,
                causal=call.mask.causal,
                window=call.mask.window,
                score=call.score,
                first_row=row,
                first_key=first,
                padded_offset=offset,
                allowed=block_mask(call.mask),
                bias=block_bias(call),
                temperature=None if call.score.temperature is None else call.score.temperature[b, row:row_end],
                index=b,
            )
        )
    return out


def rows_per_strip(sequence: Sequence) -> int:
    """Rows of a strip: about 512 rows over the heads of a group, a power of two between 16 and 128.

    From the shapes alone: equal shapes give equal bits. Fewer rows leave more time between the products than in
    them, more waste the masked half of the diagonal (measured from 32 to 512 rows a head).
    """
    return max(16, min(128, 1 << int(math.log2(max(16, 512 / sequence.group)))))


class Workspace:
    """Two reusable buffers, [heads · rows, pad + keys], for the scores and the weights of a strip, and its masks."""

    def __init__(self, heads: int, rows: int, keys: int, like: Tensor) -> None:
        """Allocate buffers for strips of up to `rows` rows of `heads` heads; the zero pad is `rows` wide."""
        self.pad = rows
        self.scores = torch.empty(heads * rows, rows + keys, dtype=like.dtype, device=like.device)
        self.weights = torch.empty_like(self.scores)
        self.weights[:, :rows] = 0
        square = torch.ones(rows, rows, dtype=torch.bool, device=like.device)
        self.ahead, self.behind = square.triu(1), square.tril(-1)


def workspace(served: list[Sequence], like: Tensor) -> Workspace:
    """Buffers large enough for the strips of any of these sequences (of one call, so of one group size)."""
    rows = max(min(rows_per_strip(sequence), sequence.n_rows) for sequence in served)
    return Workspace(served[0].group, rows, max(sequence.n_keys for sequence in served), like)


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
    q, kt, v = tensors
    r, rows = q.shape[0], stop - start
    first, last = start + sequence.offset, stop - 1 + sequence.offset
    low, high = sequence.span(first)[0], max(sequence.span(last)[1], sequence.span(first)[0])
    keys = high - low
    s = work.scores[: r * rows, work.pad : work.pad + keys]
    p = work.weights[: r * rows, work.pad : work.pad + keys]
    scaled = q[:, start:stop] * factor(sequence)
    if sequence.temperature is not None:
        scaled /= sequence.temperature[start:stop, None].to(scaled)
    torch.mm(scaled.reshape(r * rows, -1), kt[:, low:high], out=s)
    shape, strides = (r, rows, keys), (rows * s.stride(0), s.stride(0), 1)  # a size of 1 has no stride of its own
    s3, p3 = s.as_strided(shape, strides), p.as_strided(shape, strides)
    if shaped(sequence):
        _shape_scores(s3, sequence, group, start, stop, low, high)
        if not sequence.score.sigmoid:
            s *= LOG2E
    seen = _hide(s3, sequence, group, start, stop, low, high, work)
    normal = not sequence.score.sigmoid
    m = s.amax(1, keepdim=True) if keys and normal else s.new_full((r * rows, 1), HIDDEN if normal else 0)
    # Where nothing is visible m is HIDDEN itself, and exp2(0) would weigh every key.
    empty = m == HIDDEN if normal and (seen is not None or sequence.blind(last)) else None
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
        p3,
        m.view(r, rows),
        mass.view(r, rows),
        total.view(r, rows),
        output.view(r, rows, -1),
        surprise.view(r, rows),
        seen,
    )


def shaped(sequence: Sequence) -> bool:
    """Whether anything acts on the scaled scores before the softmax (soft cap or bias)."""
    return sequence.score.softcap is not None or sequence.bias is not None


def factor(sequence: Sequence) -> float:
    """What q is multiplied with: the scale, and log2(e) where nothing acts between q·k and the softmax."""
    return sequence.score.scale * (1.0 if shaped(sequence) or sequence.score.sigmoid else LOG2E)


Prepared = tuple[Float[Tensor, "r T D"], Float[Tensor, "D S"], Float[Tensor, "S Dv"]]
"""q, k transposed, v of one group: see `prepared`."""


def prepared(sequence: Sequence, group: int, dtype: torch.dtype) -> Prepared:
    """q [r, T, D] of a group, k transposed [D, S], v [S, Dv], in `dtype`; no copy where they are that already."""
    r = sequence.group
    q = sequence.q[group * r : (group + 1) * r].to(dtype)
    return q, sequence.k[group].to(dtype).t(), sequence.v[group].to(dtype)


def _shape_scores(s: Tensor, sequence: Sequence, group: int, start: int, stop: int, low: int, high: int) -> None:
    """Soft cap, then bias, in place."""
    if sequence.score.softcap is not None:
        s.div_(sequence.score.softcap).tanh_().mul_(sequence.score.softcap)
    if sequence.bias is not None:
        rows = torch.arange(start, stop, device=s.device) + sequence.first_row
        columns = torch.arange(low, high, device=s.device) + sequence.first_key
        s += _of_group(sequence.bias(rows, columns), sequence, group).to(s)


def _hide(
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
    seen = _of_group(sequence.allowed(padded_rows, columns), sequence, group)
    s.masked_fill_(~seen, HIDDEN)
    return (s != HIDDEN) if seen.shape[0] > 1 else (s[:1] != HIDDEN)


def _of_group(block: Tensor, sequence: Sequence, group: int) -> Tensor:
    """[#B, #H, rows, columns] (or fewer leading axes) -> this sequence's and these heads' part, [#r, rows, columns]."""
    block = block[(None,) * (4 - block.ndim)]
    block = block[sequence.index if block.shape[0] > 1 else 0]
    r = sequence.group
    return block[group * r : (group + 1) * r] if block.shape[0] > 1 else block
