"""Every statistic in one sweep over row strips: exact, float32 accumulation, memory linear in length.

Runs on any torch device; on a CPU the heads are shared among one Python thread a core, each with one intra-op
thread (many small products collapse under intra-op threading on a busy machine). Work is cut into items that do
not depend on the number of threads, and their sums are joined in a fixed order: equal bits for any thread count.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.inputs import Attention, Request
from probe.kernels.lookup import Pairs, pairs_of
from probe.kernels.statistics import Statistics
from probe.kernels.strips import Sequence, Strip, Workspace, prepared, sequences, strip

WAYS = 4
"""Each key/value head's strips are dealt to this many items, so that few heads still keep several cores busy."""

LN2 = math.log(2)


def blockwise(call: Attention, request: Request) -> tuple[Float[Tensor, "B H T Dv"], Statistics]:
    """Output and statistics of a validated call. Returns (z in the dtype of q, statistics).

    Accumulates in float32 (float64 for float64 inputs); sums over rows are float64.
    """
    dtype = torch.float64 if call.q.dtype == torch.float64 else torch.float32
    out = _Output(call, request, dtype)
    items = []
    for sequence in sequences(call):
        pairs = {name: pairs_of(lookup, sequence) for name, lookup in request.lookups.items()}
        out.count(sequence)
        items += [
            _Item(sequence, g, way, pairs, request) for g in range(call.k.shape[1]) for way in range(WAYS)
        ]
    for item, sums in zip(items, _run(items, out), strict=True):
        out.add(item, sums)
    return out.z.to(call.q.dtype), out.finish()


def rows_per_strip(group: int) -> int:
    """Rows of a strip: about 256 rows over the heads of a group, between 16 and 128 (measured; flat nearby)."""
    return max(16, min(128, 2 ** int(math.log2(256 / group)))) if group <= 16 else 16


@dataclass(frozen=True)
class _Item:
    """Every WAYS-th strip of one key/value head of one sequence."""

    sequence: Sequence
    group: int
    way: int
    pairs: dict[str, Pairs]
    request: Request


@dataclass
class _Sums:
    """Sums over the rows of an item, float64, by key (`received`, `rows`), by distance, by band."""

    received: Tensor
    by_distance: Tensor
    thumbnail: Tensor | None
    rows: Tensor | None


def _run(items: list[_Item], out: _Output) -> list[_Sums]:
    threads = min(torch.get_num_threads(), len(items)) if out.z.device.type == "cpu" else 1
    if threads <= 1:
        return [_sweep(item, out) for item in items]
    mine, grad = torch.get_num_threads(), torch.is_grad_enabled()

    def work(item: _Item) -> _Sums:
        with torch.set_grad_enabled(grad):
            return _sweep(item, out)

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            return list(pool.map(work, items))
        finally:
            torch.set_num_threads(mine)  # the workers' call also set the number that new threads start with


def _sweep(item: _Item, out: _Output) -> _Sums:
    """All strips of an item: writes raw rows into `out`, returns the sums over rows."""
    sequence, r = item.sequence, item.sequence.group
    rows = rows_per_strip(r)
    q, kt, v = prepared(sequence, item.group, out.dtype)
    work = Workspace(r, min(rows, sequence.n_rows), sequence.n_keys, v)
    sums = _empty_sums(item, out)
    keys = torch.arange(sequence.n_keys, dtype=out.dtype, device=v.device)
    bands = (
        out.bands * torch.arange(sequence.n_keys, device=v.device) // sequence.n_keys if out.bands else None
    )
    for start in range(item.way * rows, sequence.n_rows, WAYS * rows):
        part = strip(sequence, item.group, start, min(start + rows, sequence.n_rows), work, kt, q)
        place = (
            sequence.index,
            slice(item.group * r, (item.group + 1) * r),
            slice(sequence.first_row + part.start, sequence.first_row + part.stop),
        )
        inverse = part.total.reciprocal()
        if sequence.blind(part.stop - 1 + sequence.offset) or part.seen is not None:
            inverse.masked_fill_(part.total == 0, 0)
        _write_rows(part, place, item, out, v, inverse)
        if sequence.causal:
            _write_ordered(part, place, item.request, out, v, inverse, keys, work)
        _add_sums(part, sums, bands if sums.thumbnail is not None else None, inverse)
    return sums


def _empty_sums(item: _Item, out: _Output) -> _Sums:
    r, S = item.sequence.group, item.sequence.n_keys
    square = out.bands and item.sequence.n_rows == S and item.sequence.offset == 0

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=out.z.device)

    return _Sums(
        received=zeros(r, S),
        by_distance=zeros(r, S),
        thumbnail=zeros(r, out.bands, out.bands) if square else None,
        rows=zeros(r, S) if item.sequence.allowed is not None else None,
    )


Place = tuple[int, slice, slice]
"""Where a strip stands in a [B, H, T] tensor."""


def _write_rows(part: Strip, place: Place, item: _Item, out: _Output, v: Tensor, inverse: Tensor) -> None:
    """Output and raw (not yet normalised) row sums of one strip; `_Output.finish` does the arithmetic at the end."""
    weights, raw = part.weights, out.raw
    z = torch.mm(weights.flatten(0, 1), v[part.low : part.high]).view(*inverse.shape, -1)
    torch.mul(z, inverse[..., None], out=out.z[place])
    raw["total"][place] = part.total
    if part.low == 0 and part.high:
        raw["first"][place] = weights[..., 0]
    if part.sequence.score.sigmoid:
        raw["mass"][place] = weights.sum(-1)
    else:
        raw["shift"][place] = part.shift
        if part.sequence.score.sinks is not None:
            raw["mass"][place] = weights.sum(-1)
            raw["peak"][place] = weights.amax(-1)
        raw["surprise"][place] = part.scores.mul_(weights).sum(-1)
    for name, pairs in item.pairs.items():
        pairs.mass(part, out.lookup[name][place])
    if part.seen is not None:
        out.visible[place] = part.seen.sum(-1)


def _write_ordered(
    part: Strip,
    place: Place,
    request: Request,
    out: _Output,
    v: Tensor,
    inverse: Tensor,
    keys: Tensor,
    work: Workspace,
) -> None:
    """What needs an order of positions: distance, previous, current, and the classes sink and local, raw."""
    weights, raw, low, high = part.weights, out.raw, part.low, part.high
    r, rows, _ = weights.shape
    first = part.start + part.sequence.offset
    # Distance from the strip's first row keeps the summands small beside what they add up to.
    raw["distance"][place] = torch.mv(weights.flatten(0, 1), first - keys[low:high]).view(r, rows)
    diagonals = part.by_distance()
    n = diagonals.shape[-1]
    raw["current"][place] = diagonals[..., n - 1]
    if n > 1:
        raw["previous"][place] = diagonals[..., n - 2]
    torch.sum(diagonals[..., max(0, n - request.window) :], -1, out=raw["local"][place])
    near = max(0, min(request.sinks, high) - low)
    out.sink_weights[place][..., low : low + near] = weights[..., :near]
    begin = max(low + near, first - request.window + 1)
    if begin < high:
        band = weights[..., begin - low :]
        skip = begin - (first - request.window + 1)  # rows whose window begins before `begin` need no mask
        if skip < rows:
            band = band.clone()
            reach = min(rows - skip, high - begin)
            band[:, skip:, :reach].masked_fill_(work.behind[: rows - skip, :reach], 0)
        local = torch.mm(band.flatten(0, 1), v[begin:high]).view(r, rows, -1)
        torch.mul(local, inverse[..., None], out=out.local_part[place])


def _add_sums(part: Strip, sums: _Sums, bands: Tensor | None, inverse: Tensor) -> None:
    """Sums over the rows of one strip, by key, by band and by distance: one small product a head."""
    sequence, weights, low, high = part.sequence, part.weights, part.low, part.high
    chosen = inverse[:, None]  # [r, 1, rows]: one row of weights a sum
    if bands is not None:
        band = bands[part.start : part.stop]
        first_band = int(band[0])
        if int(band[-1]) > first_band:
            chosen = chosen * torch.nn.functional.one_hot(band - first_band).t().to(inverse.dtype)
    by_key = torch.stack([torch.mm(c, w) for c, w in zip(chosen, weights, strict=True)])
    if bands is not None and sums.thumbnail is not None:
        # Summed over bands of at most S / bands keys in float32, then added up in float64.
        cells = by_key.new_zeros(*by_key.shape[:2], sums.thumbnail.shape[-1]).index_add_(
            2, bands[low:high], by_key
        )
        sums.thumbnail[:, first_band : first_band + by_key.shape[1]] += cells
    sums.received[:, low:high] += by_key[:, 0] if by_key.shape[1] == 1 else by_key.sum(1)
    if sums.rows is not None and part.seen is not None:
        sums.rows[:, low:high] += part.seen.sum(-2)
    if sequence.causal and not sequence.score.sigmoid:
        if part.start + sequence.offset == 0:
            inverse = inverse.clone()
            inverse[:, 0] = 0  # the profile is over positions 1 and later
        diagonals = part.by_distance()
        n, limit = diagonals.shape[-1], sums.by_distance.shape[-1]
        for total, c, w in zip(sums.by_distance, inverse[:, None], diagonals, strict=True):
            # Kept with distance 0 in the last place, as the view has it; turned round at the end.
            total[max(0, limit - n) :] += torch.mm(c, w)[0, max(0, n - limit) :]


RAW = ("total", "mass", "shift", "peak", "surprise", "first", "previous", "current", "local", "distance")


class _Output:
    """The tensors of the answer, filled strip by strip with raw sums and normalised once at the end."""

    def __init__(self, call: Attention, request: Request, dtype: torch.dtype) -> None:
        (B, H, T, _), S, Dv, device = call.q.shape, call.k.shape[2], call.v.shape[3], call.q.device
        self.dtype, self.bands, self.call, self.request = dtype, request.bands, call, request

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.z, self.local_part = zeros(B, H, T, Dv), zeros(B, H, T, Dv)
        self.raw = {name: zeros(B, H, T) for name in RAW}
        self.sink_weights = zeros(B, H, T, min(request.sinks, S))
        self.lookup = {name: zeros(B, H, T) for name in request.lookups}
        self.visible = zeros(B, H, T, dtype=torch.long)
        self.received, self.by_distance = (
            zeros(B, H, S, dtype=torch.float64),
            zeros(B, H, S, dtype=torch.float64),
        )
        self.received_rows = zeros(B, H, S, dtype=torch.long)
        square = self.bands and T == S and call.mask.query_offset == 0
        self.thumbnail = zeros(B, H, self.bands, self.bands, dtype=torch.float64) if square else None

    def count(self, sequence: Sequence) -> None:
        """Visible keys a row and visible rows a key, from the rules alone (no [T, S] mask)."""
        if sequence.allowed is not None:
            return
        spans = torch.tensor([sequence.span(t + sequence.offset) for t in range(sequence.n_rows)])
        spans = spans.to(self.z.device)
        rows = slice(sequence.first_row, sequence.first_row + sequence.n_rows)
        self.visible[sequence.index, :, rows] = spans[:, 1] - spans[:, 0]
        edges = torch.zeros(sequence.n_keys + 1, dtype=torch.long, device=self.z.device)
        ones = torch.ones(len(spans), dtype=torch.long, device=self.z.device)
        edges.index_add_(0, spans[:, 0], ones).index_add_(0, spans[:, 1], -ones)
        keys = slice(sequence.first_key, sequence.first_key + sequence.n_keys)
        self.received_rows[sequence.index, :, keys] = edges.cumsum(0)[:-1]

    def add(self, item: _Item, sums: _Sums) -> None:
        """Join one item's sums; items come in a fixed order."""
        sequence, r = item.sequence, item.sequence.group
        heads = slice(item.group * r, (item.group + 1) * r)
        keys = slice(sequence.first_key, sequence.first_key + sequence.n_keys)
        self.received[sequence.index, heads, keys] += sums.received
        self.by_distance[sequence.index, heads, : sequence.n_keys] += sums.by_distance.flip(-1)
        if sums.thumbnail is not None and self.thumbnail is not None:
            self.thumbnail[sequence.index, heads] += sums.thumbnail
        if sums.rows is not None:
            self.received_rows[sequence.index, heads, keys] += sums.rows.long()

    def finish(self) -> Statistics:
        """Normalise the raw sums; rows that see no key are NaN."""
        raw, blind = self.raw, self.visible == 0
        normal = not self.call.score.sigmoid
        ordered = self.call.mask.causal
        inverse = raw["total"].reciprocal().masked_fill_(blind, torch.nan)
        nowhere = torch.full_like(inverse, torch.nan)
        summed = self.call.score.sinks is not None or not normal
        mass = raw["mass"] if summed else raw["total"]
        log_total = raw["total"].log()
        sink = self.sink_weights.sum(-1)
        step = torch.zeros_like(inverse)
        for sequence in sequences(self.call):
            rows = rows_per_strip(sequence.group)
            own = torch.arange(sequence.n_rows, device=step.device) % rows
            step[sequence.index, :, sequence.first_row : sequence.first_row + sequence.n_rows] = own.to(step)
        local_mass = (raw["local"] - self._sinks_in_window()) * inverse
        return Statistics(
            lse=(raw["shift"] * LN2 + log_total).masked_fill(blind, torch.nan) if normal else nowhere,
            # −Σ P log P = −Σ P (s − m) + (Σ P) log(total); rebased at the row maximum nothing cancels.
            entropy=(mass * log_total - raw["surprise"] * LN2) * inverse if normal else nowhere,
            max_weight=(raw["peak"] if summed else 1) * inverse if normal else nowhere,
            distance=(raw["distance"] + mass * step) * inverse if normal and ordered else nowhere,
            first=raw["first"] * inverse,
            previous=raw["previous"] * inverse if ordered else nowhere,
            current=raw["current"] * inverse if ordered else nowhere,
            local=raw["local"] * inverse if ordered else nowhere,
            row_mass=mass * inverse,
            sink_mass=sink * inverse if ordered else nowhere,
            local_mass=local_mass if ordered else nowhere,
            sink_part=self._sink_part(inverse) if ordered else torch.full_like(self.local_part, torch.nan),
            local_part=self.local_part.masked_fill_((blind | (not ordered))[..., None], torch.nan),
            lookup={name: value * inverse for name, value in self.lookup.items()},
            visible=self.visible,
            received=self.received,
            received_rows=self.received_rows,
            by_distance=self.by_distance
            if normal and ordered
            else torch.full_like(self.by_distance, torch.nan),
            thumbnail=self._mean_thumbnail(),
        )

    def _sinks_in_window(self) -> Float[Tensor, "B H T"]:
        """Weight of the sinks that also lie in the window: counted once, as sinks."""
        both = torch.zeros_like(self.raw["local"])
        for sequence in sequences(self.call):
            j = torch.arange(min(self.sink_weights.shape[-1], sequence.n_keys), device=both.device)
            n = min(sequence.n_rows, max(0, self.request.window + len(j) - sequence.offset))
            i = torch.arange(n, device=both.device)[:, None] + sequence.offset
            place = (sequence.index, slice(None), slice(sequence.first_row, sequence.first_row + n))
            both[place] = (self.sink_weights[place][..., : len(j)] * (i - j < self.request.window)).sum(-1)
        return both

    def _sink_part(self, inverse: Float[Tensor, "B H T"]) -> Float[Tensor, "B H T Dv"]:
        """Σ over the sinks of P v: four columns, so once for all rows."""
        part = torch.zeros_like(self.local_part)
        for sequence in sequences(self.call):
            n = min(self.sink_weights.shape[-1], sequence.n_keys)
            v = sequence.v[:, :n].to(self.dtype).repeat_interleave(sequence.group, 0)
            place = (
                sequence.index,
                slice(None),
                slice(sequence.first_row, sequence.first_row + sequence.n_rows),
            )
            part[place] = self.sink_weights[place][..., :n] @ v
        return part.mul_(inverse[..., None])

    def _mean_thumbnail(self) -> Tensor | None:
        if self.thumbnail is None:
            return None
        for b, n in enumerate(_own_lengths(self.call)):
            hits = torch.bincount(self.bands * torch.arange(n) // max(n, 1), minlength=self.bands)
            rows = hits.to(self.thumbnail)[:, None]
            self.thumbnail[b] = torch.where(rows > 0, self.thumbnail[b] / rows, torch.nan)
        return self.thumbnail


def _own_lengths(call: Attention) -> list[int]:
    if call.mask.lengths is None:
        return [call.q.shape[2]] * call.q.shape[0]
    return [end - first for first, end in call.mask.lengths.tolist()]
