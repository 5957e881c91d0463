"""A call on its own: attend, rule and pattern."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from probe.hooks.call import AttentionCall, Site
from probe.hooks.mask import lazy_mask


@pytest.fixture
def call() -> AttentionCall:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 6, 8, generator=generator, dtype=torch.float64).unbind(0)
    return AttentionCall(
        Site("layer", "decoder", "self", 0), nn.Identity(), q, k[:, :2], v[:, :2], None, True, 0.5
    )


def test_soft_capped_attention_by_strips(call: AttentionCall) -> None:
    capped = replace(call, softcap=3.0, sinks=torch.linspace(-1, 1, 4, dtype=torch.float64))
    wanted = capped.pattern() @ call.v.repeat_interleave(2, 1)
    # float64 sums of six terms of order 1.
    assert (capped.attend() - wanted).abs().max() < 1e-13
    assert (capped.attend() - call.attend()).abs().max() > 1e-3


def test_strips_join_over_many_rows(call: AttentionCall) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 1, 2, 1500, 4, generator=generator).unbind(0)
    long = replace(call, q=q, k=k, v=v, softcap=2.0)
    rows = torch.tensor([0, 698, 699, 700, 1499])
    # Float32 sums of at most 1500 weighted values of order 1; the weights sum to 1.
    assert (long.attend()[:, :, rows] - long.pattern(rows) @ v).abs().max() < 1e-5


def test_attend_may_be_edited_in_place_under_autograd(call: AttentionCall) -> None:
    v = call.v.clone().requires_grad_()
    z = replace(call, v=v).attend()
    z[:, 0] = 0
    z.sum().backward()
    assert v.grad is not None
    assert v.grad.abs().max() > 0


def test_attend_asks_what_is_inside(call: AttentionCall) -> None:
    pattern = torch.zeros(1)
    inner = replace(call, inner=lambda: (call.q * 2, pattern))
    assert torch.equal(inner.attend(), call.q * 2)
    assert inner.asked
    assert inner.inner_pattern is pattern


def test_dropout_only_where_asked(call: AttentionCall) -> None:
    torch.manual_seed(0)
    for settings in ({}, {"softcap": 3.0}):
        plain, dropped = replace(call, **settings), replace(call, dropout=0.5, **settings)
        assert torch.equal(plain.attend(), plain.attend())
        assert (dropped.attend() - plain.attend()).abs().max() > 1e-3


def test_rules_without_a_mask(call: AttentionCall) -> None:
    shorter = replace(call, q=call.q[:, :, :1])
    assert (shorter.rule().causal, shorter.rule().query_offset) == (True, 5)
    assert (replace(call, causal=False).rule().causal, replace(call, causal=False).rule().query_offset) == (
        False,
        0,
    )


def test_patterns_keep_the_dtype_of_the_model(call: AttentionCall) -> None:
    half = replace(call, q=call.q.bfloat16(), k=call.k.bfloat16(), v=call.v.bfloat16())
    assert half.pattern().dtype == torch.bfloat16
    wide = half.pattern(dtype=torch.float32)
    # Float32 weights of six keys sum to 1 within a few roundings; bfloat16 ones would not.
    assert (wide.sum(-1) - 1).abs().max() < 1e-6


def test_a_narrowed_call_has_keys_and_values_for_each_head(call: AttentionCall) -> None:
    bias = torch.linspace(-1, 1, 4 * 36, dtype=torch.float64).reshape(1, 4, 6, 6)
    whole = replace(call, bias=bias, causal=False, sinks=torch.linspace(-1, 1, 4, dtype=torch.float64))
    part = replace(whole, inner=lambda: call.q).narrowed(slice(1, 2), torch.tensor([0, 3]))
    assert (part.q.shape, part.k.shape, part.v.shape) == ((1, 2, 6, 8),) * 3
    assert part.inner is None
    assert not part.asked
    # float64 sums of six terms of order 1.
    assert (part.attend() - whole.attend()[1:, [0, 3]]).abs().max() < 1e-13
    assert (part.pattern() - whole.pattern()[1:, [0, 3]]).abs().max() < 1e-13


def test_where_a_call_stands(call: AttentionCall) -> None:
    assert (call.offset, call.start) == (0, 0)
    later = replace(call, q=call.q[:, :, 4:])
    assert (later.offset, later.start) == (4, 4)
    mask = lazy_mask(
        batch_size=2, q_length=1, kv_length=4, q_offset=8, kv_offset=5, mask_function=lambda b, h, q, k: k <= q
    )
    assert (replace(call, mask=mask).offset, replace(call, mask=mask).start) == (3, 8)
