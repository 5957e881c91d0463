"""A frozen norm against the norms' own formulas, and modules that are none."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from probe.hooks.errors import HookError
from probe.hooks.frozen_norm import frozen

WIDTH = 7  # odd: the alternating probe then has a mean of its own


def norm_of(kind):
    made = {"layer": nn.LayerNorm(WIDTH), "rms": nn.RMSNorm(WIDTH, eps=1e-6), "llama": LlamaRMSNorm(WIDTH),
            "gemma": Gemma2RMSNorm(WIDTH)}[kind]  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data = torch.randn(WIDTH, generator=generator)
    return made.double().requires_grad_(False)


@pytest.mark.parametrize("kind", ["layer", "rms", "llama", "gemma"])
def test_gives_the_norm_back_and_shares_add_up(kind):
    norm, x = norm_of(kind), 3 + torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0)).double()
    found = frozen(norm, x)
    parts = torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(2)).double()
    parts[0] = x - parts[1] - parts[2]
    # Llama's and Gemma's compute in float32 whatever they are given; others in the float64 of x.
    close = 1e-5 if kind in ("llama", "gemma") else 1e-13
    whole = sum(found.share(part) for part in parts) + found.offset
    torch.testing.assert_close(whole, norm(x).double(), rtol=close, atol=close)
    direction = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(3)).double()
    before = (parts[1] * found.pulled(direction)).sum(-1)
    torch.testing.assert_close(before, (found.share(parts[1]) * direction).sum(-1), rtol=1e-12, atol=1e-12)
    assert found.centred == (kind == "layer")


def test_the_scale_is_that_of_the_run_and_the_offset_is_beta():
    norm, x = norm_of("layer"), torch.tensor([[1.0, 2, 3, 4, 5, 6, 70]], dtype=torch.float64)
    found = frozen(norm, x)
    expected = norm.weight / (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    torch.testing.assert_close(found.scale, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.offset, norm.bias.data, rtol=0, atol=0)


def test_a_row_of_zeros_has_no_share():
    assert torch.equal(frozen(norm_of("rms"), torch.zeros(1, WIDTH).double()).scale, torch.zeros(1, WIDTH).double())


def test_the_model_is_asked_in_its_own_dtype():
    norm = norm_of("llama").bfloat16()
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = frozen(norm, x)
    torch.testing.assert_close(found.share(x), norm(x).double(), rtol=2**-5, atol=2**-7)


@pytest.mark.parametrize("other", [nn.Tanh(), nn.Linear(WIDTH, WIDTH)])
def test_what_is_no_norm_is_refused(other):
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    with pytest.raises(HookError, match=f"{type(other).__name__} does not scale and shift"):
        frozen(other.requires_grad_(False), x)
