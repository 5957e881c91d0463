"""Scores of a strip of rows: the product of q and k, and what acts on it before a softmax or a gate."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.sequences import Sequence

LOG2E = math.log2(math.e)
"""Scores are kept in units of log 2: torch's exp2 takes two thirds of the time of its exp."""

Prepared = tuple[Float[Tensor, "r T D"], Float[Tensor, "D S"], Float[Tensor, "S Dv"]]
"""q, k transposed, v of one group: see `prepared`."""


def put_scores(
    out: Float[Tensor, "rows keys"], sequence: Sequence, group: int, rows: slice, keys: slice, tensors: Prepared
) -> None:
    """Write the scores of all heads' rows of a group into `out`, head by head.

    Shaped by temperature, soft cap and bias; in units of log 2 but for sigmoid gates. Nothing is hidden yet. Where
    `out` is part of a wider buffer, its rows keep that buffer's stride.
    """
    q, kt, _ = tensors
    scaled = q[:, rows] * factor(sequence)
    if sequence.temperature is not None:
        scaled /= sequence.temperature[rows, None].to(scaled)
    torch.mm(scaled.reshape(out.shape[0], -1), kt[:, keys], out=out)
    if shaped(sequence):
        _shape_scores(heads_of(out, q.shape[0]), sequence, group, rows, keys)
        if not sequence.score.sigmoid:
            out *= LOG2E


def heads_of(lines: Float[Tensor, "rows keys"], heads: int) -> Float[Tensor, "r rows keys"]:
    """The same memory, one axis more: what `view` says for a dense tensor."""
    rows = lines.shape[0] // heads
    strides = (rows * lines.stride(0), lines.stride(0), 1)  # a size of 1 has no stride of its own
    return lines.as_strided((heads, rows, lines.shape[1]), strides)


def shaped(sequence: Sequence) -> bool:
    """Whether anything acts on the scaled scores before the softmax (soft cap or bias)."""
    return sequence.score.softcap is not None or sequence.bias is not None


def factor(sequence: Sequence) -> float:
    """What q is multiplied with: the scale, and log2(e) where nothing acts between q·k and the softmax."""
    return sequence.score.scale * (1.0 if shaped(sequence) or sequence.score.sigmoid else LOG2E)


def prepared(sequence: Sequence, group: int, dtype: torch.dtype) -> Prepared:
    """q [r, T, D] of a group, k transposed [D, S], v [S, Dv], in `dtype`; no copy where they are that already."""
    r = sequence.group
    q = sequence.q[group * r : (group + 1) * r].to(dtype)
    return q, sequence.k[group].to(dtype).t(), sequence.v[group].to(dtype).contiguous()


def _shape_scores(s: Tensor, sequence: Sequence, group: int, rows: slice, keys: slice) -> None:
    """Soft cap, then bias, in place."""
    if sequence.score.softcap is not None:
        s.div_(sequence.score.softcap).tanh_().mul_(sequence.score.softcap)
    if sequence.bias is not None:
        own = torch.arange(rows.start, rows.stop, device=s.device) + sequence.first_row
        columns = torch.arange(keys.start, keys.stop, device=s.device) + sequence.first_key
        s += of_group(sequence.bias(own, columns), sequence, group).to(s)


def of_group(block: Tensor, sequence: Sequence, group: int) -> Tensor:
    """[#B, #H, rows, columns] (or fewer leading axes) -> this sequence's and these heads' part, [#r, rows, columns]."""
    block = block[(None,) * (4 - block.ndim)]
    block = block[sequence.index if block.shape[0] > 1 else 0]
    r = sequence.group
    return block[group * r : (group + 1) * r] if block.shape[0] > 1 else block
