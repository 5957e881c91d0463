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

ROW_FIELDS = ("lse", "entropy", "max_weight", "distance", "first", "previous", "current", "local", "row_mass",
              "sink_mass", "local_mass")  # fmt: skip


def blockwise(call: Attention, request: Request) -> tuple[Float[Tensor, "B H T Dv"], Statistics]:
    """Output and statistics of a validated call. Returns (z in the dtype of q, statistics).

    Accumulates in float32 (float64 for float64 inputs); sums over rows are float64.
    """
    q, v = call.q, call.v
    (B, H, T, _), S, Dv = q.shape, call.k.shape[2], v.shape[3]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = _Output(B, H, T, S, Dv, request, dtype, q.device)
    items = []
    for sequence in sequences(call):
        pairs = {name: pairs_of(lookup, sequence) for name, lookup in request.lookups.items()}
        out.count(sequence)
        items += [_Item(sequence, g, way, pairs, request) for g in range(call.k.shape[1]) for way in range(WAYS)]
    for item, sums in zip(items, _run(items, out), strict=True):
        out.add(item, sums)
    return out.z.to(q.dtype), out.statistics(call, request)


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
    """All strips of an item: writes rows into `out`, returns the sums over rows."""
    sequence, r = item.sequence, item.sequence.group
    rows = rows_per_strip(r)
    q, kt, v = prepared(sequence, item.group, out.dtype)
    work = Workspace(r, min(rows, sequence.n_rows), sequence.n_keys, v)
    sums = _empty_sums(item, out)
    bands = None
    if sums.thumbnail is not None:
        bands = out.bands * torch.arange(sequence.n_keys, device=v.device) // sequence.n_keys
    for start in range(item.way * rows, sequence.n_rows, WAYS * rows):
        part = strip(sequence, item.group, start, min(start + rows, sequence.n_rows), work, kt, q)
        _write_rows(part, item, out, v)
        _add_sums(part, sums, bands)
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


def _write_rows(part: Strip, item: _Item, out: _Output, v: Tensor) -> None:
    """Row statistics and outputs of one strip, written to their place."""
    sequence, request = part.sequence, item.request
    r, b = sequence.group, sequence.index
    place = (
        b,
        slice(item.group * r, (item.group + 1) * r),
        slice(sequence.first_row + part.start, sequence.first_row + part.stop),
    )
    weights, total = part.weights, part.total
    inverse = torch.ones_like(total) if sequence.score.sigmoid else torch.where(total > 0, 1 / total, 0)
    scale = inverse[..., None]
    out.z[place] = (weights.flatten(0, 1) @ v[part.low : part.high]).unflatten(0, weights.shape[:2]) * scale
    mass = weights.sum(-1)
    out.rows["row_mass"][place] = mass * inverse
    out.rows["first"][place] = weights[..., 0] * inverse if part.low == 0 and part.high else 0.0
    if not sequence.score.sigmoid:
        # P log P = P (s − m) − P log(total); rebased at the row maximum nothing cancels.
        entropy = (part.scores.mul_(weights)).sum(-1).mul_(-math.log(2)).mul_(inverse)
        out.rows["entropy"][place] = entropy.add_(mass * inverse * total.log())
        out.rows["lse"][place] = part.shift * math.log(2) + total.log()
        out.rows["max_weight"][place] = weights.amax(-1) * inverse if sequence.score.sinks is not None else inverse
    if sequence.causal:
        _write_ordered(part, place, request, out, v, inverse)
    for name, pairs in item.pairs.items():
        out.lookup[name][place] = pairs.mass(part) * inverse
    if part.seen is not None:
        out.visible[place] = part.seen.sum(-1)


def _write_ordered(
    part: Strip, place: tuple[int, slice, slice], request: Request, out: _Output, v: Tensor, inverse: Tensor
) -> None:
    """What needs an order of positions: distance, previous, current, and the classes sink and local."""
    sequence, weights = part.sequence, part.weights
    first_position = part.start + sequence.offset
    keys = torch.arange(part.low, part.high, device=v.device)
    if not sequence.score.sigmoid:
        # Distance from the strip's first row keeps the summands small beside what they add up to.
        relative = torch.mv(weights.flatten(0, 1), (first_position - keys).to(weights)).view(inverse.shape)
        step = torch.arange(part.stop - part.start, device=v.device)
        out.rows["distance"][place] = (relative + out.rows["row_mass"][place] / inverse * step) * inverse
    diagonals = part.by_distance()
    n = diagonals.shape[-1]
    out.rows["current"][place] = diagonals[..., n - 1] * inverse
    out.rows["previous"][place] = diagonals[..., n - 2] * inverse if n > 1 else 0.0
    out.rows["local"][place] = diagonals[..., max(0, n - request.window) :].sum(-1) * inverse
    near = max(part.low, min(request.sinks, part.high)) - part.low
    out.rows["sink_mass"][place] = weights[..., :near].sum(-1) * inverse
    out.sink_part[place] = weights[..., :near] @ v[part.low : part.low + near] * inverse[..., None]
    begin = max(part.low + near, first_position - request.window + 1)
    band = weights[..., begin - part.low :] if begin < part.high else weights[..., :0]
    rows = torch.arange(part.start, part.stop, device=v.device) + sequence.offset
    inside = torch.arange(begin, part.high, device=v.device) > rows[:, None] - request.window
    band = band * inside if begin < part.high else band
    out.rows["local_mass"][place] = band.sum(-1) * inverse
    out.local_part[place] = (
        (band.flatten(0, 1) @ v[begin : part.high]).unflatten(0, inverse.shape) * inverse[..., None]
        if begin < part.high
        else 0.0
    )


def _add_sums(part: Strip, sums: _Sums, bands: Tensor | None) -> None:
    """Sums over the rows of one strip, by key, by band and by distance: one small product a head."""
    sequence, weights = part.sequence, part.weights
    total = part.total
    inverse = torch.ones_like(total) if sequence.score.sigmoid else torch.where(total > 0, 1 / total, 0)
    low, high = part.low, part.high
    chosen = inverse[:, None]  # [r, 1, rows]: one row of weights a sum
    first_band = 0
    if bands is not None:
        first_band = int(bands[part.start])
        of_row = bands[part.start : part.stop] - first_band
        chosen = chosen * torch.nn.functional.one_hot(of_row).t()
    by_key = torch.stack([c @ w for c, w in zip(chosen, weights, strict=True)])  # [r, bands of the strip, keys]
    sums.received[:, low:high] += by_key.sum(1)
    if sums.thumbnail is not None and bands is not None:
        target = sums.thumbnail[:, first_band : first_band + by_key.shape[1]]
        target.index_add_(2, bands[low:high], by_key.double())
    if sums.rows is not None and part.seen is not None:
        sums.rows[:, low:high] += part.seen.sum(-2)
    if sequence.causal and not sequence.score.sigmoid:
        diagonals = part.by_distance()
        later = inverse.clone()
        if part.start + sequence.offset == 0:
            later[:, 0] = 0  # the profile is over positions 1 and later
        n = diagonals.shape[-1]
        by_distance = torch.stack([c @ w for c, w in zip(later, diagonals, strict=True)])
        shown = min(n, sequence.n_keys)
        sums.by_distance[:, :shown] += by_distance.flip(-1)[:, :shown]


class _Output:
    """The tensors of the answer, filled strip by strip."""

    def __init__(
        self, B: int, H: int, T: int, S: int, Dv: int, request: Request, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.dtype, self.bands = dtype, request.bands

        def nan(*shape: int) -> Tensor:
            return torch.full(shape, torch.nan, dtype=dtype, device=device)

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.z = zeros(B, H, T, Dv, dtype=dtype)
        self.rows = {name: nan(B, H, T) for name in ROW_FIELDS}
        self.lookup = {name: nan(B, H, T) for name in request.lookups}
        self.sink_part, self.local_part = nan(B, H, T, Dv), nan(B, H, T, Dv)
        self.visible = zeros(B, H, T, dtype=torch.long)
        self.received, self.by_distance = zeros(B, H, S), zeros(B, H, S)
        self.received_rows = zeros(B, H, S, dtype=torch.long)
        self.thumbnail = zeros(B, H, self.bands, self.bands) if self.bands and T == S else None

    def count(self, sequence: Sequence) -> None:
        """Visible keys a row and visible rows a key, from the rules alone (no [T, S] mask)."""
        spans = torch.tensor([sequence.span(t + sequence.offset) for t in range(sequence.n_rows)])
        spans = spans.to(self.z.device)
        rows = slice(sequence.first_row, sequence.first_row + sequence.n_rows)
        if sequence.allowed is not None:
            return
        self.visible[sequence.index, :, rows] = (spans[:, 1] - spans[:, 0]).clamp(min=0)
        edges = torch.zeros(sequence.n_keys + 1, dtype=torch.long, device=self.z.device)
        real = spans[spans[:, 1] > spans[:, 0]]
        ones = torch.ones(len(real), dtype=torch.long, device=self.z.device)
        edges.index_add_(0, real[:, 0], ones).index_add_(0, real[:, 1], -ones)
        keys = slice(sequence.first_key, sequence.first_key + sequence.n_keys)
        self.received_rows[sequence.index, :, keys] = edges.cumsum(0)[:-1]

    def add(self, item: _Item, sums: _Sums) -> None:
        """Join one item's sums; items come in a fixed order."""
        sequence, r = item.sequence, item.sequence.group
        heads = slice(item.group * r, (item.group + 1) * r)
        keys = slice(sequence.first_key, sequence.first_key + sequence.n_keys)
        self.received[sequence.index, heads, keys] += sums.received
        self.by_distance[sequence.index, heads, : sequence.n_keys] += sums.by_distance
        if sums.thumbnail is not None and self.thumbnail is not None:
            self.thumbnail[sequence.index, heads] += sums.thumbnail
        if sums.rows is not None:
            self.received_rows[sequence.index, heads, keys] += sums.rows.long()

    def statistics(self, call: Attention, request: Request) -> Statistics:
        """The answer; rows that see no key are NaN, thumbnails become means over their band's rows."""
        blind = self.visible == 0
        ordered = call.mask.causal and not call.score.sigmoid
        for table in (self.rows, self.lookup):
            for value in table.values():
                value.masked_fill_(blind, torch.nan)
        if self.thumbnail is not None:
            for b, n in enumerate(_own_lengths(call)):
                hits = torch.bincount(request.bands * torch.arange(n) // max(n, 1), minlength=request.bands)
                rows = hits.to(self.thumbnail)[:, None]
                self.thumbnail[b] = torch.where(rows > 0, self.thumbnail[b] / rows, torch.nan)
        by_distance = self.by_distance if ordered else torch.full_like(self.by_distance, torch.nan)
        return Statistics(
            **self.rows,
            sink_part=self.sink_part,
            local_part=self.local_part,
            lookup=self.lookup,
            visible=self.visible,
            received=self.received,
            received_rows=self.received_rows,
            by_distance=by_distance,
            thumbnail=self.thumbnail,
        )


def _own_lengths(call: Attention) -> list[int]:
    if call.mask.lengths is None:
        return [call.q.shape[2]] * call.q.shape[0]
    return [end - first for first, end in call.mask.lengths.tolist()]
