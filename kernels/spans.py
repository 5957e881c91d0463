"""How many keys each query may see, and how many queries each key: every rule but a Python function is a span."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from probe.kernels.inputs import Attention


def visible_keys(call: Attention) -> Int[Tensor, "B T"]:
    """Keys that each query may see, from causality, window, offset, lengths and documents alone."""
    mask, device = call.mask, call.q.device
    position = torch.arange(call.q.shape[2], device=device) + mask.query_offset
    first, end = _ends(call)
    low, high = first.expand(-1, len(position)), end.expand(-1, len(position))
    if mask.causal:
        high = torch.minimum(high, position + 1)
    if mask.window is not None:
        low = torch.maximum(low, position - mask.window + 1)
        if not mask.causal:
            high = torch.minimum(high, position + mask.window)
    if mask.documents is not None:
        documents = mask.documents.to(device).contiguous()
        own = documents[:, position].contiguous()
        low = torch.maximum(low, torch.searchsorted(documents, own))
        high = torch.minimum(high, torch.searchsorted(documents, own, right=True))
    count = (high - low).clamp(min=0)
    return count if mask.lengths is None else count * ((position >= first) & (position < end))


def seeing_queries(call: Attention) -> Int[Tensor, "B S"]:
    """Queries that may see each key, by the same rules."""
    mask, device, offset = call.mask, call.q.device, call.mask.query_offset
    column = torch.arange(call.k.shape[2], device=device)
    first, end = _ends(call)
    low = torch.full((call.q.shape[0], len(column)), offset, device=device)
    high = low + call.q.shape[2]
    if mask.lengths is not None:
        low, high = torch.maximum(low, first), torch.minimum(high, end)
    if mask.causal:
        low = torch.maximum(low, column)
    if mask.window is not None:
        high = torch.minimum(high, column + mask.window)
        if not mask.causal:
            low = torch.maximum(low, column - mask.window + 1)
    if mask.documents is not None:
        documents = mask.documents.to(device).contiguous()
        low = torch.maximum(low, torch.searchsorted(documents, documents))
        high = torch.minimum(high, torch.searchsorted(documents, documents, right=True))
    return (high - low).clamp(min=0) * ((column >= first) & (column < end))


def _ends(call: Attention) -> tuple[Int[Tensor, "B 1"], Int[Tensor, "B 1"]]:
    """First and last-plus-one valid key."""
    if call.mask.lengths is not None:
        lengths = call.mask.lengths.to(call.q.device, torch.long)
        return lengths[:, :1], lengths[:, 1:]
    none = torch.zeros(call.q.shape[0], 1, dtype=torch.long, device=call.q.device)
    return none, none + call.k.shape[2]
