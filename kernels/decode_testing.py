"""Does a decoding backend agree with the float64 definition? The bounds of `testing`, and what is asked of keys."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from probe.kernels import reference
from probe.kernels.decode_reference import decode_reference
from probe.kernels.decoded import Decoded, DecodeRequest
from probe.kernels.inputs import Attention
from probe.kernels.testing import FACTOR, TINY, Bound, MismatchError, bound_of

KEYS = ("argmax", "top_key")


def assert_decoded_close(found: Decoded, call: Attention, request: DecodeRequest) -> dict[str, float]:
    """Raise MismatchError unless every field is within its bound of the definition, NaN in the same places.

    Returns the worst error of each field as a share of its bound. Keys must be real, different and in order, and
    their true scores within the scores' error of the true ones: of two almost equal keys either may come first.
    """
    truth, bound = decode_reference(call, request), bound_of(call)
    worst = {}
    for entry in fields(Decoded):
        name, a, b = entry.name, getattr(found, entry.name), getattr(truth, entry.name)
        dtype = _dtype(name, call, bound)
        if a.shape != b.shape or a.dtype != dtype:
            raise MismatchError(f"{name} is {a.dtype} {list(a.shape)}; wanted {dtype} {list(b.shape)}")
        if name == "visible":
            if not torch.equal(a, b):
                raise MismatchError(f"visible differs in {int((a != b).sum())} of {a.numel()} counts")
        elif name in KEYS:
            worst[name] = _check_keys(name, a, b, call, bound)
        else:
            worst[name] = _largest(name, a, b, _allowed(name, truth, call, bound))
    return worst


def _dtype(name: str, call: Attention, bound: Bound) -> torch.dtype:
    return call.q.dtype if name == "z" else torch.long if name in (*KEYS, "visible") else bound.dtype


def _allowed(name: str, truth: Decoded, call: Attention, bound: Bound) -> Tensor | float:
    """As `testing.allowed_error`; z also bears the rounding of the weights to the dtype of v before the product.

    Half an eps of the weight (relative), or half the smallest subnormal number of a weight below it (absolute,
    beside a largest weight of 1, for each key); then one rounding of z itself.
    """
    if name in ("lse", "entropy"):
        return bound.unit
    if name == "distance":
        return bound.unit * (bound.spread + 1 / FACTOR)
    if name != "z":
        value: Tensor = getattr(truth, name)
        return bound.unit * value.abs() + TINY
    info = torch.finfo(call.q.dtype)
    half, least = info.eps / 2, info.smallest_normal * info.eps / 2
    rough = bound.dtype != call.q.dtype
    weights = half + least * call.k.shape[2] if rough else 0.0
    mass = truth.row_mass.nan_to_num(nan=0.0)[..., None]
    return (bound.unit + weights) * bound.values * mass + half * truth.z.abs() + 2 * least


def _largest(name: str, found: Tensor, wanted: Tensor, allowed: Tensor | float) -> float:
    """Largest |found − wanted| / allowed; raises above 1."""
    if not torch.equal(found.isnan(), wanted.isnan()):
        raise MismatchError(f"{name} is NaN in other places than the truth")
    error = (found.double() - wanted.double()).abs()
    ratio = torch.where((error == 0) | wanted.isnan(), 0, error / allowed)
    worst = float(ratio.max()) if ratio.numel() else 0.0
    if not worst <= 1:
        raise MismatchError(
            f"{name} is off by {float(error.nan_to_num(nan=0.0).max()):.3g}, {worst:.3g} times its bound"
        )
    return worst


def _check_keys(name: str, found: Tensor, wanted: Tensor, call: Attention, bound: Bound) -> float:
    """−1 in the same places; true scores of the found keys as large as those of the true ones, up to `unit`."""
    if found.ndim == 3:
        found, wanted = found[..., None], wanted[..., None]
    if not torch.equal(found < 0, wanted < 0):
        raise MismatchError(f"{name} is −1 in other places than the truth")
    real = found[found >= 0]
    if bool((real >= call.k.shape[2]).any()):
        raise MismatchError(f"{name} names a key past the last")
    ordered = found.masked_fill(found < 0, 0).sort(-1).values
    twice = (ordered.diff(dim=-1) == 0) & (ordered[..., 1:] > 0)
    if bool(twice.any()):
        raise MismatchError(f"{name} names a key twice")
    scores = reference.scores(call).masked_fill(~reference.visibility(call), -torch.inf)
    mine, true = (scores.gather(-1, keys.clamp(min=0)) for keys in (found, wanted))
    error = torch.where(wanted < 0, 0, (mine - true).abs()).nan_to_num(nan=0.0)
    worst = float(error.max() / bound.unit) if error.numel() else 0.0
    if not worst <= 1:
        raise MismatchError(f"{name} names keys whose scores are off by {worst:.3g} times the bound")
    return worst
