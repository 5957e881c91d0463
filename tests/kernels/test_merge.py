"""Joined parts are the whole, whatever the grouping; METRICS' identities against their dense meaning in float64."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probe.kernels import merge as module
from probe.kernels.merge import (
    Part,
    influence,
    learned_sink,
    merge,
    merge_stack,
    scaled_keys,
    softened,
    streaming_gap,
    strongest,
    without_key,
)
from probe.kernels.validate import KernelError

ROWS, KEYS, WIDTH = 5, 24, 3

CLOSE = 2000 * torch.finfo(torch.float64).eps
"""Scores up to 40 in size are off by 40 eps as exponents, sums of 24 terms by 24 eps, and a merge of six parts takes
six such steps on numbers up to about 5 (outputs) and 24 (distances): below 2,000 eps of absolute error."""


def drawn(seed: int, gain: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(ROWS, KEYS, generator=generator, dtype=torch.float64) * gain
    return scores.clamp(-40, 40), torch.randn(KEYS, WIDTH, generator=generator, dtype=torch.float64)


def part_of(scores: Tensor, values: Tensor, keys: Tensor) -> Part:
    """The definition: softmax over the chosen keys, formula by formula."""
    if not keys.any():
        zero = scores.new_zeros(len(scores))
        nothing, none = torch.full_like(zero, -torch.inf), torch.full((len(scores),), -1)
        means = dict.fromkeys(("distance", "even"), zero)
        return Part(nothing, zero, values.new_zeros(len(scores), WIDTH), zero, nothing, none, means)
    hidden = scores.masked_fill(~keys, -torch.inf)
    P = hidden.softmax(-1)
    key = torch.arange(KEYS)
    return Part(
        lse=hidden.logsumexp(-1),
        mass=P.sum(-1),
        output=P @ values,
        entropy=-torch.xlogy(P, P).sum(-1),
        peak=hidden.amax(-1),
        argmax=(hidden == hidden.amax(-1, keepdim=True)).int().argmax(-1),
        means={"distance": (P * (KEYS - 1 - key)).sum(-1), "even": (P * (key % 2 == 0)).sum(-1)},
    )


def assert_same(found: Part, wanted: Part, bound: float = CLOSE) -> None:
    for entry in fields(Part):
        a, b = getattr(found, entry.name), getattr(wanted, entry.name)
        if entry.name == "means":
            assert set(a) == set(b)
            assert all(bool(((a[name] - b[name]).abs() <= bound).all()) for name in b), a
        elif entry.name == "argmax":
            assert torch.equal(a, b)
        else:
            same = (a == b) | ((a - b).abs() <= bound)  # −inf equals itself
            assert bool(same.all()), f"{entry.name}: {a} and {b}"


def everything() -> Tensor:
    return torch.ones(KEYS, dtype=torch.bool)


@settings(max_examples=60, deadline=None)
@given(
    owner=st.lists(st.integers(0, 5), min_size=KEYS, max_size=KEYS),
    seed=st.integers(0, 10**6),
    gain=st.sampled_from([0.1, 2.0, 15.0]),
    cut=st.integers(1, 5),
)
def test_any_grouping_of_any_parts_is_the_whole(owner: list[int], seed: int, gain: float, cut: int) -> None:
    scores, values = drawn(seed, gain)
    parts = [part_of(scores, values, torch.tensor(owner) == number) for number in range(6)]  # some may be empty
    whole = part_of(scores, values, everything())
    assert_same(merge(*parts), whole)
    assert_same(merge(merge(*parts[:cut]), merge(*parts[cut:])), whole)
    assert_same(merge(*reversed(parts)), whole)
    folded = parts[0]
    for part in parts[1:]:
        folded = merge(folded, part)
    assert_same(folded, whole)
    P = scores.softmax(-1)
    assert torch.allclose(merge(*parts).max_weight, P.amax(-1), rtol=CLOSE, atol=0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), split=st.integers(1, KEYS - 1), early=st.booleans())
def test_a_learned_sink_is_one_more_key_without_value_or_entropy(seed: int, split: int, early: bool) -> None:
    scores, values = drawn(seed, 2.0)
    logit = torch.tensor(1.5, dtype=torch.float64)
    near = torch.arange(KEYS) < split
    a, b = part_of(scores, values, near), part_of(scores, values, ~near)
    sink = learned_sink(logit, a)
    merged = merge(merge(a, sink), b) if early else merge(a, merge(b, sink))
    padded = torch.cat([scores, logit.expand(ROWS, 1)], 1)
    P = padded.softmax(-1)[:, :-1]
    wanted = replace(
        part_of(scores, values, everything()),
        lse=padded.logsumexp(-1),
        mass=P.sum(-1),
        output=P @ values,
        entropy=-torch.xlogy(P, P).sum(-1),
        means={
            "distance": (P * (KEYS - 1 - torch.arange(KEYS))).sum(-1),
            "even": (P * (torch.arange(KEYS) % 2 == 0)).sum(-1),
        },
    )
    assert_same(merged, wanted)


def test_a_part_without_a_key_changes_no_bit() -> None:
    scores, values = drawn(3, 2.0)
    some, nothing = part_of(scores, values, everything()), part_of(scores, values, ~everything())
    assert_same(merge(some, nothing), some, bound=0)
    assert_same(merge(nothing, nothing), nothing, bound=0)
    assert merge(nothing, nothing).max_weight.tolist() == [0.0] * ROWS


def test_the_peak_goes_to_the_lowest_key_whatever_the_order() -> None:
    scores, values = torch.zeros(ROWS, KEYS, dtype=torch.float64), torch.ones(KEYS, WIDTH, dtype=torch.float64)
    scores[:, [7, 15]] = 2.0
    near = torch.arange(KEYS) < 10
    a, b = part_of(scores, values, near), part_of(scores, values, ~near)
    assert merge(a, b).argmax.tolist() == merge(b, a).argmax.tolist() == [7] * ROWS


def test_not_a_number_stays_one() -> None:
    scores, values = drawn(1, 2.0)
    scores[2, 20] = torch.nan
    near = torch.arange(KEYS) < 10
    merged = merge(part_of(scores, values, near), part_of(scores, values, ~near))
    for value in (merged.lse, merged.entropy, merged.output[:, 0], merged.means["even"]):
        assert value.isnan().tolist() == [False, False, True, False, False]
    assert merged.argmax[2] == -1


def test_parts_of_other_kinds_are_refused() -> None:
    part = part_of(*drawn(0, 1.0), everything())
    with pytest.raises(KernelError, match=r"means \[\['distance', 'even'\], \[\]\]; wanted at least one part"):
        merge(part, replace(part, means={}))
    with pytest.raises(KernelError, match="at least one part"):
        merge()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("(share * (parts.entropy + parts.mass * gap))", "(share * (parts.entropy + gap))"),
        ("(share * (parts.entropy + parts.mass * gap))", "(share * parts.entropy)"),
        ("share[..., None] * parts.output", "parts.output / len(parts.output)"),
        ("lse = parts.lse.logsumexp(0)", "lse = parts.lse.amax(0)"),
        (").amin(0)", ").amax(0)"),
    ],
)
def test_a_mistake_in_the_merge_is_seen(right: str, wrong: str) -> None:
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert right in source
    mutated: dict[str, object] = {"__name__": module.__name__}
    exec(compile(source.replace(right, wrong), module.__file__, "exec"), mutated)
    scores, values = drawn(5, 1.0)
    scores[:, [4, 20]] = 9.0
    near = torch.arange(KEYS) < 10
    a, b = part_of(scores, values, near), part_of(scores, values, ~near)
    sink = learned_sink(torch.tensor(1.0, dtype=torch.float64), a)
    stack = mutated["merge"](b, a, sink)  # type: ignore[operator]
    with pytest.raises(AssertionError):
        assert_same(stack, merge(b, a, sink))


@settings(max_examples=30, deadline=None)
@given(
    scores=st.lists(st.sampled_from([-2.0, -0.0, 0.0, 1.0, 3.0]), min_size=1, max_size=12),
    count=st.integers(1, 14),
    seed=st.integers(0, 99),
)
def test_the_strongest_are_in_order_and_ties_go_to_the_lowest_key(scores: list[float], count: int, seed: int) -> None:
    key = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[: len(scores)]
    key[len(scores) // 2 :: 5] = -1
    found = strongest(torch.tensor(scores), key, count)
    real = [(score, number) for score, number in zip(scores, key.tolist(), strict=True) if number >= 0]
    wanted = sorted(real, key=lambda pair: (-pair[0], pair[1]))[:count]
    wanted += [(float("-inf"), -1)] * (count - len(wanted))
    assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == wanted


def weights(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    scores, values = drawn(seed, 2.0)
    return scores, values, scores.softmax(-1)


def test_the_streaming_gap_is_the_output_minus_the_kept_one() -> None:
    scores, values, P = weights(0)
    keep = (torch.arange(KEYS) < 4) | (torch.arange(KEYS) >= KEYS - 6)
    kept, dropped = part_of(scores, values, keep), part_of(scores, values, ~keep)
    wanted = P @ values - (P * keep) @ values / (P * keep).sum(-1, keepdim=True)
    assert (streaming_gap(kept, dropped) - wanted).abs().max() <= CLOSE
    assert (wanted.abs() > 0.01).any()


def test_a_learned_sink_is_kept_by_streaming() -> None:
    scores, values, _ = weights(1)
    keep = torch.arange(KEYS) < 9
    logit = torch.tensor(2.0, dtype=torch.float64)
    P = torch.cat([scores, logit.expand(ROWS, 1)], 1).softmax(-1)
    kept = part_of(scores, values, keep)
    gap = streaming_gap(merge(kept, learned_sink(logit, kept)), part_of(scores, values, ~keep))
    real, extra = P[:, :-1], P[:, -1:]
    wanted = real @ values - (real * keep) @ values / ((real * keep).sum(-1, keepdim=True) + extra)
    assert (gap - wanted).abs().max() <= CLOSE


def test_the_streaming_gap_at_its_edges() -> None:
    scores, values, _ = weights(2)
    all_keys, none = part_of(scores, values, everything()), part_of(scores, values, ~everything())
    assert not streaming_gap(all_keys, none).any()
    assert streaming_gap(none, all_keys).isnan().all()


def test_a_small_dropped_mass_keeps_its_digits() -> None:
    scores, values, _ = weights(2)
    scores[:, 0] = 40.0  # the rest weighs about e-17: 1 − m would be 0
    keep = torch.arange(KEYS) == 0
    gap = streaming_gap(part_of(scores, values, keep), part_of(scores, values, ~keep))
    small = torch.exp(scores[:, 1:] - 40)
    wanted = small @ values[1:] - small.sum(-1, keepdim=True) * values[0]  # first order; the next is 1e-34
    assert torch.allclose(gap, wanted, rtol=1e-12, atol=0)


def test_removing_a_key_is_the_softmax_without_it() -> None:
    scores, values, P = weights(3)
    wanted = scores[:, 1:].softmax(-1) @ values[1:]
    # Dividing by 1 − P_s magnifies the rounding of z.
    bound = CLOSE / (1 - P[:, 0]).min()
    assert (without_key(P @ values, P[:, 0], values[0]) - wanted).abs().max() <= bound
    assert without_key(values[:1], torch.ones(1, dtype=torch.float64), values[0]).isnan().all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_scaled_set_gives_the_rest_to_the_others(share: float) -> None:
    _, values, P = weights(4)
    chosen = torch.arange(KEYS) < 4
    mass = (P * chosen).sum(-1)
    moved = torch.where(chosen, share * P, P * (1 + (1 - share) * mass / (1 - mass))[:, None])
    assert (moved.sum(-1) - 1).abs().max() <= CLOSE
    found = scaled_keys((P * chosen) @ values, (P * ~chosen) @ values, mass, share)
    assert (found - moved @ values).abs().max() <= CLOSE / (1 - mass).min()


def test_a_set_of_all_keys_can_only_stay() -> None:
    _, values, P = weights(5)
    z, one = P @ values, torch.ones(ROWS, dtype=torch.float64)
    assert torch.equal(scaled_keys(z, torch.zeros_like(z), one, 1.0), z)
    assert scaled_keys(z, torch.zeros_like(z), one, 0.5).isnan().all()


def test_scaling_to_nothing_is_removal() -> None:
    _, values, P = weights(6)
    a = P[:, :1] * values[0]
    found = scaled_keys(a, P @ values - a, P[:, 0], 0.0)
    assert (found - without_key(P @ values, P[:, 0], values[0])).abs().max() <= CLOSE / (1 - P[:, 0]).min()


def test_softened_is_a_mixture_with_the_identity() -> None:
    _, values, P = weights(7)
    own = values[:ROWS]
    mixed = 0.75 * P
    mixed[torch.arange(ROWS), torch.arange(ROWS)] += 0.25
    assert (softened(P @ values, own, 0.25) - mixed @ values).abs().max() <= CLOSE


def test_influence_is_the_derivative_of_a_linear_metric() -> None:
    scores, values, P = weights(8)
    g = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keep = torch.arange(KEYS) >= 5
    kept, dropped = part_of(scores, values, keep), part_of(scores, values, ~keep)
    ablated = (P * keep) @ values / (P * keep).sum(-1, keepdim=True)
    effect = (g * (P @ values)).sum(-1) - (g * ablated).sum(-1)  # a linear metric: clean minus ablated, exactly
    assert (influence(g, streaming_gap(kept, dropped)) - effect).abs().max() <= WIDTH * 4 * CLOSE


def test_merge_stack_is_merge() -> None:
    scores, values, _ = weights(9)
    near = torch.arange(KEYS) < 10
    parts = [part_of(scores, values, near), part_of(scores, values, ~near)]
    stack = Part(
        *(torch.stack([getattr(part, entry.name) for part in parts]) for entry in fields(Part)[:-1]),
        means={name: torch.stack([part.means[name] for part in parts]) for name in parts[0].means},
    )
    assert_same(merge_stack(stack), merge(*parts), bound=0)
