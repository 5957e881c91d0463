"""One number a head: the reduction of statistics against the dense formulas, and the rows that must not count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from probe.kernels import metrics, reference, reference_metrics
from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Lookup, Mask, Request, Score
from probe.kernels.reference_metrics import SCAN, Head
from probe.kernels.statistics import Statistics
from probe.kernels.testing import bound_of

Call = Callable[..., Attention]
ORDERED = ("previous_token", "current_token", "duplicate_token", "induction", "distance", "local_mass",
           "streaming_mass", "streaming_error")  # fmt: skip


def spans(call: Attention) -> list[tuple[int, int]]:
    if call.mask.lengths is None:
        return [(0, call.k.shape[2])] * call.q.shape[0]
    return [(first, end) for first, end in call.mask.lengths.tolist()]


def positions(call: Attention) -> Tensor:
    """Place of each query among its sequence's own tokens, −1 for padding."""
    place = torch.arange(call.q.shape[2]).expand(call.q.shape[0], -1)
    first, end = torch.tensor(spans(call)).T[:, :, None]
    return torch.where((place >= first) & (place < end), place - first, -1)


def token_request(tokens: Tensor, **settings: int) -> Request:
    """The lookups of a scan, in labels."""
    before = torch.cat([torch.full_like(tokens[:, :1], -1), tokens[:, :-1]], 1)
    lookups = {"duplicate_token": Lookup(tokens, tokens, gap=1), "induction": Lookup(tokens, before)}
    return Request(**{"sinks": 2, "window": 9, "bands": 16, "lookups": lookups, **settings})


def dense_heads(call: Attention, tokens: Tensor, request: Request, b: int) -> list[Head]:
    """Each head of one sequence as the dense formulas want it: its own tokens only."""
    first, end = spans(call)[b]
    own, r = slice(first, end), call.q.shape[1] // call.k.shape[1]
    P, seen = reference.pattern(call), reference.visibility(call)
    return [
        Head(
            P=P[b, h, own, own],
            seen=seen[b, h, own, own],
            v=call.v[b, h // r, own].double(),
            tokens=tokens[b, own],
            ordered=call.mask.causal,
            learned_sink=call.score.sinks is not None,
            sinks=request.sinks,
            window=request.window,
        )
        for h in range(call.q.shape[1])
    ]


def measured(call: Attention, tokens: Tensor, request: Request) -> tuple[dict[str, Tensor], Statistics]:
    """Every column as a scan makes it: `head_metrics`, and the lookups over the rows that have an earlier copy."""
    z, statistics = blockwise(call, request)
    position = positions(call)
    found = metrics.head_metrics(
        statistics, z, position, learned_sink=call.score.sinks is not None, ordered=call.mask.causal
    )
    copies = torch.stack(
        [
            torch.tensor([bool((row[first:i] == row[i]).any()) and first <= i < end for i in range(len(row))])
            for row, (first, end) in zip(tokens, spans(call), strict=True)
        ]
    )
    rows = copies[:, None] & (statistics.visible > 0) & call.mask.causal
    return {**found, **{name: metrics.mean_rows(mass, rows) for name, mass in statistics.lookup.items()}}, statistics


def tokens_of(call: Attention, alphabet: int = 7) -> Tensor:
    """Random ids, −1 in the padding."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, alphabet, call.k.shape[:1] + call.k.shape[2:3], generator=generator)
    return ids.masked_fill(positions(call) < 0, -1)


@pytest.mark.parametrize(
    "rule",
    ["causal", "window 17", "window 1", "learned sinks", "bidirectional", "bidirectional window", "soft cap",
     "left padding", "right padding", "packed"],
)  # fmt: skip
@pytest.mark.parametrize("T", [1, 2, 40, 130])
def test_every_column_is_its_dense_formula(rule: str, T: int, call: Call) -> None:
    made = call(T, rule=rule, ratio=3, groups=1)
    tokens = tokens_of(made)
    request = token_request(tokens)
    found, _ = measured(made, tokens, request)
    unit = bound_of(made).unit
    for b in range(2):
        for h, head in enumerate(dense_heads(made, tokens, request, b)):
            for name, formula in SCAN.items():
                if name.endswith("_chance"):
                    continue
                wanted, value = formula(head), float(found[name][b, h])
                # A mean of rows within `unit` of their size; the error's numerator is a difference of vectors.
                slack = unit * max(1.0, head.T if name == "distance" else 0, abs(wanted)) * 4
                assert math.isnan(value) == math.isnan(wanted), (name, value, wanted)
                assert math.isnan(wanted) or abs(value - wanted) <= slack, (name, value, wanted)
                assert made.mask.causal or name not in ORDERED or math.isnan(value)


@pytest.mark.parametrize("rule", ["causal", "window 17", "left padding"])
def test_profiles_are_their_dense_formulas(rule: str, call: Call) -> None:
    made = call(100, rule=rule)
    tokens = tokens_of(made)
    request = token_request(tokens)
    _, statistics = measured(made, tokens, request)
    alpha, offsets = metrics.received_mean(statistics), metrics.offset_mass(statistics, positions(made))
    unit = bound_of(made).unit
    assert statistics.thumbnail is not None
    for b, (first, end) in enumerate(spans(made)):
        for h, head in enumerate(dense_heads(made, tokens, request, b)):
            assert (alpha[b, h, first:end] - reference_metrics.alpha(head)).abs().max() <= unit
            wanted = torch.tensor(reference_metrics.offset_mass(head))
            assert (offsets[b, h, : len(wanted)] - wanted).abs().max() <= unit
            assert float(offsets[b, h].sum()) == pytest.approx(1, abs=unit)
            small = reference_metrics.thumbnail(head, 16)
            assert torch.equal(statistics.thumbnail[b, h].isnan(), small.isnan())
            assert (statistics.thumbnail[b, h] - small).nan_to_num(0).abs().max() <= unit


def one_head(P: Tensor) -> tuple[Statistics, Tensor]:
    """Statistics of a causal head with the given weights: scores are their logarithms."""
    T = len(P)
    made = Attention(
        P.log().clamp(min=-1e4)[None, None], torch.eye(T)[None, None].to(P), P.new_ones(1, 1, T, 1), Mask(), Score(1.0)
    )
    z, statistics = blockwise(made, Request(bands=0))
    return statistics, z


def test_known_answers_of_the_sink_rate() -> None:
    """Gu et al.'s table: a share f on the first column and the rest on itself has α = f + (1 − f) / 64."""
    for share, sunk in ((0.29, 1.0), (0.28, 0.0)):
        P = torch.eye(64, dtype=torch.float64) * (1 - share)
        P[:, 0] += share
        statistics, z = one_head(P)
        found = metrics.head_metrics(statistics, z, torch.arange(64)[None])
        assert float(metrics.received_mean(statistics)[0, 0, 0]) == pytest.approx(share + (1 - share) / 64, abs=1e-12)
        assert float(found["sink_rate"]) == sunk
        assert float(found["sink_first"]) == pytest.approx(share, abs=1e-12)
        assert float(found["current_token"]) == pytest.approx(1 - share, abs=1e-12)


def test_the_threshold_itself_is_no_sink(call: Call) -> None:
    statistics = blockwise(call(64, B=1), Request())[1]
    even = replace(statistics, received=statistics.received_rows * 0.5)
    z, position = torch.zeros(1, 4, 64, 16), torch.arange(64)[None]
    for threshold, rate in ((0.5, 0.0), (0.49, 1.0)):
        found = metrics.head_metrics(even, z, position, sink_rate_threshold=threshold)
        assert (found["sink_rate"] == rate).all()


def test_late_columns_are_no_sinks() -> None:
    """A previous-token head's last columns have α of 1/3 and 1/2 for want of rows, and must not count."""
    P = torch.eye(64, dtype=torch.float64).roll(1, 0)
    P[0] = torch.eye(64)[0]
    statistics, z = one_head(P)
    alpha = metrics.received_mean(statistics)[0, 0]
    assert alpha[61:63].tolist() == pytest.approx([1 / 3, 1 / 2], abs=1e-12)
    found = metrics.head_metrics(statistics, z, torch.arange(64)[None])
    assert float(found["sink_other"]) == pytest.approx(1 / 32, abs=1e-12)
    assert float(found["previous_token"]) == 1
    assert float(found["distance"]) == pytest.approx(1, abs=1e-12)
    short, z = one_head(P[:20, :20])
    assert math.isnan(float(metrics.head_metrics(short, z, torch.arange(20)[None])["sink_other"]))


def test_a_head_that_writes_nothing_has_no_streaming_error(call: Call) -> None:
    made = call(80)
    made = replace(made, v=made.v * torch.tensor([0.0, 1.0])[:, None, None])
    z, statistics = blockwise(made, Request(sinks=1, window=4))
    found = metrics.head_metrics(statistics, z, torch.arange(80).expand(2, -1))
    assert found["streaming_error"][:, :2].isnan().all()
    assert (found["streaming_error"][:, 2:] > 0).all()


def test_keeping_everything_loses_nothing(call: Call) -> None:
    made = call(60)
    z, statistics = blockwise(made, Request(window=64))
    found = metrics.head_metrics(statistics, z, torch.arange(60).expand(2, -1))
    unit = bound_of(made).unit
    assert (found["streaming_error"] <= unit**2).all()
    assert ((found["streaming_mass"] - 1).abs() <= unit).all()


def test_the_streaming_identity(call: Call) -> None:
    """z − z_keep = (1 − m)(z_drop − z_keep), from the parts alone."""
    made = call(90, dtype=torch.float64)
    z, s = blockwise(made, Request(window=9))
    mass, _ = metrics.streaming(s, z, learned_sink=False)
    kept = (s.sink_part + s.local_part) / mass[..., None]
    left = (1 - mass)[..., None]
    some = left[..., 0] > 1e-3
    dropped = (z - s.sink_part - s.local_part) / left
    assert (z - kept - left * (dropped - kept))[some].abs().max() < 1e-12


def test_sigmoid_gates_have_no_streaming_error(call: Call) -> None:
    z, statistics = blockwise(call(40, rule="sigmoid"), Request(window=9))
    found = metrics.head_metrics(statistics, z, torch.arange(40).expand(2, -1))
    for name in ("entropy", "entropy_normalised", "max_weight", "distance", "streaming_error"):
        assert found[name].isnan().all(), name
    assert (found["previous_token"] > 0).all()


def test_bins_of_distances() -> None:
    assert metrics.offset_edges(10) == [0, 1, 2, 4, 8, 10]
    assert metrics.offset_edges(1) == [0, 1]
    for T in (2, 3, 4, 5, 64, 65, 4096):
        assert len(metrics.offset_edges(T)) - 1 == 2 + int(math.log2(T - 1))


def test_means_over_no_row_are_nan() -> None:
    value = torch.tensor([[[1.0, torch.nan, 3.0]]])
    assert float(metrics.mean_rows(value, torch.tensor([[[True, False, True]]]))) == 2
    assert metrics.mean_rows(value, torch.zeros(1, 1, 3, dtype=torch.bool)).isnan().all()
    assert metrics.mean_rows(value, torch.tensor([[[False, True, True]]])).isnan().all()
    assert float(metrics.nanmax(value)) == 3
    assert metrics.nanmax(value * torch.nan).isnan().all()
