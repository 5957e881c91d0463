"""One launch a pass: arguments, workspace and grid of each GPU kernel, and its results as tensors.

Memory beside the results is O(blocks of rows) for the head-level sums and the thumbnail; nothing grows with T · S.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.inputs import Attention, Lookup
from probe.kernels.triton_config import MAX_SINKS, MAX_WIDTH, ROW_FIELDS, Configuration, Facts, configure
from probe.kernels.triton_jit import is_interpreted
from probe.kernels.validate import KernelError

LOG2E = 1.4426950408889634

PARTIALS = ("dropped", "norm", "zero", "mean", "sink_removed", "streaming")
"""Head-level sums over rows: Σ‖z − z_keep‖², Σ‖z‖², and Σ ⟨z − z~, g⟩ for the four z~."""


@dataclass(frozen=True)
class RowsWanted:
    """What pass 1 writes beside z.

    fields: of `ROW_FIELDS`. sinks, window: the kept keys of a streaming head; classes False: keys are not told apart
    (bidirectional calls have no classes). partials: the head-level sums. direction: g of the effects [B, H, T, Dv];
    mean: what replaces z in the effect against a mean, [B | 1, H, T | 1, Dv].
    """

    fields: tuple[str, ...] = ("lse",)
    classes: bool = True
    sinks: int = 4
    window: int = 64
    argmax: bool = False
    parts: bool = False
    partials: bool = False
    lookups: Sequence[Lookup] = ()
    direction: Float[Tensor, "B H T Dv"] | None = None
    mean: Float[Tensor, "#B H #T Dv"] | None = None


@dataclass(frozen=True)
class RowsMade:
    """Pass 1: z in the dtype of q; row statistics by name, NaN in rows that see no key; partial sums by block.

    argmax: [B, H, T] int32, −1 in rows that see no key. parts: [2, B, H, T, Dv], sinks and local, unnormalised parts
    of z. lookup: [lookups, B, H, T]. sums: [6, B, H] float64 in the order of `PARTIALS`, NaN where not computed.
    """

    z: Float[Tensor, "B H T Dv"]
    fields: dict[str, Float[Tensor, "B H T"]]
    argmax: Int[Tensor, "B H T"] | None
    parts: Float[Tensor, "2 B H T Dv"] | None
    lookup: Float[Tensor, "lookups B H T"] | None
    sums: Float[Tensor, "6 B H"] | None


@dataclass(frozen=True)
class ColumnsWanted:
    """What pass 2 writes: Σ over rows of P, its maximum, the sum times ‖v‖, counts above thresholds, a thumbnail."""

    received: bool = True
    peak: bool = False
    value: bool = False
    thresholds: tuple[float, ...] = ()
    bands: int = 0


@dataclass(frozen=True)
class ColumnsMade:
    """Pass 2, float32. thumbnail: sums of P over (row band, key band), float64, not yet divided by the rows."""

    received: Float[Tensor, "B H S"] | None
    peak: Float[Tensor, "B H S"] | None
    value: Float[Tensor, "B H S"] | None
    counts: Int[Tensor, "thresholds B H S"] | None
    thumbnail: Float[Tensor, "B H bands bands"] | None


def check_sayable(call: Attention, *, sinks: int = 0) -> None:
    """Raise KernelError, naming it, for anything in a valid call that the GPU kernels cannot be told."""
    device = call.q.device.type
    if device != "cuda" and not is_interpreted():
        raise KernelError(f"the triton backend runs on CUDA but q is on {device}; use backend='blockwise'")
    reasons = {
        "mask.allowed is a Python function": call.mask.allowed is not None,
        "score.bias is a Python function": call.score.bias is not None,
        "float64 inputs": call.q.dtype == torch.float64,
        f"a head wider than {MAX_WIDTH}": max(call.q.shape[3], call.v.shape[3]) > MAX_WIDTH,
        f"more than {MAX_SINKS} kept sinks": sinks > MAX_SINKS,
        "a negative scale": call.score.scale < 0,
    }
    for reason, found in reasons.items():
        if found:
            raise KernelError(
                f"{reason}, which the triton backend cannot take; say the rule in tensors (window, lengths, documents, "
                "slopes, temperature), or use backend='blockwise'"
            )


def launch_rows(call: Attention, wanted: RowsWanted) -> RowsMade:
    """Pass 1 of a validated call: z and the wanted row statistics, in one launch.

    Raises KernelError for what the kernel cannot be told (`check_sayable`).
    """
    check_sayable(call, sinks=wanted.sinks)
    (B, H, T, _), (G, S), Dv = call.q.shape, call.k.shape[1:3], call.v.shape[3]
    facts = _facts(call, wanted)
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
        **_labels(wanted.lookups),
        **_rules(call),
        "sinks": None if call.score.sinks is None else call.score.sinks.to(call.q.device, torch.float32),
        "direction": direction,
        "mean": mean,
    }
    strides = {**_strides("q", call.q), **_strides("k", call.k), **_strides("v", call.v)}
    strides |= {**_strides("g", direction), **_strides("m", mean)}
    numbers = {
        "B": B,
        "G": G,
        "T": T,
        "S": S,
        "blocks": blocks,
        "last": blocks - 1,
        "kept_sinks": wanted.sinks,
        "kept_window": min(wanted.window, 2**30),
        **_numbers(call),
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
    keys = configure("columns", _facts(call, wanted)).tiles.keys
    steps = _ceiling(_ceiling(S, bands), keys) + 1 if bands else 0
    made = configure("columns", _facts(call, wanted, steps=steps))
    outputs = {
        "received": new(B, H, S, dtype=torch.float32) if wanted.received else None,
        "peak": new(B, H, S, dtype=torch.float32) if wanted.peak else None,
        "value": new(B, H, S, dtype=torch.float32) if wanted.value else None,
        "count": new(count, B, H, S, dtype=torch.int32) if count else None,
        "cells": new(B, H, bands, steps, bands, dtype=torch.float32).zero_() if bands else None,
    }
    thresholds = torch.tensor(wanted.thresholds, dtype=torch.float32, device=call.q.device) if count else None
    tensors = {"q": call.q, "k": call.k, "v": call.v, "lse": lse, "threshold": thresholds, **outputs, **_rules(call)}
    strides = {**_strides("q", call.q), **_strides("k", call.k), **_strides("v", call.v)}
    numbers = {"B": B, "H": H, "T": T, "S": S, **_numbers(call)}
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
    made = configure("distances", _facts(call, None))
    out = call.q.new_empty(B, H, S, dtype=torch.float32)
    tensors = {"q": call.q, "k": call.k, "lse": lse, "out": out, **_rules(call)}
    strides = {**_strides("q", call.q), **_strides("k", call.k)}
    numbers = {"H": H, "T": T, "S": S, **_numbers(call)}
    _launch(made, (_ceiling(S, made.tiles.rows), H, B), tensors, {**strides, **numbers})
    return out


def _launch(made: Configuration, grid: tuple[int, int, int], tensors: dict[str, Any], numbers: dict[str, Any]) -> None:
    """Start one kernel with the arguments that it has; pointers of absent tensors are None."""
    given = {f"{name}_ptr": tensor for name, tensor in tensors.items()} | numbers
    for name in made.absent:
        given[name] = None
    arguments = {name: given[name] for name in made.function.arg_names if name not in made.constants}
    device = next(tensor.device for tensor in tensors.values() if tensor is not None)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        made.function[grid](**arguments, **made.constants, **made.options)


def _facts(call: Attention, wanted: RowsWanted | ColumnsWanted | None, steps: int = 2) -> Facts:
    mask, score = call.mask, call.score
    facts: dict[str, Any] = {
        "dtype": call.q.dtype,
        "D": call.q.shape[3],
        "DV": call.v.shape[3],
        "group": call.q.shape[1] // call.k.shape[1],
        "causal": mask.causal,
        "windowed": mask.window is not None,
        "packed": mask.documents is not None,
        "padded": mask.lengths is not None,
        "capped": score.softcap is not None,
        "sloped": score.slopes is not None,
        "tempered": score.temperature is not None,
        "learned": score.sinks is not None,
        "sigmoid": score.sigmoid,
        "capability": _capability(call.q.device),
        "interpreted": call.q.device.type != "cuda",
    }
    if isinstance(wanted, RowsWanted):
        gap = max((lookup.gap for lookup in wanted.lookups), default=0)
        least = (wanted.window if wanted.classes else 0) if mask.causal else -call.k.shape[2]
        facts |= {
            "fields": tuple(wanted.fields),
            "classes": wanted.classes,
            "sinks": wanted.sinks,
            "argmax": wanted.argmax,
            "parts": wanted.parts,
            "partials": wanted.partials or wanted.direction is not None,
            "effects": wanted.direction is not None,
            "mean": wanted.mean is not None and wanted.direction is not None,
            "lookups": len(wanted.lookups),
            "gaps": gap > least,
        }
    if isinstance(wanted, ColumnsWanted):
        facts |= {
            "received": wanted.received,
            "peak": wanted.peak,
            "value": wanted.value,
            "counts": len(wanted.thresholds),
            "bands": wanted.bands,
            "steps": steps,
        }
    return Facts(**facts)


def _capability(device: torch.device) -> int:
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _numbers(call: Attention) -> dict[str, int | float]:
    cap = call.score.softcap
    return {
        "offset": call.mask.query_offset,
        "window": 0 if call.mask.window is None else min(call.mask.window, 2**30),
        "factor": float(call.score.scale * LOG2E if cap is None else call.score.scale / cap),
        "cap": 0.0 if cap is None else float(cap),
    }


def _strides(letter: str, tensor: Tensor | None) -> dict[str, int]:
    second, third = ("g", "s") if letter in "kv" else ("h", "t")
    steps = (0, 0, 0, 0) if tensor is None else tensor.stride()
    return {f"stride_{letter}{axis}": step for axis, step in zip(("b", second, third, "d"), steps, strict=True)}


def _rules(call: Attention) -> dict[str, Tensor | None]:
    """The rules that are data: padding, documents as the span of each position, slopes, temperatures."""
    mask, score, device = call.mask, call.score, call.q.device
    starts = stops = None
    if mask.documents is not None:
        documents = mask.documents.to(device).contiguous()
        starts = torch.searchsorted(documents, documents).int()
        stops = torch.searchsorted(documents, documents, right=True).int()
    return {
        "lengths": None if mask.lengths is None else mask.lengths.to(device, torch.int32).contiguous(),
        "starts": starts,
        "stops": stops,
        "slopes": None if score.slopes is None else score.slopes.to(device, torch.float32).contiguous(),
        "temperature": None if score.temperature is None else score.temperature.to(device, torch.float32).contiguous(),
    }


def _labels(lookups: Sequence[Lookup]) -> dict[str, Tensor | None]:
    """Labels of all lookups side by side: −1 for queries and −2 for keys that match nothing."""
    if not lookups:
        return {"query_label": None, "key_label": None, "gap": None}
    device = lookups[0].query_label.device
    query = torch.stack([lookup.query_label.to(device) for lookup in lookups])
    key = torch.stack([lookup.key_label.to(device) for lookup in lookups])
    return {
        "query_label": torch.where(query < 0, -1, query).int().contiguous(),
        "key_label": torch.where(key < 0, -2, key).int().contiguous(),
        "gap": torch.tensor([lookup.gap for lookup in lookups], dtype=torch.int32, device=device),
    }


def _ceiling(n: int, step: int) -> int:
    return -(-n // step)
