"""The fused path, its learned sinks and its refusals, against weights written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from probe.hooks.call import AttentionCall, Site
from probe.hooks.errors import HookError
from probe.hooks.fused import fused_attention
from probe.hooks.mask import given_mask

# float64 throughout: sums of fewer than a hundred terms of order 1.
CLOSE = 1e-12


def make(queries: int = 7, keys: int = 7, value: int = 8, seed: int = 0) -> AttentionCall:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return AttentionCall(
        site=Site("layer", "decoder", "self", 0),
        module=nn.Identity(),
        q=random(2, 6, queries, 8),
        k=random(2, 2, keys, 8),
        v=random(2, 2, keys, value),
        mask=None,
        causal=True,
        scale=0.4,
    )


def written_out(call: AttentionCall) -> torch.Tensor:
    return call.pattern() @ call.v.repeat_interleave(3, 1)


@pytest.mark.parametrize("value", [8, 5])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(7, 7), (1, 7), (1, 1)])
def test_fused_equals_written_out(
    value: int, causal: bool, sinks: bool, masked: bool, shape: tuple[int, int]
) -> None:
    call = replace(make(*shape, value=value), causal=causal)
    if sinks:
        call.sinks = torch.linspace(-2, 3, 6, dtype=torch.float64)
    if masked:
        visible = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(1)) < 0.5
        visible[..., 0] = True
        call.mask, call.causal = given_mask(visible)[0], False
    z = fused_attention(call)
    assert z.shape == (2, 6, shape[0], value)
    assert (z - written_out(call)).abs().max() < CLOSE


@pytest.mark.parametrize("causal", [True, False])
def test_a_bias_is_added(causal: bool) -> None:
    call = replace(make(), causal=causal, bias=torch.randn(1, 6, 7, 7, dtype=torch.float64).mul(2))
    assert (fused_attention(call) - written_out(call)).abs().max() < CLOSE


def test_sinks_take_the_mass_they_should() -> None:
    call = replace(make(1, 1), sinks=torch.full((6,), 2.0, dtype=torch.float64))
    score = (call.q * call.k.repeat_interleave(3, 1)).sum(-1, keepdim=True) * call.scale
    wanted = call.v.repeat_interleave(3, 1) * torch.sigmoid(score - 2.0)
    assert (fused_attention(call) - wanted).abs().max() < CLOSE


def test_sinks_have_gradients() -> None:
    sinks = torch.linspace(-1, 1, 6, dtype=torch.float64, requires_grad=True)
    call = replace(make(), sinks=sinks)
    (fused,) = torch.autograd.grad(fused_attention(call).square().sum(), sinks)
    (dense,) = torch.autograd.grad(written_out(call).square().sum(), sinks)
    # Two hundred outputs of order 1, each within CLOSE.
    assert (fused - dense).abs().max() < 1e3 * CLOSE


def test_a_causal_rectangle_without_a_mask_is_refused() -> None:
    with pytest.raises(HookError, match="alignment is not known"):
        fused_attention(make(3, 7))
