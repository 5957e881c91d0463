"""W_Q, W_K and W_V head by head make what the model's own projections make, in every layout."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from torch import nn

from probe.hooks.errors import HookError
from probe.hooks.projections import projections
from probe.hooks.sites import sites

FAMILIES = ("llama", "qwen2", "gpt2", "phi3", "gpt_neox")


@pytest.mark.parametrize("name", FAMILIES)
def test_head_by_head_and_joined_is_what_the_modules_give(name, build):
    model = build(name).model.double()
    for site in sites(model):
        found = projections(model, site)
        read = torch.randn(2, 5, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        made = [
            torch.einsum("btm,hdm->bthd", read, weight) + (0 if bias is None else bias)
            for weight, bias in zip(found.weights, found.biases, strict=True)
        ]
        joined = found.join(*made)
        for module, output in joined.items():
            # 48 terms, float64
            torch.testing.assert_close(output, module(read), rtol=1e-13, atol=1e-13)
        assert set(joined) <= set(model.get_submodule(site.name).children())


def test_grouped_queries_have_fewer_keys(llama):
    found = projections(llama.model, sites(llama.model)[0])
    assert [len(weight) for weight in found.weights] == [6, 2, 2]


@pytest.mark.parametrize(("name", "why"), [("deepseek_v3", "no plain projection"), ("qwen3_next", "a gated")])
def test_what_is_no_plain_projection_is_refused(name, why, build):
    model = build(name).model
    with pytest.raises(HookError, match=why):
        projections(model, sites(model)[0])


def test_a_norm_over_several_heads_is_refused():
    model = tf.Olmo2ForCausalLM(
        tf.Olmo2Config(vocab_size=53, hidden_size=48, intermediate_size=32, num_hidden_layers=1, num_attention_heads=6,
                       pad_token_id=0, eos_token_id=None)
    )  # fmt: skip
    with pytest.raises(HookError, match="q_norm is 48 wide and a head 8"):
        projections(model, sites(model)[0])


def test_an_adapted_matrix_is_refused(llama):
    class Adapted(nn.Linear):
        pass

    llama.model.model.layers[0].self_attn.k_proj = Adapted(48, 16)
    with pytest.raises(HookError, match="Adapted is no plain matrix"):
        projections(llama.model, sites(llama.model)[0])
