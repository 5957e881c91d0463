"""z from weights that are written out a strip of query rows at a time, for rules that change single weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .call import AttentionCall
from .dense import pattern_rows, visible_rows

STRIP = 1 << 21
"""Weights written out at once: 8 MiB in float32."""


def z_by_strips(
    call: AttentionCall, weights: Callable[[Int[Tensor, "rows"]], Float[Tensor, "#B #H rows S"]]
) -> Float[Tensor, "B H T Dv"]:
    """The weights of each query row times v, summed in float32 or wider, in v's dtype.

    call: one key/value head for each query head, as `narrowed` gives. weights: called with query rows.
    """
    batch, heads, queries, _ = call.q.shape
    step = max(1, STRIP // (batch * heads * call.k.shape[2]))
    wide = torch.promote_types(call.v.dtype, torch.float32)
    v = call.v.to(wide)
    strips = []
    for first in range(0, queries, step):
        rows = torch.arange(first, min(first + step, queries), device=call.q.device)
        shown = torch.nn.functional.dropout(weights(rows).to(wide), call.dropout, training=call.dropout > 0)
        strips.append(shown @ v)
    return torch.cat(strips, dim=2).to(call.v.dtype)


def shown(bias: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """Where a bias added to the scores does not stand for "hidden", as a mask in it does by minus infinity."""
    return bias > torch.finfo(bias.dtype).min / 2


def left_keys(
    call: AttentionCall, rows: Int[Tensor, "rows"], kept: Bool[Tensor, "#B #H rows S"]
) -> Bool[Tensor, "#B #H rows S"]:
    """Which keys the rows may see of those that are kept; a row left with none sees its own.

    With learned sinks no row is left with none: the sink takes what the keys gave.
    """
    visible = visible_rows(call, rows)
    if call.bias is not None:
        visible = visible & shown(call.bias[:, :, rows, : call.k.shape[2]])
    left = visible & kept
    if call.sinks is not None:
        return left
    own = torch.arange(call.k.shape[2], device=rows.device) == (rows + call.offset)[:, None]
    return left | (visible & own & ~left.any(-1, keepdim=True))


def kept_rows(
    call: AttentionCall, rows: Int[Tensor, "rows"], kept: Bool[Tensor, "#B #H rows S"]
) -> Float[Tensor, "B H rows S"]:
    """The attention weights of the rows over the keys that are kept, renormalised: see `left_keys`."""
    return pattern_rows(call, rows, left_keys(call, rows, kept))
