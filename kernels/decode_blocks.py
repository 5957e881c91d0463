"""Decoding on any device: the keys in blocks, each block a part, the parts merged in order."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.kernels.decoded import Decoded, DecodeRequest
from probe.kernels.inputs import Attention
from probe.kernels.merge import Part, learned_sink, merge, strongest

BLOCK = 4096
"""Keys a block: its scores, float32, are 16 KiB a query."""

Top = tuple[Float[Tensor, "B H T top"], Int[Tensor, "B H T top"]]
"""Scores and keys of the strongest keys so far."""


def decode_blocks(call: Attention, request: DecodeRequest) -> Decoded:
    """The statistics of a validated call in one pass over the keys, accumulated in float32 (float64 for float64).

    Memory beside the answer: one block's scores. Gradients are not recorded.
    """
    with torch.no_grad():
        visible = torch.zeros(call.q.shape[:3], dtype=torch.long, device=call.q.device)
        parts: list[Part] = []
        score = call.q.new_empty(*call.q.shape[:3], 0, dtype=_dtype(call))
        top: Top = (score, score.long())
        for keys in _blocks(call):
            s, seen = _scores(call, keys)
            visible += seen.sum(-1)
            part = _part(call, request, keys, s, seen)
            parts = [merge(*parts, part)]
            number = torch.arange(keys.start, keys.stop, device=s.device).expand_as(s).masked_fill(~seen, -1)
            top = strongest(torch.cat([top[0], s], -1), torch.cat([top[1], number], -1), request.top)
        return finished(call, parts[0], visible, top)


def finished(call: Attention, part: Part, visible: Int[Tensor, "B H T"], top: Top) -> Decoded:
    """The answer from what all keys together did: a learned sink joins, and rows that see nothing become NaN."""
    if call.score.sinks is not None:
        part = merge(part, learned_sink(call.score.sinks[None, :, None], part))
    blind = visible == 0
    unordered = blind | (not call.mask.causal)
    lost = part.lse.isnan()
    weight = torch.where(top[0] == -torch.inf, 0, torch.exp(top[0] - part.lse[..., None]))
    return Decoded(
        z=part.output.to(call.q.dtype),
        lse=part.lse.masked_fill(blind, torch.nan),
        entropy=part.entropy.masked_fill(blind, torch.nan),
        max_weight=part.max_weight.masked_fill(blind | lost, torch.nan),
        argmax=part.argmax.masked_fill(lost, -1),
        row_mass=part.mass.masked_fill(blind | lost, torch.nan),
        distance=part.means["distance"].masked_fill(unordered, torch.nan),
        sink_mass=part.means["sink"].masked_fill(unordered, torch.nan),
        local_mass=part.means["local"].masked_fill(unordered, torch.nan),
        visible=visible,
        top_weight=weight.masked_fill(lost[..., None], torch.nan),
        top_key=top[1].masked_fill(lost[..., None], -1),
    )


def key_range(call: Attention) -> tuple[int, int]:
    """First and last-plus-one key that any query of the call may see by causality, window and key count."""
    mask, S = call.mask, call.k.shape[2]
    first, last = mask.query_offset, mask.query_offset + call.q.shape[2] - 1
    high = min(S, last + 1) if mask.causal else S
    low = 0
    if mask.window is not None:
        low = max(0, first - mask.window + 1)
        high = min(high, last + mask.window)
    return min(low, high), high


def _blocks(call: Attention) -> list[range]:
    low, high = key_range(call)
    starts = range(low, high, BLOCK) if low < high else range(0, 1)
    return [range(start, max(min(start + BLOCK, high), start + 1)) for start in starts]


def _dtype(call: Attention) -> torch.dtype:
    return torch.float64 if call.q.dtype == torch.float64 else torch.float32


def _scores(call: Attention, keys: range) -> tuple[Float[Tensor, "B H T keys"], Bool[Tensor, "B H T keys"]]:
    """Scores of a block, and who sees what."""
    (B, H, T, D), G, dtype = call.q.shape, call.k.shape[1], _dtype(call)
    q = call.q.to(dtype).reshape(B, G, -1, D)
    s = (q @ call.k[:, :, keys.start : keys.stop].to(dtype).mT).view(B, H, T, -1) * call.score.scale
    if call.score.temperature is not None:
        s = s / call.score.temperature[:, None, :, None].to(s)
    if call.score.softcap is not None:
        s = torch.tanh(s / call.score.softcap) * call.score.softcap
    j = torch.arange(keys.start, keys.stop, device=s.device)
    if call.score.bias is not None:
        s = s + call.score.bias(torch.arange(T, device=s.device), j).to(dtype)
    if call.score.slopes is not None:
        gap = torch.arange(T, device=s.device)[:, None] + call.mask.query_offset - j
        s = s - call.score.slopes[:, None, None].to(s) * gap.abs()
    return s, _visible(call, j).expand_as(s)


def _visible(call: Attention, j: Int[Tensor, "keys"]) -> Bool[Tensor, "#B #H T keys"]:
    mask = call.mask
    i = torch.arange(call.q.shape[2], device=j.device) + mask.query_offset
    gap = (i[:, None] - j)[None, None]
    seen = torch.ones_like(gap, dtype=torch.bool)
    if mask.causal:
        seen = gap >= 0
    if mask.window is not None:
        seen = seen & (gap < mask.window) & (gap > -mask.window)
    if mask.lengths is not None:
        first, end = mask.lengths.to(j.device)[:, None, :, None].unbind(2)
        rows, columns = (i >= first[..., 0, None]) & (i < end[..., 0, None]), (j >= first) & (j < end)
        seen = seen & rows[..., None] & columns[:, :, None]
    if mask.allowed is not None:
        seen = seen & mask.allowed(i, j)
    if mask.documents is not None:
        document = mask.documents.to(j.device)
        seen = seen & (document[:, i, None] == document[:, None, j])[:, None]
    return seen


def _part(call: Attention, request: DecodeRequest, keys: range, s: Tensor, seen: Tensor) -> Part:
    """The block's own softmax and what is counted of it."""
    B, H, T, n = s.shape
    j = torch.arange(keys.start, keys.stop, device=s.device)
    gap = torch.arange(T, device=s.device)[:, None] + call.mask.query_offset - j
    start = 0 if call.mask.lengths is None else call.mask.lengths.to(s.device)[:, :1, None, None]
    sink = j - start < request.sinks
    near = (gap >= 0) & (gap < request.window) & ~sink
    hidden = s.masked_fill(~seen, -torch.inf)
    peak = hidden.amax(-1)
    empty = peak == -torch.inf
    above = torch.where(seen, s - peak[..., None], 0)
    p = torch.where(seen, above.exp(), 0)
    total = p.sum(-1).masked_fill(empty, 1)
    p = p / total[..., None]
    v = call.v[:, :, keys.start : keys.stop].to(s.dtype)
    return Part(
        lse=peak + total.log(),
        mass=(~empty).to(s.dtype),
        output=(p.view(B, v.shape[1], -1, n) @ v).view(B, H, T, -1),
        entropy=total.log() - (p * above).sum(-1),
        peak=peak,
        argmax=(hidden == peak[..., None]).int().argmax(-1).add(keys.start).masked_fill(empty, -1),
        means={"distance": (p * gap).sum(-1), "sink": (p * sink).sum(-1), "local": (p * near).sum(-1)},
    )
