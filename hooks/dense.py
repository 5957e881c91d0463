"""Attention weights written out, for chosen rows: what is looked at, compared, and soft-capped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from .call import AttentionCall


def visible_rows(call: AttentionCall, rows: Int[Tensor, "rows"]) -> Bool[Tensor, "#B #H rows S"]:
    """Which keys the query rows of a call may see, from its mask or, without one, from `causal`."""
    columns = torch.arange(call.k.shape[2], device=call.q.device)
    if call.mask is not None:
        return call.mask.block(rows, columns).to(call.q.device)
    if not call.causal:
        return torch.ones(1, 1, len(rows), len(columns), dtype=torch.bool, device=call.q.device)
    offset = call.k.shape[2] - call.q.shape[2]
    return (columns[None, :] <= rows[:, None] + offset)[None, None]


def pattern_rows(
    call: AttentionCall,
    rows: Int[Tensor, "rows"] | None = None,
    visible: Bool[Tensor, "#B #H rows S"] | None = None,
) -> Float[Tensor, "B H rows S"]:
    """softmax(softcap * tanh(scale * q.k / softcap) + bias) of the rows, in float32 (float64 for float64).

    visible: who may see whom, None to ask the call.
    """
    queries = call.q.shape[2]
    rows = torch.arange(queries, device=call.q.device) if rows is None else rows.to(call.q.device)
    wide = torch.promote_types(call.q.dtype, torch.float32)
    batch, heads, _, width = call.q.shape
    groups, keys = call.k.shape[1:3]
    q = call.q[:, :, rows].to(wide).reshape(batch, groups, heads // groups, len(rows), width)
    scores = (q @ call.k.to(wide)[:, :, None].transpose(-1, -2)).flatten(1, 2) * call.scale
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    if call.bias is not None:
        scores = scores + call.bias[:, :, rows, :keys].to(wide)
    visible = visible_rows(call, rows) if visible is None else visible
    # A finite floor keeps rows that see nothing free of NaN, forward and backward.
    scores = scores.masked_fill(~visible, torch.finfo(wide).min)
    if call.sinks is not None:
        sinks = call.sinks.to(wide).reshape(1, heads, 1, 1).expand(batch, heads, len(rows), 1)
        weights = torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :keys]
    else:
        weights = scores.softmax(-1)
    return weights.masked_fill(~visible, 0.0)
