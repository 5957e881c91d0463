"""Does a backend agree with the float64 definitions? One checker, its bounds, each with its derivation.

Truth is `reference.statistics` of the same call in float64: inputs are quantised first, so their dtype adds
nothing. No environment variable loosens a bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels import reference
from probe.kernels.inputs import Attention, Request
from probe.kernels.statistics import Statistics

FACTOR = 16
"""Errors in units of eps · (1 + max|s|): at most 5.6 (log-sum-exp), 4.8 (entropy), 3.5 (column mass) were measured
over lengths 1 … 3,000, widths 16 … 256, score scales 0.1 … 12; 16 leaves a factor of 3."""

COUNTS = ("visible", "received_rows")
SUMS = ("received", "by_distance", "thumbnail", "received_value", "streaming")
DICTS = ("lookup", "effects")
TINY = 1e-35
"""Weights below float32's smallest normal number (1.2e-38) lose bits or vanish; sums of up to 1,000 of them."""


class MismatchError(AssertionError):
    """A statistic that is not within its bound, or has the wrong shape, dtype or NaN pattern."""


@dataclass(frozen=True)
class Bound:
    """What the error of each statistic of one call may be.

    unit: FACTOR · eps · (1 + max|s|). A score is off by at most about eps · max|s|, and P = exp(s − lse) has the
        relative error that s and lse have absolutely; so `unit` bounds lse and the relative error of any mass.
    values: max |v|.
    spread: Σ_j P |i − j| of each query.
    dtype: of the row statistics: float32, or float64 for float64 inputs.
    pattern: P.
    rounded: relative rounding of the weights before they meet v: eps / 2 of the inputs' dtype in a kernel that
        multiplies in it, else 0. Underflow below its smallest number included, as rows are scaled to a maximum of 1.
    push: Σ_i ‖g_i‖₁ · max(|v|, |mean|) · Σ_j P of a request with a direction: what an effect may come to.
    """

    unit: float
    values: float
    spread: Float[Tensor, "B H T"]
    dtype: torch.dtype
    pattern: Float[Tensor, "B H T S"]
    rounded: float = 0.0
    push: Float[Tensor, "B H"] | None = None
    thresholds: tuple[float, ...] = ()

    @property
    def part(self) -> float:
        """Error of Σ P v as a share of max|v| · Σ P."""
        return self.unit + self.rounded


def bound_of(call: Attention, request: Request | None = None, *, rounded: float = 0.0) -> Bound:
    """Derive the bounds of a call. Scores count before the soft cap, as the rounding of q·k happens there."""
    dtype = torch.float64 if call.q.dtype == torch.float64 else torch.float32
    P, seen = reference.pattern(call), reference.visibility(call)
    groups = call.q.shape[1] // call.k.shape[1]
    s = (call.q.double() @ call.k.double().repeat_interleave(groups, 1).mT * call.score.scale).abs()
    if call.score.bias is not None:
        rows, columns = torch.arange(s.shape[2]), torch.arange(s.shape[3])
        s = s + call.score.bias(rows, columns).double().abs()
    if call.score.temperature is not None:
        s = s / call.score.temperature.double()[:, None, :, None]
    if call.score.slopes is not None:
        rows = torch.arange(s.shape[2])[:, None] + call.mask.query_offset
        s = s + call.score.slopes.double()[:, None, None] * (rows - torch.arange(s.shape[3])).abs()
    if call.score.sinks is not None:
        s = torch.maximum(s, call.score.sinks.double().abs()[None, :, None, None])
    largest = float(torch.where(seen, s, 0).max())
    i = torch.arange(s.shape[2])[:, None] + call.mask.query_offset
    spread = (P * (i - torch.arange(s.shape[3])).abs()).sum(-1)
    unit = FACTOR * torch.finfo(dtype).eps * (1 + largest)
    values = float(call.v.abs().max())
    push = None
    if request is not None and request.direction is not None:
        size = values if request.mean is None else max(values, float(request.mean.abs().max()))
        push = (request.direction.double().abs().sum(-1) * P.sum(-1).clamp(min=1) * seen.any(-1)).sum(-1) * size
    thresholds = () if request is None else request.thresholds
    return Bound(unit, values, spread, dtype, P, rounded, push, thresholds)


def allowed_error(name: str, truth: Statistics, bound: Bound) -> Tensor | float:
    """Largest error that statistic `name` may have, elementwise.

    lse: `unit`. entropy: H = lse − Σ P s; its error is that of the scores twice, weighted by P: `unit`.
    distance: P's relative error times Σ P |i − j|, and the sums run from the first row of a strip, up to 128
        tokens away, at one eps each: unit · (Σ P |i − j| + 128 / FACTOR).
    local_mass: a difference of two masses (sinks in the window count once): unit · local.
    sink_part, local_part, z: Σ P v has the error of its mass times max |v|, and that of the weights' rounding.
    streaming: Σ‖a‖² of errors δ each is off by 2 Σ‖a‖·‖δ‖ + Σ‖δ‖² <= 2 √(Σ‖a‖²) · √(rows · Dv) · δ + rows · Dv · δ²;
        z − z_keep is made of four parts, each within max|v|.
    effects: each z~ is made of at most four such parts: their error, times ‖g‖₁, over all rows.
    Everything else is a mass, a sum of positive terms: unit · its value.
    """
    if name in ("lse", "entropy"):
        return bound.unit
    if name == "distance":
        return bound.unit * (bound.spread + 128 / FACTOR)
    if name == "local_mass":
        return bound.unit * truth.local + TINY
    if name in ("sink_part", "local_part"):
        share = truth.sink_mass if name == "sink_part" else truth.local
        return bound.part * bound.values * share[..., None] + TINY
    if name == "streaming" and truth.streaming is not None:
        entries = bound.pattern.shape[2] * truth.sink_part.shape[-1]
        error = math.sqrt(entries) * 4 * bound.part * bound.values
        return 2 * error * truth.streaming.sqrt() + error * error
    if name.startswith("effects.") and bound.push is not None:
        return 4 * bound.part * bound.push + TINY
    value = _named(truth, name)
    return bound.unit * value.abs() + TINY


def assert_statistics_close(actual: Statistics, truth: Statistics, bound: Bound) -> dict[str, float]:
    """Raise MismatchError unless every statistic is within its bound of the truth, with NaN in the same places.

    Counts must be equal. Returns the worst error of each statistic as a share of its bound.
    """
    worst: dict[str, float] = {}
    for name, found, wanted in _pairs(actual, truth):
        if found is None or wanted is None:
            if found is not wanted:
                raise MismatchError(f"{name} is {'missing' if found is None else 'there'}; the truth says otherwise")
            continue
        whole = name in (*COUNTS, "argmax", "received_counts")
        wide = name in SUMS or name.startswith("effects.")
        _check_form(name, found, wanted, torch.long if whole else torch.float64 if wide else bound.dtype)
        worst[name] = 0.0
        if name == "argmax":
            _check_argmax(found, wanted, bound)
        elif name == "received_counts":
            _check_counts(found, bound)
        elif name in COUNTS:
            if not torch.equal(found, wanted):
                raise MismatchError(f"{name} differs in {int((found != wanted).sum())} of {found.numel()} counts")
        else:
            worst[name] = _worst(name, found, wanted, allowed_error(name, truth, bound))
    return worst


def assert_output_close(
    z: Float[Tensor, "B H T Dv"], truth: Float[Tensor, "B H T Dv"], call: Attention, bound: Bound
) -> float:
    """The same for the output: Σ P v within unit · max|v| · Σ P, then one rounding to the dtype of q.

    float16 and bfloat16 round to eps / 2 of the value, or to half their smallest subnormal number.
    """
    _check_form("z", z, truth, call.q.dtype)
    info = torch.finfo(call.q.dtype)
    mass = reference.pattern(call).sum(-1, keepdim=True)
    rounding = info.eps / 2 * truth.abs() + info.smallest_normal * info.eps
    return _worst("z", z, truth, bound.part * bound.values * mass + rounding)


def _check_argmax(found: Tensor, wanted: Tensor, bound: Bound) -> None:
    """The key found weighs as much as the largest, to rounding; −1 stands where the truth has it."""
    if not torch.equal(found == -1, wanted == -1):
        raise MismatchError("argmax is −1 in other rows than the truth")
    weight = bound.pattern.gather(-1, found.clamp(min=0)[..., None])[..., 0]
    short = (weight < bound.pattern.amax(-1) * (1 - 2 * bound.unit) - TINY) & (found >= 0)
    if bool(short.any()):
        raise MismatchError(f"argmax names a key that weighs less than another in {int(short.sum())} rows")


def _check_counts(found: Tensor, bound: Bound) -> None:
    """Counts lie between those above a threshold raised and lowered by the error of a weight."""
    for number, threshold in enumerate(bound.thresholds):
        least = bound.pattern.gt(threshold * (1 + bound.unit) + TINY).sum(-2)
        most = bound.pattern.gt(threshold * (1 - bound.unit) - TINY).sum(-2)
        if bool(((found[:, :, number] < least) | (found[:, :, number] > most)).any()):
            raise MismatchError(f"received_counts above {threshold} are off")


def _named(statistics: Statistics, name: str) -> Tensor:
    holder, _, key = name.partition(".")
    value = getattr(statistics, holder)
    found: Tensor = value[key] if key else value
    return found


def _pairs(actual: Statistics, truth: Statistics) -> Iterator[tuple[str, Tensor | None, Tensor | None]]:
    for entry in fields(Statistics):
        one, two = getattr(actual, entry.name), getattr(truth, entry.name)
        if entry.name in DICTS and one is not None and two is not None:
            if set(one) != set(two):
                raise MismatchError(f"{entry.name} has {sorted(one)}; wanted {sorted(two)}")
            for name in two:
                yield f"{entry.name}.{name}", one[name], two[name]
        else:
            yield entry.name, one, two


def _check_form(name: str, found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    if found.shape != wanted.shape or not found.numel():
        raise MismatchError(f"{name} has shape {list(found.shape)}; wanted {list(wanted.shape)}, not empty")
    if found.dtype != dtype:
        raise MismatchError(f"{name} is {found.dtype}; wanted {dtype}")


def _worst(name: str, found: Tensor, wanted: Tensor, allowed: Tensor | float) -> float:
    """Largest |found − wanted| / allowed. NaN must stand in the same places; infinities are never right."""
    real = ~wanted.isnan()
    if not torch.equal(found.isnan(), ~real):
        where = int((found.isnan() != ~real).sum())
        raise MismatchError(f"{name} is NaN in other places than the truth, {where} of {found.numel()}")
    if not bool(found[real].isfinite().all()):
        raise MismatchError(f"{name} is infinite")
    if not bool(real.any()):
        return 0.0
    limit = torch.as_tensor(allowed, dtype=torch.float64).expand_as(wanted)[real]
    error = (found.double() - wanted.double()).abs()[real]
    ratio = torch.where(error == 0, 0.0, error / limit)  # an exact 0 beside a bound of 0 is right
    largest = float(ratio.max())
    if not largest <= 1 or math.isnan(largest):
        raise MismatchError(f"{name} is off by {float(error.max()):.3g}, {largest:.3g} times its bound")
    return largest
