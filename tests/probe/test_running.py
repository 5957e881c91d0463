"""One way to run a model, from transformers or TransformerLens: its shape, its forward, its heads' writes."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from probe.errors import ModelError
from probe.hooks.call import AttentionCall
from probe.hooks.errors import HookError
from probe.running import Running

IDS = torch.randint(3, 50, (1, 20), generator=torch.Generator().manual_seed(0))


def llama(**changes: Any) -> tf.LlamaForCausalLM:
    torch.manual_seed(0)
    config = tf.LlamaConfig(**{
        "vocab_size": 60, "hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
        "initializer_range": 0.15, "bos_token_id": 1, "eos_token_id": 2, **changes,
    })  # fmt: skip
    return tf.LlamaForCausalLM(config).eval()


def bridged(model: tf.PreTrainedModel) -> Any:
    builder = pytest.importorskip("transformer_lens.model_bridge.sources")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bridge's own remarks about models made in memory
        return builder.build_bridge_from_module(copy.deepcopy(model), "LlamaForCausalLM", hf_config=model.config)


@pytest.mark.parametrize("lens", [False, True])
def test_the_shape_of_a_model(lens: bool) -> None:
    running = Running(bridged(llama()) if lens else llama())
    assert running.is_lens == lens
    assert (running.n_heads, running.n_kv_heads, running.n_ctx, running.vocabulary) == (6, 2, 64, 60)
    assert running.bos == 1
    assert [site.layer for site in running.sites] == [0, 1]
    assert running.device == torch.device("cpu")


def test_a_model_without_bos_has_none() -> None:
    model = llama(bos_token_id=None)
    assert Running(model).bos is None
    assert Running(bridged(model)).bos is None


@pytest.mark.parametrize("lens", [False, True])
def test_what_heads_write_adds_up_to_the_layer(lens: bool) -> None:
    """Σ_h z_h W_O[h] is what the attention module adds to the stream (no output bias here)."""
    model = llama()
    running = Running(bridged(model) if lens else model)
    written: dict[str, Tensor] = {}
    added: list[Tensor] = []
    hooks = [] if lens else [layer.self_attn.register_forward_hook(lambda _m, _i, out: added.append(out[0]))
                             for layer in model.model.layers]  # fmt: skip
    if lens:
        hooks = [running.model.blocks[n].hook_attn_out.register_forward_hook(lambda _m, _i, out: added.append(out))
                 for n in range(2)]  # fmt: skip
    with running.watching_writes(lambda site, heads: written.__setitem__(site.name, heads)):
        running.forward(IDS)
    for hook in hooks:
        hook.remove()
    for site, total in zip(running.sites, added, strict=True):
        heads = written[site.name].unflatten(2, (6, 8))
        writes = torch.einsum("bthd,hdm->btm", heads, running.head_writes(site))
        assert (writes - total).abs().max() < 1e-5


def test_only_chosen_layers_are_instrumented() -> None:
    running, seen = Running(llama()), []

    def handler(call: AttentionCall) -> Tensor:
        seen.append(call.site.layer)
        return call.attend()

    with running.instrument(handler, layers=[1]):
        running.forward(IDS)
    assert seen == [1]
    running.forward(IDS)
    assert seen == [1]


def test_watching_is_undone_also_after_an_error() -> None:
    model = llama()
    running = Running(model)

    def broken(_site: Any, _heads: Tensor) -> None:
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError), running.watching_writes(broken):
        running.forward(IDS)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_the_forward_keeps_no_logits_and_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model, heads = llama(), []
    model.lm_head.register_forward_hook(lambda *_: heads.append(1))
    seen: dict[str, Any] = {}
    original = model.model.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.update(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", spy)
    Running(model).forward(IDS)
    assert heads == []
    assert seen["use_cache"] is False


def test_two_stacks_are_refused() -> None:
    config = tf.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match="T5ForConditionalGeneration has an encoder and a decoder; wanted"):
        Running(tf.T5ForConditionalGeneration(config))


def test_a_model_without_attention_is_refused() -> None:
    model = tf.MambaForCausalLM(tf.MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(HookError) as refused:
        Running(model)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("lens", [False, True])
def test_hook_points_are_proven_before_numbers(lens: bool) -> None:
    Running(bridged(llama()) if lens else llama()).verify()
