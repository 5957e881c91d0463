"""Parts are found by what they take and give; blocks whose parts cannot be told apart are refused by name."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from torch import nn

from probe.hooks.anatomy import anatomy
from probe.hooks.errors import HookError

SMALL = {"vocab_size": 53, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6}
# family -> names of the attention's norm, the norm after it, the MLP's norm, the norm after it
NAMED = {
    "llama": ("input_layernorm", None, "post_attention_layernorm", None),
    "qwen3": ("input_layernorm", None, "post_attention_layernorm", None),
    "phi3": ("input_layernorm", None, "post_attention_layernorm", None),
    "gpt2": ("ln_1", None, "ln_2", None),
    "gemma2": (
        "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
    ),
    "gpt_neox": ("input_layernorm", None, "post_attention_layernorm", None),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_norms_are_found_where_the_family_has_them(name, build):
    found = anatomy(build(name).model)
    assert found.parallel == (name == "gpt_neox")
    for part in found.blocks:
        wanted = [None if child is None else getattr(part.block, child) for child in NAMED[name]]
        assert [part.attention_norm, part.attention_post, part.mlp_norm, part.mlp_post] == wanted
        assert part.mlp is part.block.mlp


def test_one_norm_may_serve_attention_and_mlp():
    model = tf.PhiForCausalLM(tf.PhiConfig(**SMALL, intermediate_size=32)).eval()
    part = anatomy(model).blocks[0]
    assert part.parallel
    assert part.attention_norm is part.mlp_norm is model.model.layers[0].input_layernorm


def test_norms_after_the_sublayers_alone_are_found():
    model = tf.Olmo2ForCausalLM(tf.Olmo2Config(**SMALL, intermediate_size=32, pad_token_id=0, eos_token_id=None)).eval()
    part = anatomy(model).blocks[1]
    assert part.attention_norm is None
    assert part.mlp_norm is None
    assert part.attention_post is model.model.layers[1].post_attention_layernorm
    assert part.mlp_post is model.model.layers[1].post_feedforward_layernorm


def granite():
    return tf.GraniteForCausalLM(tf.GraniteConfig(**SMALL, intermediate_size=32, residual_multiplier=0.5))


def opt():
    return tf.OPTForCausalLM(tf.OPTConfig(**SMALL, ffn_dim=32, max_position_embeddings=64, word_embed_proj_dim=48))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (granite, "reads neither the stream nor a norm of it"),
        (opt, "found fc1, activation_fn, fc2"),
        (lambda: tf.BertForMaskedLM(tf.BertConfig(**SMALL, intermediate_size=32)), "found intermediate, output"),
    ],
)
def test_blocks_that_are_not_understood_are_refused(make, why):
    with pytest.raises(HookError, match=why):
        anatomy(make().eval())


def test_a_hybrid_and_a_model_without_logits_are_refused(build):
    with pytest.raises(HookError, match=r"block 0 .* has no attention"):
        anatomy(build("qwen3_next").model)
    with pytest.raises(HookError, match="no logits"):
        anatomy(build("vit").model)


def test_a_block_that_adds_something_else_is_refused(llama):
    block = llama.model.model.layers[1]
    block.register_forward_hook(lambda _m, _i, output: output + 0.01)
    with pytest.raises(HookError, match=r"block 1 .*is not the one that entered plus"):
        anatomy(llama.model)


def test_nothing_is_left_behind(llama):
    before = {name: len(module._forward_hooks) for name, module in llama.model.named_modules()}
    with torch.no_grad():
        anatomy(llama.model)
    assert {name: len(module._forward_hooks) for name, module in llama.model.named_modules()} == before
    assert isinstance(anatomy(llama.model).final_norm, nn.Module)
