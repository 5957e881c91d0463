"""The plain attention output through torch's fused kernels, called as transformers' sdpa path does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import HookError

if TYPE_CHECKING:
    from .call import AttentionCall

SINK_LANES = 8
"""Columns added to q and k for a learned sink: one is needed, eight keep a width that fused kernels take."""


def fused_attention(call: AttentionCall) -> Float[Tensor, "B H T Dv"]:
    """z of a call without soft cap, by `scaled_dot_product_attention`.

    A plain causal or full mask stays a flag, so that the fast kernel is kept. Raises HookError where the
    model passed no mask for a causal call with T != S, T > 1, which frameworks align differently.
    """
    mask = None if call.mask is None else call.mask.sdpa()
    queries, keys = call.q.shape[2], call.k.shape[2]
    causal = mask is None and queries > 1 and (call.causal if call.mask is None else call.mask.causal_when_skipped)
    k, v, bias = call.k, call.v, call.bias
    if causal and queries != keys:
        if call.mask is None or keys < queries:
            raise HookError(
                f"{call.site.name}: a causal call of {queries} queries and {keys} keys without a mask; "
                "its alignment is not known"
            )
        # An empty static cache: the keys after the queries are unused room.
        k, v = k[:, :, :queries], v[:, :, :queries]
        bias = None if bias is None else bias[..., :queries]
    if mask is not None:
        mask = mask.to(call.q.device)
    if bias is not None:
        mask, causal = _bias_mask(bias, mask, causal, k.shape[2]), False
    if call.sinks is not None:
        return _with_sinks(call, call.sinks, k, v, mask, causal)
    return _sdpa(call.q, k, v, mask, causal, call.scale, call.dropout)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, dropout: float) -> Tensor:
    group = q.shape[1] // k.shape[1]
    # As transformers decides: elsewhere a grouped call falls back to a kernel that writes T x S scores.
    grouped = group > 1 and mask is None and k.shape[-1] == v.shape[-1] <= 256
    if group > 1 and not grouped:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def _bias_mask(bias: Tensor, mask: Tensor | None, causal: bool, keys: int) -> Tensor:
    floor = torch.finfo(bias.dtype).min
    if causal:
        size = bias.shape[-2]
        mask = torch.ones(size, keys, dtype=torch.bool, device=bias.device).tril()
    if mask is None:
        return bias
    return torch.where(mask, bias, floor) if mask.dtype == torch.bool else bias + mask


def _with_sinks(call: AttentionCall, sinks: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """A learned sink is one more key that scores sinks[h] with every query of head h, and has v = 0.

    Lanes added to q (sinks[h] / scale) and k (1 at that key only) make it so per query head without repeating
    keys, with gradients, in the fused kernel. The key goes first, with a query of its own if causal.
    """
    q = torch.nn.functional.pad(call.q, (0, SINK_LANES))
    lane = torch.nn.functional.one_hot(torch.tensor(call.q.shape[-1], device=q.device), q.shape[-1]).to(q.dtype)
    q = q + lane * (sinks.to(q.dtype) / call.scale)[None, :, None, None]
    k = torch.nn.functional.pad(k, (0, SINK_LANES))
    k = torch.cat([lane.expand(*k.shape[:2], 1, -1), k], dim=2)
    v = torch.nn.functional.pad(v, (0, k.shape[-1] - v.shape[-1], 1, 0))
    if causal:
        q = torch.nn.functional.pad(q, (0, 0, 1, 0))
    if mask is not None:
        mask = torch.nn.functional.pad(mask, (1, 0), value=True if mask.dtype == torch.bool else 0.0)
    z = _sdpa(q, k, v, mask, causal, call.scale, call.dropout)
    return z[:, :, 1 if causal else 0 :, : call.v.shape[-1]]
