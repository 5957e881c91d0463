"""The dense definitions themselves: against torch's own attention, loops written out, and known answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from probe.kernels import reference
from probe.kernels.inputs import Attention, Lookup, Mask, Request, Score

Call = Callable[..., Attention]


@pytest.mark.parametrize("causal", [True, False])
def test_the_output_is_torchs_own_attention(causal: bool, call: Call) -> None:
    made = call(33, dtype=torch.float64, ratio=3)
    made = replace(made, mask=Mask(causal=causal))
    wanted = F.scaled_dot_product_attention(made.q, made.k, made.v, is_causal=causal, enable_gqa=True)
    # Both float64: 33 terms of size max|v|, a few roundings each.
    assert (reference.output(made) - wanted).abs().max() < 100 * torch.finfo(torch.float64).eps


def test_the_soft_cap_bias_and_sink_act_in_the_stated_order(call: Call) -> None:
    made = call(7, rule="everything", dtype=torch.float64, B=1)
    made = replace(made, mask=Mask())
    score, P = made.score, reference.pattern(made)
    assert score.bias is not None
    assert score.sinks is not None
    bias = score.bias(torch.arange(7), torch.arange(7))
    for h in range(4):
        for i in range(7):
            s = [
                5.0 * math.tanh(float(made.q[0, h, i] @ made.k[0, h // 2, j]) * score.scale / 5.0)
                + float(bias[0, h, i, j])
                for j in range(i + 1)
            ]
            total = sum(math.exp(x) for x in s) + math.exp(float(score.sinks[h]))
            for j in range(7):
                wanted = math.exp(s[j]) / total if j <= i else 0.0
                assert float(P[0, h, i, j]) == pytest.approx(wanted, rel=1e-12)


def test_visibility_is_each_rule_and_all_of_them(call: Call) -> None:
    made = call(30, rule="packed")
    lengths = torch.tensor([[0, 30], [4, 25]])
    mask = replace(made.mask, window=7, lengths=lengths)
    seen = reference.visibility(replace(made, mask=mask))
    for b in range(2):
        first, end = lengths[b].tolist()
        for i in range(30):
            for j in range(30):
                own = first <= i < end and first <= j < end
                assert bool(seen[b, 0, i, j]) == (own and i - 7 < j <= i and i // 20 == j // 20)


def test_a_bidirectional_window_reaches_both_ways(call: Call) -> None:
    seen = reference.visibility(call(12, rule="bidirectional window"))[0, 0]
    i, j = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    assert torch.equal(seen, (i - j).abs() < 5)


def uniform(T: int, **mask: Any) -> Attention:
    """Equal scores: each weight is one over the number of visible keys."""
    zero = torch.zeros(1, 1, T, 4, dtype=torch.float64)
    v = torch.arange(4.0 * T, dtype=torch.float64).view(1, 1, T, 4)
    return Attention(zero, zero, v, Mask(**mask), Score(1.0))


def test_known_answers_of_uniform_attention() -> None:
    labels = torch.arange(64)[None] % 8
    request = Request(sinks=4, window=8, lookups={"same": Lookup(labels, labels, gap=1)}, bands=64)
    z, s = reference.statistics(uniform(64), request)
    i = torch.arange(64, dtype=torch.float64)
    assert torch.allclose(s.entropy[0, 0], (i + 1).log(), atol=1e-14)
    assert torch.allclose(s.lse[0, 0], (i + 1).log(), atol=1e-14)
    assert torch.allclose(s.max_weight[0, 0], 1 / (i + 1), atol=1e-15)
    assert torch.allclose(s.distance[0, 0], i / 2, atol=1e-13)
    assert torch.allclose(s.local[0, 0], (i + 1).clamp(max=8) / (i + 1), atol=1e-15)
    assert torch.allclose(s.sink_mass[0, 0], (i + 1).clamp(max=4) / (i + 1), atol=1e-15)
    both = ((i + 1).clamp(max=12) - (i + 1).clamp(max=4)) / (i + 1)
    assert torch.allclose(s.local_mass[0, 0], both, atol=1e-15)
    assert torch.allclose(s.lookup["same"][0, 0], (i // 8) / (i + 1), atol=1e-15)
    # Gu et al.'s α of column 1 is H_64 / 64 and of the last column 1 / 64.
    assert float(s.received[0, 0, 0]) / 64 == pytest.approx(0.0741233, abs=5e-8)
    assert float(s.received[0, 0, 63]) == pytest.approx(1 / 64, abs=1e-15)
    assert torch.allclose(z[0, 0, :, 0], 2 * i, atol=1e-12)  # the mean of 0, 4, … 4i
    assert s.thumbnail is not None
    assert torch.allclose(s.thumbnail[0, 0].sum(1), torch.ones(64, dtype=torch.float64), atol=1e-14)


def test_distances_and_bands_of_uniform_attention() -> None:
    _, s = reference.statistics(uniform(5), Request(bands=2))
    # By distance d: Σ over i >= max(d, 1) of 1 / (i + 1).
    wanted = [sum(1 / (i + 1) for i in range(max(d, 1), 5)) for d in range(5)]
    assert s.by_distance[0, 0].tolist() == pytest.approx(wanted, abs=1e-15)
    # Bands of 5 tokens in 2: tokens 0–2 and 3–4. The first three rows never look at the second band.
    assert s.thumbnail is not None
    second = (3 / 4 + 3 / 5) / 2
    assert s.thumbnail[0, 0].flatten().tolist() == pytest.approx([1, 0, second, 1 - second], abs=1e-15)


def test_what_is_not_defined_is_nan(call: Call, request_for: Callable[..., Request]) -> None:
    ordered = ("distance", "previous", "current", "local", "sink_mass", "local_mass", "sink_part", "local_part")
    normal = ("lse", "entropy", "max_weight", "distance")
    for rule, missing in (("bidirectional", ordered), ("sigmoid", normal)):
        made = call(9, rule=rule)
        _, s = reference.statistics(made, request_for(made))
        for name in {*ordered, *normal}:
            value: Tensor = getattr(s, name)
            assert bool(value.isnan().all()) == (name in missing), (rule, name)
        assert s.by_distance.isnan().all()


def test_queries_that_see_nothing_are_nan_and_write_nothing(call: Call, request_for: Callable[..., Request]) -> None:
    made = call(20, rule="nothing seen")
    z, s = reference.statistics(made, request_for(made))
    blind = torch.arange(20) % 3 == 0
    assert torch.equal(s.visible[0, 0] == 0, blind)
    for value in (s.lse, s.entropy, s.first, s.row_mass, s.lookup["induction"], s.sink_part[..., 0]):
        assert torch.equal(value[0, 0].isnan(), blind)
    assert (z[:, :, blind] == 0).all()


def test_a_chunk_with_an_offset_is_the_rows_of_the_whole(call: Call, request_for: Callable[..., Request]) -> None:
    whole = call(40, dtype=torch.float64)
    chunk = replace(whole, q=whole.q[:, :, 25:], mask=Mask(query_offset=25))
    request = request_for(chunk)
    _, part = reference.statistics(chunk, replace(request, bands=0))
    _, full = reference.statistics(whole, Request(sinks=2, window=9, bands=0))
    for name in ("lse", "entropy", "distance", "first", "previous", "current", "local", "sink_mass", "visible"):
        assert torch.allclose(getattr(part, name), getattr(full, name)[:, :, 25:], atol=1e-13, rtol=0), name
