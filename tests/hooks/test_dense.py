"""Weights written out: rows on their own, sums, caps, and rows that see nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from probe.hooks.call import AttentionCall, Site
from probe.hooks.dense import pattern_rows, visible_rows
from probe.hooks.mask import given_mask


@pytest.fixture
def call() -> AttentionCall:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, 5, 8, generator=generator)
    k, v = torch.randn(2, 1, 2, 9, 8, generator=generator).unbind(0)
    return AttentionCall(Site("layer", "decoder", "self", 0), nn.Identity(), q, k, v, None, True, 0.5)


def test_one_row_by_hand(call: AttentionCall) -> None:
    weights = pattern_rows(call)
    scores = [float(call.q[0, 3, 1] @ call.k[0, 1, key]) * 0.5 for key in range(9)]
    visible = 1 + 4 + 1  # query row 1 stands at position 1 + (9 - 5)
    wanted = torch.tensor(scores[:visible], dtype=torch.float64).softmax(0)
    # float32 scores of order 5 and exponentials of them.
    assert (weights[0, 3, 1, :visible].double() - wanted).abs().max() < 1e-6
    assert weights[0, 3, 1, visible:].abs().max() == 0


def test_rows_on_their_own_are_the_same(call: AttentionCall) -> None:
    rows = torch.tensor([4, 0, 2])
    assert (pattern_rows(call, rows) - pattern_rows(call)[:, :, rows]).abs().max() < 1e-6


def test_rows_sum_to_one_less_the_learned_sink(call: AttentionCall) -> None:
    assert (pattern_rows(call).sum(-1) - 1).abs().max() < 1e-6
    large = replace(call, sinks=torch.tensor([50.0, -50.0, 0.0, 0.0]))
    sums = pattern_rows(large).sum(-1)
    assert sums[0, 0].max() < 1e-6
    assert (sums[0, 1] - 1).abs().max() < 1e-6
    assert sums[0, 2:].max() < 1


def test_a_soft_cap_bounds_scores(call: AttentionCall) -> None:
    tiny = pattern_rows(replace(call, softcap=1e-4, causal=False))
    # Scores within +-1e-4 give weights within 2e-4 relative of uniform.
    assert (tiny * 9 - 1).abs().max() < 2.1e-4


def test_a_bias_can_move_all_mass(call: AttentionCall) -> None:
    bias = torch.zeros(1, 1, 5, 9)
    bias[..., 3] = 80
    assert pattern_rows(replace(call, bias=bias))[..., 3].min() > 1 - 1e-6


def test_a_row_that_sees_nothing_is_zero_with_finite_gradients(call: AttentionCall) -> None:
    visible = torch.ones(1, 1, 5, 9, dtype=torch.bool)
    visible[:, :, 2] = False
    q = call.q.clone().requires_grad_()
    weights = pattern_rows(replace(call, q=q, mask=given_mask(visible)[0]))
    assert weights[:, :, 2].abs().max() == 0
    weights.square().sum().backward()
    assert q.grad is not None
    assert bool(q.grad.isfinite().all())
    assert q.grad[:, :, 2].abs().max() == 0


def test_who_sees_whom_without_a_mask(call: AttentionCall) -> None:
    seen = visible_rows(call, torch.arange(5))
    assert torch.equal(seen[0, 0], torch.ones(5, 9, dtype=torch.bool).tril(4))
    assert bool(visible_rows(replace(call, causal=False), torch.arange(5)).all())
