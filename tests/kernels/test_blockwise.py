"""Both stages of the sweep against the float64 definitions over awkward shapes, and laws that need no reference."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from itertools import combinations, product
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from probe.kernels import strips
from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Mask, Request, Score
from probe.kernels.numba_backend import compiled, refusal
from probe.kernels.statistics import Statistics
from probe.kernels.testing import bound_of

Call = Callable[..., Attention]
Ask = Callable[..., Request]
Check = Callable[..., dict[str, float]]
Sweep = Callable[[Attention, Request], tuple[Tensor, Statistics]]

RULES = (
    "causal", "bidirectional", "window 1", "window 17", "window beyond", "bidirectional window", "soft cap",
    "learned sinks", "bias", "everything", "decoding", "decoding in a window", "left padding", "right padding",
    "nothing seen", "nothing seen, bidirectional", "packed", "sigmoid",
    "documents", "slopes", "slopes, bidirectional", "temperature", "everything in tensors",
)  # fmt: skip
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FACTORS: tuple[tuple[Any, ...], ...] = (
    (1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 257),  # T
    RULES,
    (16, 24, 40, 64, 80, 111, 128),  # D
    (1, 2, 3, 4, 5, 6, 7, 8),  # H / G
    DTYPES,
    (True, False),  # v narrower than k
)


def pairwise(factors: tuple[tuple[Any, ...], ...]) -> Iterator[tuple[Any, ...]]:
    """Few cases in which every two values of two different factors meet at least once: greedy, no chance in it."""
    left = {
        (a, x, b, y)
        for a, b in combinations(range(len(factors)), 2)
        for x, y in product(range(len(factors[a])), range(len(factors[b])))
    }
    while left:
        a, x, b, y = min(left)
        case = {a: x, b: y}
        for c in range(len(factors)):
            if c not in case:
                case[c] = max(
                    range(len(factors[c])),
                    key=lambda z: sum((min((c, z), p) + max((c, z), p)) in left for p in case.items()),
                )
        left -= {(i, case[i], j, case[j]) for i, j in combinations(range(len(factors)), 2)}
        yield tuple(factors[c][case[c]] for c in range(len(factors)))


def fast(call: Attention, request: Request) -> tuple[Tensor, Statistics]:
    """What "auto" is with `headprobe[fast]`: the compiled stage for every call that it serves."""
    return (compiled if refusal(call) is None else blockwise)(call, request)


@pytest.fixture(scope="session", params=["torch", "numba"])
def sweep(request: pytest.FixtureRequest) -> Sweep:
    if request.param == "torch":
        return blockwise
    pytest.importorskip("numba")
    return fast


@pytest.fixture(scope="session")
def check(check: Check, sweep: Sweep) -> Check:
    return lambda call, request=None: check(call, request, sweep)


CASES = list(pairwise(FACTORS))


def name(case: tuple[Any, ...]) -> str:
    return "-".join(str(value).removeprefix("torch.") for value in case)


def test_the_cases_cover_every_pair(rules: list[str]) -> None:
    assert set(rules) == set(RULES)
    for (a, first), (b, second) in combinations(enumerate(FACTORS), 2):
        assert {(case[a], case[b]) for case in CASES} == set(product(first, second))


@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_statistic_is_within_its_bound(case: tuple[Any, ...], call: Call, check: Check) -> None:
    T, rule, D, ratio, dtype, narrow = case
    check(call(T, rule=rule, D=D, ratio=ratio, dtype=dtype, Dv=D - 7 if narrow else D, groups=1 + ratio % 2))


@pytest.mark.full
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("T", [*FACTORS[0], 1000, 2049])
def test_the_whole_grid(T: int, rule: str, call: Call, check: Check) -> None:
    for seed, (ratio, dtype) in enumerate(product(FACTORS[3], DTYPES)):
        if T >= 1000 and (ratio not in (1, 3) or dtype not in (torch.float32, torch.bfloat16)):
            continue  # the dense reference takes seconds a case there
        D = FACTORS[2][seed % len(FACTORS[2])]
        check(call(T, rule=rule, D=D, ratio=ratio, dtype=dtype, Dv=D - seed % 5, groups=1, seed=seed))


@pytest.mark.parametrize("ratio", [16, 17, 20])
def test_many_heads_on_one_key_head(ratio: int, call: Call, check: Check) -> None:
    check(call(70, ratio=ratio, groups=1))


@pytest.mark.parametrize(
    "asked",
    [{"sinks": 0}, {"sinks": 200}, {"window": 1}, {"window": 500}, {"bands": 0}, {"bands": 1}, {"bands": 64},
     {"sinks": 12, "window": 3}, {"lookups": {}}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("rule", ["causal", "window 17", "decoding", "left padding"])
def test_any_request(asked: dict[str, Any], rule: str, call: Call, request_for: Ask, check: Check) -> None:
    made = call(150, rule=rule)
    check(made, request_for(made, **asked))


@pytest.mark.parametrize("lengths", [[[0, 0], [5, 30]], [[0, 0], [40, 40]], [[39, 40], [0, 1]]])
def test_sequences_of_no_token_and_of_one(lengths: list[list[int]], call: Call, check: Check) -> None:
    check(replace(call(40), mask=Mask(lengths=torch.tensor(lengths))))


@pytest.mark.parametrize("lengths", [[[0, 49], [12, 49]], [[0, 45], [2, 20]], [[30, 49], [0, 9]]])
def test_decoding_a_padded_batch(lengths: list[list[int]], call: Call, check: Check) -> None:
    check(replace(call(40, rule="decoding"), mask=Mask(query_offset=9, lengths=torch.tensor(lengths))))


def test_cross_attention_and_masks_by_head_and_sequence(call: Call, check: Check) -> None:
    made, other = call(40), call(90, seed=1)
    for causal in (True, False):
        check(replace(made, k=other.k, v=other.v, mask=Mask(causal=causal)))

    def by_head(rows: Tensor, columns: Tensor) -> Tensor:
        return (rows[:, None] + columns)[None, None] % torch.tensor([2, 3, 4, 5])[None, :, None, None] != 0

    def by_sequence(rows: Tensor, columns: Tensor) -> Tensor:
        return (rows[:, None] + columns)[None, None] % torch.tensor([2, 3])[:, None, None, None] != 0

    check(replace(made, mask=Mask(allowed=by_head)))
    check(replace(made, mask=Mask(allowed=by_sequence, causal=False)))


def test_a_single_decoding_step(call: Call, check: Check) -> None:
    made = call(64)
    check(replace(made, q=made.q[:, :, :1], mask=Mask(query_offset=63)))


def test_tensors_in_any_layout(call: Call, check: Check) -> None:
    made = call(40)
    check(replace(made, q=made.q.transpose(1, 2).contiguous().transpose(1, 2), v=made.v.mT.contiguous().mT))


@pytest.mark.parametrize("sweep", ["torch"], indirect=True)
@pytest.mark.parametrize("width", [1, 7, 64])
@pytest.mark.parametrize("rule", RULES)
def test_tiles_of_any_width(rule: str, width: int, call: Call, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "TILE", width)
    check(call(70, rule=rule, ratio=3, groups=1))


@pytest.mark.parametrize("rule", ["causal", "bidirectional", "left padding"])
def test_more_keys_than_a_tile(rule: str, call: Call, check: Check) -> None:
    check(call(strips.TILE + 76, rule=rule, ratio=2, groups=1))


# Strange scores


@pytest.mark.parametrize("gain", [60.0, 300.0, 1e4])
@pytest.mark.parametrize("rule", ["causal", "window 17", "learned sinks", "left padding"])
def test_huge_scores(gain: float, rule: str, call: Call, check: Check) -> None:
    check(call(130, rule=rule, gain=gain, Dv=8))


@pytest.mark.parametrize("rule", ["causal", "bidirectional", "window 17"])
def test_constant_scores_are_uniform_attention(
    rule: str, call: Call, check: Check, request_for: Ask, sweep: Sweep
) -> None:
    made = call(130, rule=rule)
    made = replace(made, q=made.q * 0)
    check(made)
    found = sweep(made, request_for(made))[1]
    assert (found.entropy - found.visible.log()).abs().max() < 1e-6


def test_one_key_with_all_the_weight_has_no_entropy(call: Call, request_for: Ask, sweep: Sweep) -> None:
    made = call(130, gain=0.0)
    q, k = torch.ones_like(made.q), torch.zeros_like(made.k)
    k[:, :, 0] = 1e4
    found = sweep(replace(made, q=q, k=k), request_for(made))[1]
    assert found.entropy.abs().max() <= 1e-6
    assert (found.max_weight == 1).all()
    assert (found.first == 1).all()
    assert torch.equal(found.distance, torch.arange(130.0).expand_as(found.distance))


def test_nan_stays_where_it_is(call: Call, request_for: Ask, sweep: Sweep) -> None:
    made = call(40)
    q = made.q.clone()
    q[0, 1, 20, 3] = torch.nan
    clean, found = sweep(made, request_for(made))[1], sweep(replace(made, q=q), request_for(made))[1]
    assert found.lse[0, 1, 20].isnan()
    rest = torch.ones_like(found.lse, dtype=torch.bool)
    rest[0, 1, 20] = False
    assert torch.equal(found.lse[rest], clean.lse[rest])
    assert found.received[0, 1].isnan().any()
    assert not found.received[1].isnan().any()


# Padding


def equal(first: Statistics, second: Statistics) -> None:
    for entry in fields(Statistics):
        one, two = getattr(first, entry.name), getattr(second, entry.name)
        if one is None and two is None:
            continue
        for a, b in zip(
            one.values() if isinstance(one, dict) else [one],
            two.values() if isinstance(two, dict) else [two],
            strict=True,
        ):
            assert torch.equal(torch.nan_to_num(a, -7.0), torch.nan_to_num(b, -7.0)), entry.name
            assert torch.equal(a.isnan(), b.isnan()), entry.name


@pytest.mark.parametrize("rule", ["left padding", "right padding"])
def test_what_stands_in_the_padding_changes_no_bit(rule: str, call: Call, request_for: Ask, sweep: Sweep) -> None:
    made = call(70, rule=rule)
    assert made.mask.lengths is not None
    place = torch.arange(70)
    outside = (place < made.mask.lengths[:, :1]) | (place >= made.mask.lengths[:, 1:])
    other = {side: torch.where(outside[:, None, :, None], torch.full((), 1e3), getattr(made, side)) for side in "qkv"}
    z, found = sweep(made, request_for(made))
    z_other, found_other = sweep(replace(made, **other), request_for(made))
    assert torch.equal(z, z_other)
    equal(found, found_other)


ALONE = ("lse", "entropy", "max_weight", "distance", "first", "previous", "current", "local", "sink_mass")


def test_left_padding_right_padding_and_alone_are_the_same(call: Call, request_for: Ask, sweep: Sweep) -> None:
    alone, pad = call(50, B=1), 21
    bound = bound_of(alone)
    truth = sweep(alone, request_for(alone, lookups={}))
    for first in (0, pad):
        wide = {side: torch.nn.functional.pad(getattr(alone, side), (0, 0, first, pad - first)) for side in "qkv"}
        made = replace(alone, **wide, mask=Mask(lengths=torch.tensor([[first, first + 50]])))
        z, found = sweep(made, request_for(alone, lookups={}))
        own = slice(first, first + 50)
        # Both are within the bound of the truth, so within twice the bound of each other.
        assert (z[:, :, own] - truth[0]).abs().max() <= 2 * bound.unit * bound.values
        for entry in ALONE:
            there, here = getattr(found, entry)[:, :, own], getattr(truth[1], entry)
            assert (there - here).abs().max() <= 2 * bound.unit * here.abs().max().clamp(min=1), entry
        for entry in ("received", "by_distance"):
            begin = first if entry == "received" else 0  # distances have no place in the batch
            there = getattr(found, entry)[..., begin : begin + 50]
            assert (there - getattr(truth[1], entry)).abs().max() <= 2 * bound.unit * 50
        assert found.thumbnail is not None
        assert truth[1].thumbnail is not None
        assert torch.equal(found.thumbnail.isnan(), truth[1].thumbnail.isnan())
        assert (found.thumbnail - truth[1].thumbnail).nan_to_num(0).abs().max() <= 2 * bound.unit
        assert found.lse[:, :, :first].isnan().all()
        assert (z[:, :, :first] == 0).all()


# Laws

LAWS = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SHAPES = {
    "T": st.integers(1, 150),
    "rule": st.sampled_from([rule for rule in RULES if rule != "sigmoid"]),
    "D": st.integers(1, 40),
    "ratio": st.integers(1, 6),
    "gain": st.floats(0, 20),
    "seed": st.integers(0, 10**6),
}


@LAWS
@given(shape=st.fixed_dictionaries(SHAPES))
def test_what_is_received_is_what_is_given(shape: dict[str, Any], call: Call, request_for: Ask, sweep: Sweep) -> None:
    made = call(**shape)
    found = sweep(made, request_for(made))[1]
    given_, rows = found.row_mass.double().nansum(-1), (found.visible > 0).sum(-1)
    slack = bound_of(made).unit * rows.clamp(min=1)
    assert (found.received >= 0).all()
    assert ((found.received.sum(-1) - given_).abs() <= slack).all()
    if made.mask.causal:
        first = 0 if made.mask.lengths is None else None
        whole = found.by_distance.sum(-1)
        assert (whole <= given_ + slack).all()
        if first == 0 and made.mask.query_offset == 0:
            # Row 0 is left out of the distances.
            assert ((whole - (given_ - found.row_mass[..., 0].double().nan_to_num(0))).abs() <= slack).all()
    assert (found.received_rows.sum(-1) == found.visible.sum(-1)).all()


@LAWS
@given(shape=st.fixed_dictionaries(SHAPES))
def test_entropy_and_masses_have_their_ranges(
    shape: dict[str, Any], call: Call, request_for: Ask, sweep: Sweep
) -> None:
    made = call(**shape)
    found = sweep(made, request_for(made))[1]
    unit, seen = bound_of(made).unit, found.visible > 0
    ceiling = found.visible.clamp(min=1).log()
    assert (found.entropy[seen] >= -unit).all()
    if made.score.sinks is None:  # beside a sink the real keys' weights do not sum to 1: another ceiling
        assert (found.entropy[seen] <= ceiling[seen] + unit).all()
        assert ((found.row_mass[seen] - 1).abs() <= unit).all()
        assert (found.max_weight[seen] >= 1 / found.visible[seen] - unit).all()
    masses = [found.max_weight, found.first, found.row_mass, *found.lookup.values()]
    if made.mask.causal:
        masses += [found.previous, found.current, found.local, found.sink_mass, found.local_mass]
        assert (found.distance[seen] >= -unit * made.k.shape[2]).all()
    for mass in masses:
        assert (mass[seen] >= -unit).all()
        assert (mass[seen] <= 1 + unit).all()
        assert mass[~seen].isnan().all()


@LAWS
@given(shape=st.fixed_dictionaries({**SHAPES, "rule": st.sampled_from(["causal", "window 17", "left padding"])}))
def test_key_heads_are_the_repeated_keys(shape: dict[str, Any], call: Call, request_for: Ask, sweep: Sweep) -> None:
    made = call(**shape)
    repeated = replace(
        made, k=made.k.repeat_interleave(shape["ratio"], 1), v=made.v.repeat_interleave(shape["ratio"], 1)
    )
    bound = bound_of(made)
    (z, one), (z_two, two) = (sweep(each, request_for(made)) for each in (made, repeated))
    assert (z - z_two).abs().max() <= 2 * bound.unit * bound.values
    assert ((one.lse - two.lse).abs().nan_to_num(0) <= 2 * bound.unit).all()
    assert ((one.received - two.received).abs() <= 2 * bound.unit * one.received + 1e-30).all()


@LAWS
@given(shape=st.fixed_dictionaries(SHAPES), turn=st.integers(0, 5))
def test_heads_do_not_know_their_neighbours(
    shape: dict[str, Any], turn: int, call: Call, request_for: Ask, sweep: Sweep
) -> None:
    made = call(**{**shape, "rule": "causal", "groups": 3})
    order = torch.arange(3).roll(turn)
    heads = (order[:, None] * shape["ratio"] + torch.arange(shape["ratio"])).flatten()
    moved = replace(made, q=made.q[:, heads], k=made.k[:, order], v=made.v[:, order])
    (z, one), (z_moved, two) = (sweep(each, request_for(made)) for each in (made, moved))
    assert torch.equal(z[:, heads], z_moved)
    for entry in ("entropy", "distance", "received", "by_distance", "visible"):
        assert torch.equal(getattr(one, entry)[:, heads], getattr(two, entry)), entry


@LAWS
@given(shape=st.fixed_dictionaries(SHAPES), constant=st.floats(-50, 50))
def test_a_constant_on_all_scores_moves_only_the_lse(
    shape: dict[str, Any], constant: float, call: Call, request_for: Ask, sweep: Sweep
) -> None:
    made = call(**{**shape, "rule": "causal"})

    def bias(rows: Tensor, columns: Tensor) -> Tensor:
        return torch.full((1, 1, len(rows), len(columns)), constant)

    lifted = replace(made, score=Score(made.score.scale, bias=bias))
    bound = bound_of(lifted)
    (z, one), (z_lifted, two) = (sweep(each, request_for(made)) for each in (made, lifted))
    assert (z - z_lifted).abs().max() <= 2 * bound.unit * bound.values
    assert (two.lse - one.lse - constant).abs().max() <= 2 * bound.unit
    assert (one.entropy - two.entropy).abs().max() <= 2 * bound.unit
    assert (one.received - two.received).abs().max() <= 2 * bound.unit * made.q.shape[2]


def test_keys_of_no_order_may_be_shuffled(call: Call, request_for: Ask, sweep: Sweep) -> None:
    made = call(100, rule="bidirectional")
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    bound = bound_of(made)
    (z, one), (z_moved, two) = (
        sweep(each, request_for(made, lookups={}))
        for each in (made, replace(made, k=made.k[:, :, order], v=made.v[:, :, order]))
    )
    assert (z - z_moved).abs().max() <= 2 * bound.unit * bound.values
    assert (one.received[..., order] - two.received).abs().max() <= 2 * bound.unit * 100
    assert (one.entropy - two.entropy).abs().max() <= 2 * bound.unit


# Threads


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("rule", ["causal", "everything", "left padding", "bidirectional"])
def test_equal_bits_for_any_number_of_threads(
    rule: str, call: Call, request_for: Ask, threads: Callable[[int], None], sweep: Sweep
) -> None:
    made, results = call(300, rule=rule, ratio=3), []
    for count in (1, 2, 3):
        threads(count)
        results.append(sweep(made, request_for(made)))
        assert torch.get_num_threads() == count
    for z, found in results[1:]:
        assert torch.equal(z, results[0][0])
        equal(found, results[0][1])


def test_an_error_leaves_the_number_of_threads_alone(
    call: Call, request_for: Ask, threads: Callable[[int], None], sweep: Sweep
) -> None:
    def broken(rows: Tensor, columns: Tensor) -> Tensor:
        raise ArithmeticError("no such mask")

    threads(2)
    made = replace(call(300), mask=Mask(allowed=broken))
    running = threading.active_count()
    with pytest.raises(ArithmeticError, match="no such mask"):
        sweep(made, request_for(made))
    assert torch.get_num_threads() == 2
    assert threading.active_count() == running


def test_calls_from_several_threads_do_not_meet(call: Call, request_for: Ask, sweep: Sweep) -> None:
    calls = [call(80, seed=seed) for seed in range(4)]
    alone = [sweep(made, request_for(made))[0] for made in calls]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda made: sweep(made, request_for(made))[0], calls))
    assert all(torch.equal(one, two) for one, two in zip(alone, together, strict=True))


def test_the_same_call_twice_gives_the_same_bits(call: Call, request_for: Ask, sweep: Sweep) -> None:
    made = call(200, rule="window 17")
    first = sweep(made, request_for(made))
    for _ in range(5):
        z, found = sweep(made, request_for(made))
        assert torch.equal(z, first[0])
        equal(found, first[1])
