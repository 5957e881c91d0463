"""Where hooks and kernels meet: the call described, the lookups of tokens, the chance level."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from probe.hooks import attention
from probe.hooks.call import AttentionCall
from probe.kernels import reference
from probe.kernels.inputs import Request
from probe.observe import described, observed, repeats, token_lookups, uniform_mass

SETTINGS: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
}


def calls(model: tf.PreTrainedModel, ids: Tensor, **inputs: Any) -> list[AttentionCall]:
    """The attention calls of one forward."""
    kept: list[AttentionCall] = []

    def handler(call: AttentionCall) -> Tensor:
        kept.append(call)
        return call.attend()

    with torch.no_grad(), attention.instrument(model, handler):
        model(ids, **inputs)
    return kept


def small(config: type, kind: type, **changes: Any) -> tf.PreTrainedModel:
    torch.manual_seed(0)
    return kind(config(**{**SETTINGS, **changes})).eval()


IDS = torch.randint(3, 20, (2, 30), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss", "padded"])
def test_a_described_call_has_the_models_own_weights(name: str) -> None:
    model = {
        "mistral": lambda: small(tf.MistralConfig, tf.MistralForCausalLM, sliding_window=7),
        "gemma2": lambda: small(
            tf.Gemma2Config, tf.Gemma2ForCausalLM, sliding_window=7, attn_logit_softcapping=2.0, query_pre_attn_scalar=8
        ),
        "gpt_oss": lambda: small(
            tf.GptOssConfig, tf.GptOssForCausalLM, sliding_window=7, num_local_experts=4, num_experts_per_tok=2
        ),
    }.get(name, lambda: small(tf.LlamaConfig, tf.LlamaForCausalLM))()
    inputs = {}
    if name == "padded":
        inputs["attention_mask"] = (torch.arange(30) >= torch.tensor([[0], [9]])).long()
    kept = calls(model, IDS, **inputs)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = model(IDS, output_attentions=True, **inputs).attentions
    assert len(kept) == len(wanted) == 2
    for call, weights in zip(kept, wanted, strict=True):
        made = described(call)
        assert made.q.data_ptr() == call.q.data_ptr()
        own = torch.ones(2, 30, dtype=torch.bool)
        if "attention_mask" in inputs:
            own = inputs["attention_mask"].bool()
        # Eager's softmax rounds at 2^-24 of scores below 10.
        error = (reference.pattern(made) - weights.double()).abs().amax((1, 3))
        assert error[own].max() < 2e-6


def test_what_is_observed_is_the_output_itself() -> None:
    for call in calls(small(tf.LlamaConfig, tf.LlamaForCausalLM), IDS):
        z, statistics = observed(call, Request(lookups=token_lookups(IDS)))
        assert (z - call.attend()).abs().max() < 1e-5
        assert set(statistics.lookup) == {"duplicate_token", "induction"}
        exact, _ = observed(call, Request(), backend="reference")
        assert (z - exact).abs().max() < 1e-5


def test_lookups_find_copies_and_what_followed_them() -> None:
    ids = torch.tensor([[5, 6, 5, 6, 6]])
    found = token_lookups(ids)
    match = {
        name: [
            (i, j)
            for i in range(5)
            for j in range(5)
            if lookup.query_label[0, i] == lookup.key_label[0, j] >= 0 and i - j >= lookup.gap
        ]
        for name, lookup in found.items()
    }
    assert match == {
        "duplicate_token": [(2, 0), (3, 1), (4, 1), (4, 3)],
        "induction": [(2, 1), (3, 2), (4, 2), (4, 4)],  # key 4 follows the 6 of place 3, and is the query itself
    }


@pytest.mark.parametrize("T", [1, 2, 50])
def test_repeats_are_the_queries_that_either_lookup_can_answer(T: int) -> None:
    ids = torch.randint(0, 9, (3, T), generator=torch.Generator().manual_seed(1))
    wanted = [[token in row[:i] for i, token in enumerate(row)] for row in ids.tolist()]
    assert repeats(ids).tolist() == wanted
    assert not repeats(torch.arange(T)[None]).any()


def test_chance_is_the_share_of_visible_keys() -> None:
    model = small(
        tf.Gemma2Config, tf.Gemma2ForCausalLM, sliding_window=7, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    request, kept = Request(lookups=token_lookups(IDS)), {}
    for call in calls(model, IDS):
        seen = reference.visibility(described(call))[:, :1].double()
        found = uniform_mass(call, request, kept)
        for name, lookup in request.lookups.items():
            d = torch.arange(30)[:, None] - torch.arange(30)
            match = (lookup.query_label[:, :, None] == lookup.key_label[:, None]) & (d >= lookup.gap)
            wanted = (seen[:, 0] * match).sum(-1) / seen[:, 0].sum(-1)
            assert (found[name][:, 0] - wanted).abs().max() < 1e-6
    assert len(kept) == 2  # one a mask, not one a layer
    again = calls(small(tf.LlamaConfig, tf.LlamaForCausalLM), IDS)
    kept = {}
    first, second = (uniform_mass(call, request, kept) for call in again)
    assert first is second


def test_the_output_is_differentiable_where_gradients_are_recorded() -> None:
    model = small(tf.LlamaConfig, tf.LlamaForCausalLM)
    call = calls(model, IDS)[0]
    q = call.q.detach().clone().requires_grad_()
    z, statistics = observed(replace(call, q=q), Request(bands=0))
    assert not statistics.lse.requires_grad
    gradient = torch.autograd.grad(z.square().sum(), q)[0]
    wanted = torch.autograd.grad(replace(call, q=q).attend().square().sum(), q)[0]
    assert gradient.abs().max() > 0
    assert torch.equal(gradient, wanted)
    with torch.no_grad():
        assert torch.allclose(observed(replace(call, q=q), Request(bands=0))[0], z, atol=1e-5)
