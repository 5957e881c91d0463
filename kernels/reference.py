"""The definition of every statistic: dense, float64, one formula a line. The oracle of all backends.

It builds the whole [T, S] matrix, so it is for short inputs and for tests.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.inputs import Attention, Lookup, Request
from probe.kernels.statistics import Statistics


def visibility(call: Attention) -> Bool[Tensor, "B H T S"]:
    """Who sees whom, from the rules of `Mask`, dense."""
    B, H, T, _ = call.q.shape
    S = call.k.shape[2]
    mask = call.mask
    i = torch.arange(T, device=call.q.device) + mask.query_offset
    j = torch.arange(S, device=call.q.device)
    seen = torch.ones(B, H, T, S, dtype=torch.bool, device=call.q.device)
    distance = i[:, None] - j[None, :]
    if mask.causal:
        seen &= distance >= 0
    if mask.window is not None:
        seen &= distance < mask.window
        if not mask.causal:
            seen &= distance > -mask.window
    if mask.lengths is not None:
        first, end = mask.lengths.to(i.device)[:, :1], mask.lengths.to(i.device)[:, 1:]
        rows, columns = (i >= first) & (i < end), (j >= first) & (j < end)
        seen &= (rows[:, :, None] & columns[:, None, :])[:, None]
    if mask.allowed is not None:
        seen &= mask.allowed(i, j)
    if mask.documents is not None:
        document = mask.documents.to(i.device)
        seen &= (document[:, i, None] == document[:, None, :])[:, None]
    return seen


def scores(call: Attention) -> Float[Tensor, "B H T S"]:
    """s = softcap·tanh(scale·q·k/(τ·softcap)) + bias − slope·|i − j|, float64, before any mask."""
    groups = call.q.shape[1] // call.k.shape[1]
    k = call.k.double().repeat_interleave(groups, dim=1)
    s = call.q.double() @ k.mT * call.score.scale
    if call.score.temperature is not None:
        s = s / call.score.temperature.double()[:, None, :, None]
    if call.score.softcap is not None:
        s = torch.tanh(s / call.score.softcap) * call.score.softcap
    if call.score.bias is not None:
        rows = torch.arange(call.q.shape[2], device=s.device)
        s = s + call.score.bias(rows, torch.arange(call.k.shape[2], device=s.device)).double()
    if call.score.slopes is not None:
        i = torch.arange(call.q.shape[2], device=s.device)[:, None] + call.mask.query_offset
        distance = (i - torch.arange(call.k.shape[2], device=s.device)).abs()
        s = s - call.score.slopes.double()[:, None, None] * distance
    return s


def pattern(call: Attention) -> Float[Tensor, "B H T S"]:
    """P[i, j], float64: weights as the model uses them; 0 where not visible; rows that see nothing are 0."""
    return _weights(call)[0]


def output(call: Attention) -> Float[Tensor, "B H T Dv"]:
    """z_i = Σ_j P[i, j] v_j, float64."""
    return pattern(call) @ _values(call)


def _values(call: Attention) -> Float[Tensor, "B H S Dv"]:
    return call.v.double().repeat_interleave(call.q.shape[1] // call.k.shape[1], dim=1)


def _weights(call: Attention) -> tuple[Float[Tensor, "B H T S"], Float[Tensor, "B H T"]]:
    seen, s = visibility(call), scores(call)
    if call.score.sigmoid:
        return torch.sigmoid(s) * seen, torch.full(s.shape[:3], torch.nan, dtype=s.dtype, device=s.device)
    s = s.masked_fill(~seen, -torch.inf)
    lse = s.logsumexp(-1)
    if call.score.sinks is not None:
        lse = torch.logaddexp(lse, call.score.sinks.double()[None, :, None])
    empty = ~seen.any(-1)
    return torch.exp(s - lse.masked_fill(empty, 0)[..., None]), lse


def statistics(call: Attention, request: Request) -> tuple[Float[Tensor, "B H T Dv"], Statistics]:
    """Output and every statistic of `Statistics`, dense in float64. Returns (z, statistics)."""
    seen, (P, lse), v = visibility(call), _weights(call), _values(call)
    B, H, T, S = P.shape
    first = torch.zeros(B, dtype=torch.long) if call.mask.lengths is None else call.mask.lengths[:, 0].cpu()
    start = first.to(P.device)[:, None, None, None]
    i = (torch.arange(T, device=P.device) + call.mask.query_offset)[None, None, :, None]
    j = torch.arange(S, device=P.device)[None, None, None, :]
    d = (i - j).expand(B, 1, T, S)
    ordered = call.mask.causal and not call.score.sigmoid
    normal, square = not call.score.sigmoid, T == S and call.mask.query_offset == 0
    sink = (j - start < request.sinks).expand(B, 1, T, S)
    near = (d >= 0) & (d < request.window)
    local = near & ~sink

    def mass(where: Tensor, defined: bool = True) -> Float[Tensor, "B H T"]:
        value = (P * where).sum(-1)
        return value.masked_fill(~seen.any(-1), torch.nan) if defined else torch.full_like(value, torch.nan)

    everything = torch.ones_like(d, dtype=torch.bool)
    z = P @ v
    by_distance = ordered and request.distances
    parts = call.mask.causal and request.parts
    return z, Statistics(
        lse=lse.masked_fill(~seen.any(-1), torch.nan),
        entropy=_or_nan(-torch.xlogy(P, P).sum(-1), seen, normal),
        max_weight=_or_nan(P.amax(-1), seen, normal),
        distance=_or_nan((P * d).sum(-1), seen, ordered),
        first=mass(j == start),
        previous=mass(d == 1, call.mask.causal),
        current=mass(d == 0, call.mask.causal),
        local=mass(near, call.mask.causal),
        row_mass=mass(everything),
        sink_mass=mass(sink, call.mask.causal),
        local_mass=mass(local, call.mask.causal),
        sink_part=_part(P * sink, v, seen, parts),
        local_part=_part(P * local, v, seen, parts),
        lookup={name: mass(_matches(lookup, d)) for name, lookup in request.lookups.items()},
        visible=seen.sum(-1),
        received=P.sum(-2),
        received_rows=seen.sum(-2),
        by_distance=_by_distance(P, i - start, call.mask.query_offset, S)
        if by_distance
        else torch.full((B, H, S), torch.nan, device=P.device),
        thumbnail=_thumbnails(P, call, request.bands) if request.bands and square else None,
        argmax=P.argmax(-1).masked_fill(~seen.any(-1), -1) if request.argmax else None,
        received_max=P.amax(-2).masked_fill(~seen.any(-2), torch.nan) if request.received_max else None,
        received_value=P.sum(-2) * v.norm(dim=-1) if request.received_value else None,
        received_counts=_counts(P, request.thresholds) if request.thresholds else None,
        streaming=None if request.parts else _streaming(call, P, lse, v, sink | near),
        effects=None if request.direction is None else _effects(call, request, P, lse, v, sink, near),
    )


def _counts(P: Tensor, thresholds: tuple[float, ...]) -> Tensor:
    return torch.stack([P.gt(threshold).sum(-2) for threshold in thresholds], 2)


def _without(call: Attention, P: Tensor, lse: Tensor, v: Tensor, kept: Tensor) -> Tensor:
    """z of the kept keys alone, renormalised beside a learned sink; a query that has none of them keeps its z."""
    left, learned = P * kept, torch.zeros_like(lse)
    if call.score.sinks is not None:
        learned = torch.exp(call.score.sinks.double()[None, :, None] - lse)
    total = left.sum(-1) + learned
    return torch.where((total > 0)[..., None], left @ v / total[..., None], P @ v)


def _streaming(call: Attention, P: Tensor, lse: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    z, seen = P @ v, visibility(call).any(-1)
    lost = torch.where(seen, (z - _without(call, P, lse, v, keep)).square().sum(-1), 0).sum(-1)
    if call.score.sigmoid or not call.mask.causal:
        lost = torch.full_like(lost, torch.nan)
    return torch.stack([lost, torch.where(seen, z.square().sum(-1), 0).sum(-1)], -1)


def _effects(
    call: Attention, request: Request, P: Tensor, lse: Tensor, v: Tensor, sink: Tensor, near: Tensor
) -> dict[str, Tensor]:
    z, seen = P @ v, visibility(call).any(-1)
    if request.direction is None:
        return {}
    g = request.direction.double()

    def effect(instead: Tensor | None) -> Tensor:
        if instead is None:
            return torch.full(z.shape[:2], torch.nan, dtype=z.dtype, device=z.device)
        return torch.where(seen, ((z - instead) * g).sum(-1), 0).sum(-1)

    normal = call.mask.causal and not call.score.sigmoid
    return {
        "zero": effect(torch.zeros_like(z)),
        "mean": effect(None if request.mean is None else request.mean.double()),
        "sink_removed": effect(_without(call, P, lse, v, ~sink) if normal else None),
        "streaming": effect(_without(call, P, lse, v, sink | near) if normal else None),
    }


def _or_nan(value: Tensor, seen: Tensor, defined: bool) -> Tensor:
    return value.masked_fill(~seen.any(-1), torch.nan) if defined else torch.full_like(value, torch.nan)


def _part(P: Tensor, v: Tensor, seen: Tensor, defined: bool) -> Tensor:
    part = P @ v
    return part.masked_fill(~seen.any(-1)[..., None], torch.nan) if defined else torch.full_like(part, torch.nan)


def _matches(lookup: Lookup, d: Tensor) -> Tensor:
    query, key = lookup.query_label[:, None, :, None], lookup.key_label[:, None, None, :]
    return (query == key) & (query >= 0) & (d >= lookup.gap)


def _by_distance(P: Tensor, own_position: Tensor, offset: int, S: int) -> Tensor:
    later = P * (own_position >= 1)
    return torch.stack([later.diagonal(offset - gap, -2, -1).sum(-1) for gap in range(S)], -1)


def _thumbnails(P: Tensor, call: Attention, bands: int) -> Tensor:
    out = torch.full((*P.shape[:2], bands, bands), torch.nan, dtype=P.dtype, device=P.device)
    for b in range(P.shape[0]):
        first, end = (0, P.shape[3]) if call.mask.lengths is None else call.mask.lengths[b].tolist()
        own = torch.arange(end - first, device=P.device)
        band = bands * own // max(end - first, 1)
        for a in sorted(set(band.tolist())):
            rows = P[b, :, first:end, first:end][:, band == a].mean(1)
            out[b, :, a] = torch.zeros_like(out[b, :, a]).index_add_(1, band, rows)
    return out
