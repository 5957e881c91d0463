"""Error bounds hold for correct kernels, and are small enough to see wrong ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from probe.hooks.bounds import output_bound, z_bound
from probe.hooks.call import AttentionCall, Site


def make(dtype: torch.dtype, seed: int) -> AttentionCall:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(1, 4, 40, 16, generator=generator).to(dtype)
    k, v = torch.randn(2, 1, 2, 40, 16, generator=generator).to(dtype).unbind(0)
    return AttentionCall(Site("layer", "decoder", "self", 0), nn.Identity(), q, k, v, None, True, 0.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(3))
def test_a_correct_kernel_is_within(dtype: torch.dtype, seed: int) -> None:
    call = make(dtype, seed)
    exact = replace(call, q=call.q.double(), k=call.k.double(), v=call.v.double()).attend()
    assert (call.attend().double() - exact).abs().max() <= z_bound(call)


def test_a_wrong_scale_is_without() -> None:
    call = make(torch.float32, 0)
    wrong = replace(call, scale=call.scale * 1.001).attend()
    assert (wrong - call.attend()).abs().max() > z_bound(call)


def test_sinks_and_biases_widen_the_bound() -> None:
    call = make(torch.float32, 0)
    assert z_bound(replace(call, sinks=torch.full((4,), 9.0))) > z_bound(call)
    masked = torch.full((1, 1, 40, 40), torch.finfo(torch.float32).min)
    assert z_bound(replace(call, bias=masked)) == z_bound(call)


def test_projections() -> None:
    generator = torch.Generator().manual_seed(0)
    entered, weight = torch.randn(5, 30, generator=generator), torch.randn(30, 7, generator=generator)
    bias = torch.randn(7, generator=generator)
    exact = entered.double() @ weight.double() + bias.double()
    limit = output_bound(entered.double(), weight.double(), bias.double(), 0.0, torch.float32)
    assert bool(((torch.addmm(bias, entered, weight).double() - exact).abs() <= limit).all())
    wider = output_bound(entered.double(), weight.double(), None, 0.5, torch.float32)
    assert bool((wider >= 0.5 * weight.abs().sum(0)).all())
