"""The sequences of a batch, each cut to its own tokens, and how many rows of one are computed together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.inputs import Attention, BlockBias, BlockMask, Score
from probe.kernels.rules import block_bias, block_mask


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
