"""Decoding on a GPU in two launches: how the work is cut, what lies between the launches, and what comes out.

Between them: outputs and sums of every split, and of every split as many keys as are asked for. With a few queries
that is little; nothing is kept of every key.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from probe.kernels.decode_blocks import key_range
from probe.kernels.decoded import Decoded, DecodeRequest
from probe.kernels.inputs import Attention
from probe.kernels.triton_decode import FIELDS, MOST_TOP, constants_of, decode_kernel, tile_of
from probe.kernels.triton_decode_merge import (
    MERGE_OPTIONS,
    MOST_SPLITS,
    STATISTICS,
    merge_constants_of,
    merge_kernel,
)
from probe.kernels.triton_jit import start, unfit
from probe.kernels.triton_tiles import LOG2E

PROGRAMS = 512
"""Programs wanted at least: four for each of the 132 multiprocessors of an H100. From shapes alone, so bits do not
depend on the device."""

LEAST_KEYS = 256
"""Keys of a split at least."""


def refusal(call: Attention, request: DecodeRequest) -> str | None:
    """Why the kernels cannot compute the call; None where they can."""
    reason = unfit(call.q.device)
    if reason is not None:
        return reason
    if call.q.dtype == torch.float64:
        return "its inputs are float64, the kernel accumulates in float32"
    if call.mask.allowed is not None:
        return "mask.allowed is a Python function"
    if call.score.bias is not None:
        return "score.bias is a Python function"
    if request.top > MOST_TOP:
        return f"top is {request.top}, a program keeps at most {MOST_TOP} keys"
    widest = max(call.q.shape[3], call.v.shape[3])
    return f"its heads are {widest} wide, at most 256 fit" if widest > 256 else None


def triton_decode(call: Attention, request: DecodeRequest) -> Decoded:
    """The statistics of a validated call that `refusal` has nothing against. Gradients are not recorded."""
    with torch.no_grad():
        (B, H, T, _), Dv, new = call.q.shape, call.v.shape[3], call.q.new_empty
        low, high = key_range(call)
        tile = tile_of(T * (H // call.k.shape[1]), call, request.top)
        blocks = _ceiling(T * (H // call.k.shape[1]), tile.rows)
        chunk = keys_a_split(high - low, B * call.k.shape[1] * blocks, tile.keys)
        splits = max(1, _ceiling(high - low, chunk))
        constants, last = constants_of(call, tile, request), merge_constants_of(call, request)
        between = {
            "out": new(B, H, T, splits, Dv, dtype=torch.float32),
            "sums": new(B, H, T, FIELDS.value, splits, dtype=torch.float32),
            "arg": new(B, H, T, splits, dtype=torch.int32),
            "ranked": new(B, H, T, splits, constants["TOP"], dtype=torch.int64),
        }
        made = {
            # The interpreter cuts bfloat16 off instead of rounding: there, and only there, torch rounds z.
            "z": new(B, H, T, Dv, dtype=torch.float32 if constants["UPCAST"] else call.q.dtype),
            "statistics": new(len(STATISTICS), B, H, T, dtype=torch.float32),
            **{name: new(B, H, T, dtype=torch.int64) for name in ("argmax", "visible")},
            "top_weight": new(B, H, T, request.top, dtype=torch.float32),
            "top_key": new(B, H, T, request.top, dtype=torch.int64),
        }
        cut = {"splits": splits, "blocks": blocks, "chunk": chunk, "key_from": low, "key_to": high}
        given = {**between, **made, **_rules(call), **_numbers(call, request), **cut}
        _launch(decode_kernel, splits * blocks * B * call.k.shape[1], given, constants, tile.options)
        _launch(merge_kernel, B * H * T, given, last, MERGE_OPTIONS)
        made["z"] = made["z"].to(call.q.dtype)
        rows = dict(zip(STATISTICS, made.pop("statistics").unbind(0), strict=True))
        return Decoded(**made, **rows)


def keys_a_split(keys: int, pairs: int, step: int) -> int:
    """Keys of one split, a multiple of the tile: enough splits for `PROGRAMS`, none below `LEAST_KEYS`."""
    splits = min(MOST_SPLITS, max(1, _ceiling(PROGRAMS, pairs)))
    return _ceiling(max(LEAST_KEYS, _ceiling(keys, splits)), step) * step


def _ceiling(n: int, step: int) -> int:
    return -(-n // step)


def _launch(
    kernel: Any, programs: int, given: dict[str, Any], constants: dict[str, Any], options: dict[str, Any]
) -> None:
    """Start `programs` programs along the first axis, the only one that takes more than 65,535."""
    arguments = {name: given[name] for name in kernel.arg_names if name not in constants}
    start(kernel, (programs,), given["q"].device, **arguments, **constants, **options)


def _rules(call: Attention) -> dict[str, Tensor | None]:
    """The tensors of a call: q, k, v, and the rules that are data; documents as the span of each query's own."""
    mask, score, device = call.mask, call.score, call.q.device

    def vector(values: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor | None:
        return None if values is None else values.to(device, dtype).contiguous()

    starts = stops = None
    if mask.documents is not None:
        documents = mask.documents.to(device).contiguous()
        own = documents[:, mask.query_offset : mask.query_offset + call.q.shape[2]].contiguous()
        starts, stops = (torch.searchsorted(documents, own, right=right) for right in (False, True))
    return {
        **{"q": call.q, "k": call.k, "v": call.v},
        **{"lengths": vector(mask.lengths, torch.int32)},
        **{"starts": vector(starts, torch.int32), "stops": vector(stops, torch.int32)},
        **{"slopes": vector(score.slopes), "temperature": vector(score.temperature), "learned": vector(score.sinks)},
    }


def _numbers(call: Attention, request: DecodeRequest) -> dict[str, int | float]:
    (B, H, T, _), (G, S), score = call.q.shape, call.k.shape[1:3], call.score
    steps = (("sq", "bhtd", call.q), ("sk", "bgsd", call.k), ("sv", "bgsd", call.v))
    return {
        **{f"{name}_{axis}": x.stride(n) for name, axes, x in steps for n, axis in enumerate(axes)},
        **{"B": B, "H": H, "G": G, "T": T, "S": S, "n_rows": T * (H // G), "offset": int(call.mask.query_offset)},
        "factor": float(score.scale / score.softcap if score.softcap else score.scale * LOG2E.value),
        "softcap": float(score.softcap or 1.0),
        **{"mask_window": min(int(call.mask.window or 0), 2**30), "sinks": int(request.sinks), "n_top": request.top},
        "window": min(int(request.window), 2**30),
    }
