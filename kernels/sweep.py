"""The strips of one key/value head, one after the other: a stage for each, and what few calls ask for beside it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.effects import strip_effects
from probe.kernels.raw import Raw
from probe.kernels.sequences import Sequence, rows_per_strip
from probe.kernels.stages import Stage
from probe.kernels.strips import Strip
from probe.kernels.sums import Item, Sums


def sweep(item: Item, raw: Raw, stage: Stage, work: Any) -> Sums:
    """All strips of the item. Rows go straight into `raw`, sums over rows are the caller's to join.

    work: buffers of `stage`, this sweep's alone while it runs.
    """
    sums, step = Sums(item, raw), rows_per_strip(item.sequence)
    strips = stage.strips(sums, work)
    for start in range(item.way * step, item.sequence.n_rows, item.ways * step):
        strips.run(start, min(start + step, item.sequence.n_rows))
        if sums.watched:
            part, inverse = strips.last()
            _add_seen(sums, part)
            _add_by_key(sums, part, inverse)
            _add_effects(sums, part, inverse)
    return sums


def _add_seen(sums: Sums, part: Strip) -> None:
    """Visible entries, where a rule beyond spans says which."""
    if part.seen is None or sums.seen_rows is None:
        return
    place = sums.sequence.index, sums.item.heads, sums.rows_of(part.start, part.stop)
    sums.raw.visible[place] = part.seen.sum(-1)
    sums.seen_rows[:, part.low : part.high] += part.seen.sum(-2)


def _add_by_key(sums: Sums, part: Strip, inverse: Tensor) -> None:
    """Largest key of each row; maximum and counts over rows by key: each a pass of its own over the weights."""
    raw, request, keys = sums.raw, sums.item.request, slice(part.low, part.high)
    if raw.argmax is not None and part.high > part.low:
        place = sums.sequence.index, sums.item.heads, sums.rows_of(part.start, part.stop)
        raw.argmax[place] = part.weights.argmax(-1) + part.low + sums.sequence.first_key
    if sums.received_max is None and not request.thresholds:
        return
    P = part.weights * inverse[..., None]
    if sums.received_max is not None:
        most = sums.received_max[:, keys]
        torch.maximum(most, P.amax(1).to(most), out=most)
    for number, threshold in enumerate(request.thresholds):
        sums.counts[:, number, keys] += P.gt(threshold).sum(1)


def _add_effects(sums: Sums, part: Strip, inverse: Tensor) -> None:
    """Effects along the request's direction, of one strip."""
    request, b, heads = sums.item.request, sums.sequence.index, sums.item.heads
    rows = sums.rows_of(part.start, part.stop)
    if request.direction is None:
        return
    direction, mean = request.direction[b, heads, rows].to(sums.v.dtype), None
    if request.mean is not None:
        shape = (*sums.raw.z.shape[:3], sums.v.shape[1])
        mean = request.mean.expand(shape)[b, heads, rows].to(sums.v.dtype)
    near = max(0, min(request.sinks, part.high) - part.low)
    local = sums.local_part[:, rows]
    sums.effects += strip_effects(part, inverse, sums.v, local, _local_mass(sums, part, inverse), near, direction, mean)


def _local_mass(sums: Sums, part: Strip, inverse: Tensor) -> Tensor:
    """Mass of the window without the sinks, as a stage cuts it."""
    i = torch.arange(part.start, part.stop, device=sums.v.device)[:, None] + sums.sequence.offset
    window_start = part.start + sums.sequence.offset - sums.item.request.window + 1
    begin = min(max(sums.item.request.sinks, part.low, window_start), part.high)
    j = torch.arange(begin, part.high, device=sums.v.device)
    inside = i - j < sums.item.request.window
    return (part.weights[..., begin - part.low :] * inside).sum(-1) * inverse


def band_of_key(sequence: Sequence, bands: int, dtype: torch.dtype) -> Float[Tensor, "S bands"] | None:
    """One-hot ⌊bands · i / S⌋ of every position of a whole sequence; None for a part of one, or no bands."""
    if not bands or sequence.n_rows != sequence.n_keys or sequence.offset:
        return None
    position = torch.arange(sequence.n_keys, device=sequence.q.device)
    out = torch.zeros(sequence.n_keys, bands, dtype=dtype, device=sequence.q.device)
    out[position, bands * position // sequence.n_keys] = 1
    return out
