"""One launch a pass: workspace and grid of each GPU kernel, and its results as tensors.

Memory beside the results is O(blocks of rows) for the head-level sums and the thumbnail; nothing grows with T · S.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.inputs import Attention
from probe.kernels.triton_arguments import (
    LOG2E,
    check_sayable,
    facts_of,
    filled,
    labels_of,
    numbers_of,
    rules_of,
    strides_of,
)
from probe.kernels.triton_config import ROW_FIELDS, Configuration, configure
from probe.kernels.triton_jit import start
from probe.kernels.triton_passes import ColumnsMade, ColumnsWanted, RowsMade, RowsWanted
from probe.kernels.validate import KernelError


def launch_rows(call: Attention, wanted: RowsWanted) -> RowsMade:
    """Pass 1 of a validated call: z and the wanted row statistics, in one launch.

    Raises KernelError for what the kernel cannot be told (`check_sayable`).
    """
    check_sayable(call, sinks=wanted.sinks)
    (B, H, T, _), (G, S), Dv = call.q.shape, call.k.shape[1:3], call.v.shape[3]
    facts = facts_of(call, wanted)
    made = configure("rows", facts)
    blocks = _ceiling(T * facts.group, made.tiles.rows)
    new = call.q.new_empty
    names = [name for name in ROW_FIELDS if name in wanted.fields]
    # The interpreter cuts bfloat16 off instead of rounding: there, and only there, torch rounds z.
    z = new(B, H, T, Dv, dtype=torch.float32 if made.constants["UPCAST"] else call.q.dtype)
    rows = new(len(names), B, H, T, dtype=torch.float32)
    count = len(wanted.lookups)
    outputs = {
        "rows": rows,
        "argmax": new(B, H, T, dtype=torch.int32) if wanted.argmax else None,
        "parts": new(2, B, H, T, Dv, dtype=torch.float32) if wanted.parts else None,
        "lookup": new(count, B, H, T, dtype=torch.float32) if count else None,
        "partial": new(6, B, H, blocks, dtype=torch.float32).fill_(torch.nan) if facts.partials else None,
    }
    direction, mean = wanted.direction, wanted.mean
    if direction is not None and direction.dtype not in (call.q.dtype, torch.float32):
        direction = direction.to(torch.float32)
    if mean is not None:
        mean = mean.expand(B, H, T, Dv)
    tensors = {
        "q": call.q,
        "k": call.k,
        "v": call.v,
        "z": z,
        **outputs,
        **labels_of(wanted.lookups),
        **rules_of(call),
        "sinks": None if call.score.sinks is None else call.score.sinks.to(call.q.device, torch.float32).contiguous(),
        "direction": direction,
        "mean": mean,
    }
    strides = {**strides_of("q", call.q), **strides_of("k", call.k), **strides_of("v", call.v)}
    strides |= {**strides_of("g", direction), **strides_of("m", mean)}
    numbers = {
        "B": B,
        "G": G,
        "T": T,
        "S": S,
        "blocks": blocks,
        "last": blocks - 1,
        "final": blocks - 1,
        "kept_sinks": int(wanted.sinks),
        "kept_window": min(int(wanted.window), 2**30),
        **numbers_of(call),
    }
    _launch(made, (blocks, G, B), tensors, {**strides, **numbers})
    partial = outputs["partial"]
    return RowsMade(
        z.to(call.q.dtype),
        dict(zip(names, rows.unbind(0), strict=True)),
        outputs["argmax"],
        outputs["parts"],
        outputs["lookup"],
        None if partial is None else partial.double().sum(-1),
    )


def launch_columns(call: Attention, lse: Float[Tensor, "B H T"] | None, wanted: ColumnsWanted) -> ColumnsMade:
    """Pass 2 of a validated call, from pass 1's log-sum-exp (None for sigmoid gates), in one launch.

    A thumbnail needs queries that are the keys (T == S, no offset). Raises KernelError as `launch_rows`.
    """
    check_sayable(call)
    (B, H, T, _), S, bands = call.q.shape, call.k.shape[2], wanted.bands
    new, count = call.q.new_empty, len(wanted.thresholds)
    made = configure("columns", facts_of(call, wanted))
    keys = made.tiles.keys
    steps = _ceiling(_ceiling(S, bands), keys) + 1 if bands else 0
    outputs = {
        "received": new(B, H, S, dtype=torch.float32) if wanted.received else None,
        "peak": new(B, H, S, dtype=torch.float32) if wanted.peak else None,
        "value": new(B, H, S, dtype=torch.float32) if wanted.value else None,
        "count": new(count, B, H, S, dtype=torch.int32) if count else None,
        "cells": new(B, H, bands, steps, bands, dtype=torch.float32).zero_() if bands else None,
    }
    shift = None if lse is None else lse * LOG2E
    thresholds = filled(wanted.thresholds, torch.float32, call.q.device) if count else None
    tensors = {"q": call.q, "k": call.k, "v": call.v, "shift": shift, "threshold": thresholds}
    tensors |= {**outputs, **rules_of(call)}
    strides = {**strides_of("q", call.q), **strides_of("k", call.k), **strides_of("v", call.v)}
    numbers = {"B": B, "H": H, "T": T, "S": S, "steps": steps, **numbers_of(call)}
    _launch(made, (_ceiling(S, keys), H, B), tensors, {**strides, **numbers})
    cells = outputs["cells"]
    return ColumnsMade(
        outputs["received"],
        outputs["peak"],
        outputs["value"],
        outputs["count"],
        None if cells is None else cells.double().sum(3).mT.contiguous(),
    )


def launch_distances(call: Attention, lse: Float[Tensor, "B H T"]) -> Float[Tensor, "B H S"]:
    """Pass 3 of a validated causal softmax call: Σ of P by distance over queries at own positions >= 1, float32.

    Raises KernelError as `launch_rows`, and for a call without an order.
    """
    check_sayable(call)
    if not call.mask.causal or call.score.sigmoid:
        raise KernelError("mass by distance of a call without causal softmax attention is not defined; leave it out")
    (B, H, T, _), S = call.q.shape, call.k.shape[2]
    made = configure("distances", facts_of(call, None))
    blocks = _ceiling(S, made.tiles.rows)
    out = call.q.new_empty(B, H, 2, blocks * made.tiles.rows, dtype=torch.float32)
    tensors = {"q": call.q, "k": call.k, "shift": lse * LOG2E, "out": out, **rules_of(call)}
    strides = {**strides_of("q", call.q), **strides_of("k", call.k)}
    numbers = {"H": H, "T": T, "S": S, "blocks": blocks, **numbers_of(call)}
    _launch(made, (blocks + 1, H, B), tensors, {**strides, **numbers})
    return out.sum(2)[..., :S]


def _launch(made: Configuration, grid: tuple[int, int, int], tensors: dict[str, Any], numbers: dict[str, Any]) -> None:
    """Start one kernel with the arguments that it has; pointers of absent tensors are None."""
    given = {f"{name}_ptr": tensor for name, tensor in tensors.items()} | numbers
    for name in made.absent:
        given[name] = None
    arguments = {name: given[name] for name in made.function.arg_names if name not in made.constants}
    device = next(tensor.device for tensor in tensors.values() if tensor is not None)
    start(made.function, grid, device, **arguments, **made.constants, **made.options)


def _ceiling(n: int, step: int) -> int:
    return -(-n // step)
