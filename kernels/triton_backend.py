"""The GPU backend: the passes of one call put together into `Statistics`.

Checked against the float64 definitions through Triton's interpreter on a CPU, and compiled for sm_80 and sm_90; never
run on a GPU. Statistics are float32 whatever the inputs; weights are rounded to the inputs' dtype before they meet v.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.inputs import Attention, Request
from probe.kernels.spans import seeing_queries, visible_keys
from probe.kernels.statistics import EFFECTS, Statistics
from probe.kernels.triton_config import ROW_FIELDS
from probe.kernels.triton_launch import launch_columns, launch_distances, launch_rows
from probe.kernels.triton_passes import PARTIALS, ColumnsMade, ColumnsWanted, RowsMade, RowsWanted

ORDERED = ("previous", "current", "local", "sink_mass", "local_mass")
NORMAL = ("lse", "entropy", "max_weight")


def fused(call: Attention, request: Request) -> tuple[Float[Tensor, "B H T Dv"], Statistics]:
    """Output and statistics of a validated call: two launches, and a third for the mass by distance.

    Returns (z in the dtype of q, statistics). Gradients are not recorded: where z must have them, take it from the
    model's own attention. A NaN in q makes its row's statistics NaN, and what its keys receive; not an error.
    Raises KernelError for a call that cannot be said to the kernels (`triton_arguments.check_sayable`).
    """
    with torch.no_grad():
        rows = launch_rows(call, rows_wanted(call, request))
        columns = launch_columns(call, rows.fields.get("lse"), columns_wanted(call, request))
        by_distance = None
        if request.distances and call.mask.causal and not call.score.sigmoid:
            by_distance = launch_distances(call, rows.fields["lse"])
        return rows.z, _statistics(call, request, rows, columns, by_distance)


def rows_wanted(call: Attention, request: Request) -> RowsWanted:
    """What pass 1 is asked for a request: every row statistic that is defined for the call."""
    ordered, normal = call.mask.causal, not call.score.sigmoid
    left_out = (() if ordered else (*ORDERED, "distance")) + (() if normal else (*NORMAL, "distance"))
    return RowsWanted(
        fields=tuple(name for name in ROW_FIELDS if name not in left_out),
        classes=ordered,
        sinks=min(request.sinks, call.k.shape[2]),
        window=request.window,
        argmax=request.argmax,
        parts=request.parts and ordered,
        partials=not request.parts,
        lookups=tuple(request.lookups.values()),
        direction=request.direction,
        mean=request.mean,
    )


def columns_wanted(call: Attention, request: Request) -> ColumnsWanted:
    """What pass 2 is asked for a request."""
    square = call.q.shape[2] == call.k.shape[2] and call.mask.query_offset == 0
    return ColumnsWanted(
        peak=request.received_max,
        value=request.received_value,
        thresholds=request.thresholds,
        bands=request.bands if square else 0,
    )


def _statistics(
    call: Attention, request: Request, rows: RowsMade, columns: ColumnsMade, by_distance: Tensor | None
) -> Statistics:
    (B, H, T, _), S, Dv = call.q.shape, call.k.shape[2], call.v.shape[3]
    seen, seeing = visible_keys(call), seeing_queries(call)
    nowhere = call.q.new_full((), torch.nan, dtype=torch.float32)
    field = {name: rows.fields.get(name, nowhere.expand(B, H, T)) for name in ROW_FIELDS}
    sink_part, local_part = (nowhere.expand(2, B, H, T, Dv) if rows.parts is None else rows.parts).unbind(0)
    sums = {} if rows.sums is None else dict(zip(PARTIALS, rows.sums.unbind(0), strict=True))
    received = nowhere.expand(B, H, S) if columns.received is None else columns.received
    return Statistics(
        **field,
        sink_part=sink_part,
        local_part=local_part,
        lookup={} if rows.lookup is None else dict(zip(request.lookups, rows.lookup.unbind(0), strict=True)),
        visible=seen[:, None].expand(B, H, T),
        received=received.double(),
        received_rows=seeing[:, None].expand(B, H, S),
        by_distance=nowhere.double().expand(B, H, S) if by_distance is None else by_distance.double(),
        thumbnail=None if columns.thumbnail is None else _mean_thumbnail(call, columns.thumbnail),
        argmax=None if rows.argmax is None else rows.argmax.long(),
        received_max=columns.peak,
        received_value=None if columns.value is None else columns.value.double(),
        received_counts=None if columns.counts is None else columns.counts.movedim(0, 2).long(),
        streaming=None if request.parts else torch.stack([sums["dropped"], sums["norm"]], -1),
        effects=None if request.direction is None else {name: sums[name] for name in EFFECTS},
    )


def _mean_thumbnail(call: Attention, sums: Float[Tensor, "B H bands bands"]) -> Float[Tensor, "B H bands bands"]:
    """Cells divided by the queries of their band, from its edges ⌈a · n / bands⌉; NaN for a band without any."""
    bands, lengths = sums.shape[-1], call.mask.lengths
    n = torch.full((sums.shape[0],), call.q.shape[2], device=sums.device)
    if lengths is not None:
        n = (lengths[:, 1] - lengths[:, 0]).to(n)
    edges = (torch.arange(bands + 1, device=sums.device) * n[:, None] + bands - 1) // bands
    rows = edges.diff(dim=1)[:, None, :, None]
    return torch.where(rows > 0, sums / rows, torch.nan)
