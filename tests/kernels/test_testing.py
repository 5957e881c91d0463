"""The checker can fail: every kind of wrong answer is refused, and the right one passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from probe.kernels import reference
from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Mask, Request
from probe.kernels.statistics import EFFECTS, Statistics
from probe.kernels.testing import (
    COUNTS,
    SUMS,
    Bound,
    MismatchError,
    assert_output_close,
    assert_statistics_close,
    bound_of,
)

Made = tuple[Attention, Request, Statistics, Statistics, Bound]
SPECIAL = ("lookup", "effects", "argmax", "received_counts", "streaming")
NAMES = [entry.name for entry in fields(Statistics) if entry.name not in SPECIAL]
NUMBERS = [name for name in NAMES if name not in COUNTS]


@pytest.fixture(scope="module")
def made(call: Callable[..., Attention], more_for: Callable[..., Request]) -> Made:
    padded = call(40, rule="left padding", ratio=3)
    attention = replace(padded, score=replace(padded.score, sinks=torch.linspace(-1, 3, 6)))
    request = more_for(attention)
    truth, found = reference.statistics(attention, request)[1], blockwise(attention, request)[1]
    return attention, request, found, truth, bound_of(attention, request)


def spoilt(found: Statistics, name: str, change: Callable[[Tensor], Tensor]) -> Statistics:
    value = getattr(found, name)
    assert value is not None
    return replace(found, **{name: change(value.clone())})


def one(value: float) -> Callable[[Tensor], Tensor]:
    """Put `value` on one entry that is a number."""

    def change(tensor: Tensor) -> Tensor:
        places = (~tensor.isnan()).flatten().nonzero()
        tensor.view(-1)[places[len(places) // 2]] = value
        return tensor

    return change


def refused(made: Made, wrong: Statistics, match: str) -> None:
    with pytest.raises(MismatchError, match=match):
        assert_statistics_close(wrong, made[3], made[4])


def test_the_right_answer_passes_and_says_how_close_it_is(made: Made) -> None:
    worst = assert_statistics_close(made[2], made[3], made[4])
    effects = {f"effects.{name}" for name in EFFECTS}
    assert set(worst) == {*NAMES, *effects, "lookup.duplicate_token", "lookup.induction", "argmax", "received_counts"}
    assert all(0 <= value <= 1 for value in worst.values())
    assert max(worst.values()) > 0


@pytest.mark.parametrize("name", NUMBERS)
def test_one_part_in_ten_thousand_is_too_much(name: str, made: Made) -> None:
    refused(made, spoilt(made[2], name, lambda value: value * (1 + 1e-4)), f"{name} is off by")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(("value", "match"), [(torch.nan, "NaN in other places"), (torch.inf, "infinite")])
def test_nan_and_infinity_are_refused(name: str, value: float, match: str, made: Made) -> None:
    refused(made, spoilt(made[2], name, one(value)), f"{name} is .*{match}")


@pytest.mark.parametrize("name", [name for name in NUMBERS if name not in SUMS])
def test_a_number_where_nothing_is_defined_is_refused(name: str, made: Made) -> None:
    refused(made, spoilt(made[2], name, lambda value: value.nan_to_num(0)), f"{name} is NaN in other places")


@pytest.mark.parametrize("name", NUMBERS)
def test_swapped_heads_are_refused(name: str, made: Made) -> None:
    refused(made, spoilt(made[2], name, lambda value: value.roll(1, 1)), f"{name} is off by")


@pytest.mark.parametrize("name", NAMES)
def test_another_dtype_is_refused(name: str, made: Made) -> None:
    wrong = torch.float16 if name in NUMBERS else torch.int32
    refused(made, spoilt(made[2], name, lambda value: value.to(wrong)), f"{name} is torch.{str(wrong)[6:]}; wanted")


@pytest.mark.parametrize("name", NAMES)
def test_another_shape_and_an_empty_tensor_are_refused(name: str, made: Made) -> None:
    refused(made, spoilt(made[2], name, lambda value: value[:1]), f"{name} has shape")
    empty = made[2].lse[:0]
    for statistics in (made[2], made[3]):
        assert statistics.lse.numel()
    with pytest.raises(MismatchError, match="not empty"):
        assert_statistics_close(replace(made[2], lse=empty), replace(made[3], lse=empty), made[4])


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_that_is_off_by_one_is_refused(name: str, made: Made) -> None:
    def change(value: Tensor) -> Tensor:
        value.view(-1)[7] += 1
        return value

    refused(made, spoilt(made[2], name, change), f"{name} differs in 1 of")


def test_missing_statistics_are_refused(made: Made) -> None:
    refused(made, replace(made[2], lookup={}), "lookup has")
    lookup = {**made[2].lookup, "induction": made[2].lookup["duplicate_token"]}
    refused(made, replace(made[2], lookup=lookup), "lookup.induction is off by")
    refused(made, replace(made[2], thumbnail=None), "thumbnail is missing")
    with pytest.raises(MismatchError, match="thumbnail is there"):
        assert_statistics_close(made[2], replace(made[3], thumbnail=None), made[4])


def test_another_key_is_no_argmax(made: Made) -> None:
    found = made[2].argmax
    assert found is not None
    best = made[4].pattern.argmax(-1)
    assert torch.equal(found[:, :, 20:], best[:, :, 20:])
    refused(
        made, replace(made[2], argmax=(found - 1).clamp(min=0).where(found >= 0, found)), "weighs less than another"
    )
    refused(made, replace(made[2], argmax=found.clamp(min=0)), "−1 in other rows")


def test_counts_that_are_off_are_refused(made: Made) -> None:
    found = made[2].received_counts
    assert found is not None
    refused(made, replace(made[2], received_counts=found + 1), "received_counts above 0.05 are off")
    refused(made, replace(made[2], received_counts=found.flip(2)), "received_counts above 0.05 are off")


@pytest.mark.parametrize("name", EFFECTS)
def test_effects_of_other_heads_are_refused(name: str, made: Made) -> None:
    effects = made[2].effects
    assert effects is not None
    refused(made, replace(made[2], effects={**effects, name: effects[name].roll(1, 1)}), f"effects.{name} is off by")
    refused(made, replace(made[2], effects={**effects, name: -effects[name]}), f"effects.{name} is off by")


def test_streaming_sums_that_are_off_are_refused(made: Made) -> None:
    request = replace(made[1], parts=False)
    truth, found = reference.statistics(made[0], request)[1], blockwise(made[0], request)[1]
    assert assert_statistics_close(found, truth, made[4])["streaming"] < 0.1
    assert found.streaming is not None
    with pytest.raises(MismatchError, match="streaming is off by"):
        assert_statistics_close(replace(found, streaming=found.streaming * 1.05), truth, made[4])


def test_a_mask_that_is_off_by_one_is_refused(made: Made) -> None:
    attention, request, _, truth, bound = made
    mask = attention.mask
    for wrong in (Mask(causal=False, lengths=mask.lengths), Mask(window=39, lengths=mask.lengths)):
        with pytest.raises(MismatchError):
            assert_statistics_close(blockwise(replace(attention, mask=wrong), request)[1], truth, bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_wrong_output_is_refused(dtype: torch.dtype, call: Callable[..., Attention]) -> None:
    attention = call(20, dtype=dtype)
    z, bound = reference.output(attention), bound_of(attention)
    rounded = z.to(dtype)
    assert assert_output_close(rounded, z, attention, bound) <= 1
    step = {torch.float32: 1e-4, torch.float16: 4e-3, torch.float64: 1e-10}[dtype]
    for wrong in (z * (1 + step), z.roll(1, 1), z.masked_fill(z == z.max(), torch.nan)):
        with pytest.raises(MismatchError):
            assert_output_close(wrong.to(dtype), z, attention, bound)
    with pytest.raises(MismatchError, match=r"z is torch.b?float\d+; wanted"):
        assert_output_close(z.bfloat16() if dtype == torch.float64 else z, z, attention, bound)


def test_the_bound_follows_the_largest_score(call: Callable[..., Attention]) -> None:
    quiet, loud = bound_of(call(20, gain=1.0)), bound_of(call(20, gain=10.0))
    assert 5 < (loud.unit - 16 * 2**-23) / (quiet.unit - 16 * 2**-23) < 11  # eps · 16 · max|s|, ten times the scores
    assert bound_of(call(20, dtype=torch.float64)).unit < 1e-12
