"""The one check of an attention call. Backends assume that it passed."""

from __future__ import annotations

import torch
from torch import Tensor

from probe.kernels.inputs import Attention, Request

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class KernelError(ValueError):
    """An attention call that cannot be computed as described: found, wanted, what to do."""


def validate(call: Attention, request: Request) -> None:
    """Check shapes, dtypes, devices and rules of `call` against each other.

    Raises KernelError naming the argument, what it is and what it should be.
    """
    q, k, v = call.q, call.k, call.v
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.ndim != 4:
            raise KernelError(
                f"{name} has shape {list(tensor.shape)}; wanted four axes [batch, heads, positions, width]"
            )
        if tensor.dtype not in DTYPES:
            raise KernelError(f"{name} is {tensor.dtype}; wanted one of float64, float32, bfloat16, float16")
        if tensor.dtype != q.dtype or tensor.device != q.device:
            raise KernelError(
                f"{name} is {tensor.dtype} on {tensor.device} but q is {q.dtype} on {q.device}; convert one of them"
            )
        if 0 in tensor.shape:
            raise KernelError(f"{name} is empty: shape {list(tensor.shape)}; every axis needs at least one entry")
    if k.shape[:3] != v.shape[:3] or k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        raise KernelError(
            f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)} do not fit; "
            "wanted q [B,H,T,D], k [B,G,S,D], v [B,G,S,Dv]"
        )
    if q.shape[1] % k.shape[1]:
        raise KernelError(f"{q.shape[1]} query heads over {k.shape[1]} key heads; wanted a whole multiple")
    _validate_rules(call)
    _validate_request(call, request)


def _validate_rules(call: Attention) -> None:
    mask, score = call.mask, call.score
    if mask.window is not None and mask.window < 1:
        raise KernelError(f"window is {mask.window}; wanted at least 1, or None for no window")
    if mask.query_offset < 0:
        raise KernelError(
            f"query_offset is {mask.query_offset}; wanted the position of query 0 among the keys, 0 or more"
        )
    last, keys = mask.query_offset + call.q.shape[2] - 1, call.k.shape[2]
    if mask.causal and mask.lengths is None and last >= keys:
        raise KernelError(
            f"the last query stands at position {last}, past the last of {keys} keys; "
            "a causal query sees itself: wanted query_offset + queries <= keys"
        )
    if mask.lengths is not None:
        size, limit = tuple(mask.lengths.shape), call.k.shape[2]
        if size != (call.q.shape[0], 2):
            raise KernelError(
                f"lengths has shape {list(size)}; wanted [{call.q.shape[0]}, 2], first and end of each row"
            )
        spans = mask.lengths.tolist()
        if any(not 0 <= first <= end <= limit for first, end in spans):
            raise KernelError(f"lengths are {spans}; wanted 0 <= first <= end <= {limit}")
    if mask.documents is not None:
        _validate_documents(call, mask.documents)
    if score.softcap is not None and score.softcap <= 0:
        raise KernelError(f"softcap is {score.softcap}; wanted a positive number, or None")
    if score.sinks is not None and tuple(score.sinks.shape) != (call.q.shape[1],):
        raise KernelError(f"sinks has shape {list(score.sinks.shape)}; wanted [{call.q.shape[1]}], one logit a head")
    if score.sinks is not None and score.sigmoid:
        raise KernelError("a learned sink beside sigmoid attention is not defined; drop one of them")

    if score.slopes is not None and tuple(score.slopes.shape) != (call.q.shape[1],):
        raise KernelError(f"slopes has shape {list(score.slopes.shape)}; wanted [{call.q.shape[1]}], one a head")
    if score.temperature is not None:
        size = (call.q.shape[0], call.q.shape[2])
        if tuple(score.temperature.shape) != size:
            raise KernelError(f"temperature has shape {list(score.temperature.shape)}; wanted {list(size)}")
        if not bool((score.temperature > 0).all()):
            raise KernelError("temperature is not positive everywhere; wanted a number above 0 for every query")


def _validate_documents(call: Attention, documents: Tensor) -> None:
    B, S, last = call.q.shape[0], call.k.shape[2], call.mask.query_offset + call.q.shape[2]
    if tuple(documents.shape) != (B, S) or documents.is_floating_point():
        raise KernelError(
            f"documents is {documents.dtype} of shape {list(documents.shape)}; wanted integers [{B}, {S}], one a key"
        )
    if last > S:
        raise KernelError(f"documents name {S} positions but the last query stands at {last - 1}; wanted one of them")
    if bool((documents.diff(dim=1) < 0).any()):
        raise KernelError("documents fall somewhere; wanted them numbered in the order they stand in")


def _validate_request(call: Attention, request: Request) -> None:
    if request.sinks < 0 or request.window < 1 or request.bands < 0:
        raise KernelError(
            f"sinks {request.sinks}, window {request.window}, bands {request.bands}; wanted >= 0, >= 1, >= 0"
        )
    B, T, S = call.q.shape[0], call.q.shape[2], call.k.shape[2]
    if any(not threshold >= 0 for threshold in request.thresholds):
        raise KernelError(f"thresholds are {request.thresholds}; wanted numbers of 0 or more")
    wanted = (*call.q.shape[:3], call.v.shape[3])
    for name, tensor in (("direction", request.direction), ("mean", request.mean)):
        if tensor is None:
            continue
        shape = tuple(tensor.shape)
        fits = len(shape) == 4 and all(
            a == b or (a == 1 and name == "mean") for a, b in zip(shape, wanted, strict=True)
        )
        if not fits or tensor.device != call.q.device or not tensor.is_floating_point():
            raise KernelError(
                f"{name} is {tensor.dtype} of shape {list(shape)} on {tensor.device}; wanted one vector a head output, "
                f"{list(wanted)} on {call.q.device}"
            )
    if request.mean is not None and request.direction is None:
        raise KernelError("mean is given without a direction; an effect against a mean is along a direction")
    for name, lookup in request.lookups.items():
        shapes = tuple(lookup.query_label.shape), tuple(lookup.key_label.shape)
        if shapes != ((B, T), (B, S)):
            raise KernelError(f"labels of lookup {name!r} have shapes {shapes}; wanted ({B}, {T}) and ({B}, {S})")
