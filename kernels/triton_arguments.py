"""A validated call in the words of the GPU kernels: what can be said, which code it needs, numbers, strides, rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probe.kernels.inputs import Attention, Lookup
from probe.kernels.triton_config import MAX_SINKS, MAX_WIDTH, Facts
from probe.kernels.triton_jit import capability, is_interpreted, unfit
from probe.kernels.triton_passes import ColumnsWanted, RowsWanted
from probe.kernels.validate import KernelError

LOG2E = 1.4426950408889634


def check_sayable(call: Attention, *, sinks: int = 0) -> None:
    """Raise KernelError, naming it, for anything in a valid call that the GPU kernels cannot be told."""
    reason = unfit(call.q.device)
    if reason is not None:
        raise KernelError(f"{reason}; use backend='blockwise'")
    reasons = {
        "mask.allowed is a Python function": call.mask.allowed is not None,
        "score.bias is a Python function": call.score.bias is not None,
        "float64 inputs": call.q.dtype == torch.float64,
        f"a head wider than {MAX_WIDTH}": max(call.q.shape[3], call.v.shape[3]) > MAX_WIDTH,
        f"more than {MAX_SINKS} kept sinks": sinks > MAX_SINKS,
        "a negative scale": call.score.scale < 0,
        "strides that reach 2^31 within a tile": any(map(_reaches_far, (call.q, call.k, call.v))),
    }
    for rule, found in reasons.items():
        if found:
            raise KernelError(
                f"{rule}, which the triton backend cannot take; say the rule in tensors (window, lengths, documents, "
                "slopes, temperature), or use backend='blockwise'"
            )


def _reaches_far(tensor: Tensor) -> bool:
    """Whether places within a tile (128 positions, all of a head's width) need more than 32 bits."""
    return 128 * abs(tensor.stride(2)) + tensor.shape[3] * abs(tensor.stride(3)) >= 2**31


def facts_of(call: Attention, wanted: RowsWanted | ColumnsWanted | None) -> Facts:
    """What decides the code that runs, for a pass that is asked for `wanted` (None: the mass by distance)."""
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
        "capability": capability(call.q.device),
        "interpreted": is_interpreted(),
    }
    if isinstance(wanted, RowsWanted):
        gap = max((lookup.gap for lookup in wanted.lookups), default=0)
        least = (wanted.window if wanted.classes else 0) if mask.causal else -call.k.shape[2]
        facts |= {
            "fields": tuple(wanted.fields),
            "classes": wanted.classes,
            "sinks": wanted.sinks,
            "wide": wanted.window > 1,
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
        }
    return Facts(**facts)


def numbers_of(call: Attention) -> dict[str, int | float]:
    """Scalars that every pass takes: plain numbers of Python, whatever kind of number the call holds."""
    cap = call.score.softcap
    return {
        "offset": int(call.mask.query_offset),
        "window": 0 if call.mask.window is None else min(int(call.mask.window), 2**30),
        "factor": float(call.score.scale * LOG2E if cap is None else call.score.scale / cap),
        "cap": 0.0 if cap is None else float(cap),
    }


def strides_of(letter: str, tensor: Tensor | None) -> dict[str, int]:
    """Strides of a [B, H, T, D] tensor under the names that the kernels give them; zeros for one that is not there."""
    second, third = ("g", "s") if letter in "kv" else ("h", "t")
    steps = (0, 0, 0, 0) if tensor is None else tensor.stride()
    return {f"stride_{letter}{axis}": step for axis, step in zip(("b", second, third, "d"), steps, strict=True)}


def rules_of(call: Attention) -> dict[str, Tensor | None]:
    """The rules that are data, on the device of q: padding, documents as the span of each position, slopes, τ."""
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


def labels_of(lookups: Sequence[Lookup]) -> dict[str, Tensor | None]:
    """Labels of all lookups side by side: −1 for queries and −2 for keys that match nothing."""
    if not lookups:
        return {"query_label": None, "key_label": None, "gap": None}
    device = lookups[0].query_label.device
    query = torch.stack([lookup.query_label.to(device) for lookup in lookups])
    key = torch.stack([lookup.key_label.to(device) for lookup in lookups])
    return {
        "query_label": torch.where(query < 0, -1, query).int().contiguous(),
        "key_label": torch.where(key < 0, -2, key).int().contiguous(),
        "gap": filled([lookup.gap for lookup in lookups], torch.int32, device),
    }


def filled(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A vector of a few numbers, without a copy from the host: such a copy would wait for all work on the device."""
    return torch.cat([torch.full((1,), number, dtype=dtype, device=device) for number in numbers])
