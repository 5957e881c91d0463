"""Tiny random models of every family, and the inputs they read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
import transformers as tf
from torch import Tensor

from probe.hooks import attention
from probe.hooks.call import AttentionCall
from probe.hooks.edits import Edit, edit
from probe.hooks.heads import head_sites
from probe.hooks.part import Part

VOCAB, LENGTH = 53, 12
TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
MIXED = ["sliding_attention", "full_attention"]
VISION: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "image_size": 8,
    "patch_size": 4,
}


@dataclass(frozen=True)
class Family:
    """How to build a family and what it reads; `decodes` says that it generates text."""

    build: Callable[[], tf.PreTrainedModel]
    decodes: bool = True
    inputs: str = "text"
    sites: int = 2
    gated: bool = False
    gain: float = 3.0


@dataclass
class Case:
    name: str
    family: Family
    model: tf.PreTrainedModel
    inputs: dict[str, Tensor]
    kept: Tensor = field(default_factory=lambda: torch.ones(2, LENGTH, dtype=torch.bool))


def text(config: type, model: type, **changes: Any) -> Callable[[], tf.PreTrainedModel]:
    return lambda: model(config(**{**TEXT, **changes}))


def plain(config: type, model: type, **settings: Any) -> Callable[[], tf.PreTrainedModel]:
    return lambda: model(config(**settings))


def clip() -> tf.PreTrainedModel:
    words = {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return tf.CLIPModel(tf.CLIPConfig(text_config=words, vision_config=VISION, projection_dim=16))


SPEECH = {
    "vocab_size": VOCAB,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_source_positions": 10,
    "max_target_positions": 64,
    "num_mel_bins": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
BART = {
    key: SPEECH[key]
    for key in SPEECH
    if key not in ("max_source_positions", "max_target_positions", "num_mel_bins")
} | {"max_position_embeddings": 64, "forced_eos_token_id": None}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}

FAMILIES: dict[str, Family] = {
    "llama": Family(text(tf.LlamaConfig, tf.LlamaForCausalLM)),
    "qwen3": Family(text(tf.Qwen3Config, tf.Qwen3ForCausalLM)),
    "qwen2": Family(
        text(
            tf.Qwen2Config,
            tf.Qwen2ForCausalLM,
            use_sliding_window=True,
            sliding_window=4,
            max_window_layers=1,
            layer_types=["full_attention", "sliding_attention"],
        )
    ),
    "mistral": Family(text(tf.MistralConfig, tf.MistralForCausalLM, sliding_window=4)),
    "phi3": Family(text(tf.Phi3Config, tf.Phi3ForCausalLM, sliding_window=4)),
    "gemma2": Family(
        text(
            tf.Gemma2Config,
            tf.Gemma2ForCausalLM,
            sliding_window=4,
            attn_logit_softcapping=5.0,
            query_pre_attn_scalar=8,
            layer_types=MIXED,
        )
    ),
    "gemma3": Family(
        text(
            tf.Gemma3TextConfig,
            tf.Gemma3ForCausalLM,
            sliding_window=4,
            query_pre_attn_scalar=8,
            layer_types=MIXED,
        )
    ),
    "gpt_oss": Family(
        text(
            tf.GptOssConfig,
            tf.GptOssForCausalLM,
            sliding_window=4,
            num_local_experts=4,
            num_experts_per_tok=2,
            layer_types=MIXED,
        )
    ),
    "llama4": Family(
        text(
            tf.Llama4TextConfig,
            tf.Llama4ForCausalLM,
            attention_chunk_size=4,
            num_local_experts=2,
            intermediate_size_mlp=32,
            interleave_moe_layer_step=1,
            no_rope_layers=[1, 0],
        )
    ),
    "gpt2": Family(
        plain(
            tf.GPT2Config,
            tf.GPT2LMHeadModel,
            vocab_size=VOCAB,
            n_embd=48,
            n_layer=2,
            n_head=6,
            n_positions=64,
            scale_attn_by_inverse_layer_idx=True,
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
        )
    ),
    "gpt_neox": Family(text(tf.GPTNeoXConfig, tf.GPTNeoXForCausalLM, num_key_value_heads=6)),
    "deepseek_v3": Family(
        text(
            tf.DeepseekV3Config,
            tf.DeepseekV3ForCausalLM,
            num_key_value_heads=6,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=4,
            v_head_dim=8,
            head_dim=4,
            n_routed_experts=4,
            n_shared_experts=1,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            **EXPERTS,
        )
    ),
    "qwen3_next": Family(
        text(
            tf.Qwen3NextConfig,
            tf.Qwen3NextForCausalLM,
            num_experts=4,
            shared_expert_intermediate_size=16,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            layer_types=["linear_attention", "full_attention"],
            **EXPERTS,
        ),
        sites=1,
        gated=True,
    ),
    "bert": Family(text(tf.BertConfig, tf.BertForMaskedLM, num_key_value_heads=6), decodes=False),
    "modernbert": Family(
        text(
            tf.ModernBertConfig,
            tf.ModernBertForMaskedLM,
            num_key_value_heads=6,
            local_attention=4,
            global_attn_every_n_layers=2,
            cls_token_id=1,
            sep_token_id=2,
        ),
        decodes=False,
    ),
    "vit": Family(plain(tf.ViTConfig, tf.ViTForImageClassification, **VISION), decodes=False, inputs="image"),
    "clip": Family(clip, decodes=False, inputs="both", sites=4),
    "whisper": Family(
        plain(tf.WhisperConfig, tf.WhisperForConditionalGeneration, **SPEECH), inputs="speech", sites=6
    ),
    "t5": Family(
        plain(
            tf.T5Config,
            tf.T5ForConditionalGeneration,
            vocab_size=VOCAB,
            d_model=48,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=6,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=2,
        ),
        inputs="pair",
        sites=6,
        gain=1.0,  # t5 does not scale its scores
    ),
    "bart": Family(plain(tf.BartConfig, tf.BartForConditionalGeneration, **BART), inputs="pair", sites=6),
}


def make(name: str) -> Case:
    """A case of the family with its first row whole and, for text, its second left-padded by three tokens."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    model = family.build().eval()
    # Tiny random models barely attend; larger weights make a wrong mask or scale visible.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(family.gain)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, VOCAB, (2, LENGTH), generator=generator)
    kept = torch.ones(2, LENGTH, dtype=torch.bool)
    words = {"input_ids": tokens, "attention_mask": kept.long()}
    if family.inputs in ("text", "pair", "both"):
        kept[1, :3] = False
        words["attention_mask"] = kept.long()
    image = torch.randn(2, 3, 8, 8, generator=generator)
    target = torch.randint(3, VOCAB, (2, 7), generator=generator)
    inputs = {
        "text": words,
        "image": {"pixel_values": image},
        "both": {**words, "pixel_values": image},
        "pair": {**words, "decoder_input_ids": target},
        "speech": {
            "input_features": torch.randn(2, 8, 20, generator=generator),
            "decoder_input_ids": target,
        },
    }[family.inputs]
    return Case(name, family, model, inputs, kept)


@pytest.fixture(params=sorted(FAMILIES))
def case(request: pytest.FixtureRequest) -> Case:
    return make(request.param)


@pytest.fixture
def build() -> Callable[[str], Case]:
    return make


@pytest.fixture
def llama() -> Case:
    return make("llama")


@pytest.fixture
def outside() -> dict[str, Callable[[], tf.PreTrainedModel]]:
    """Families that compute attention on their own."""
    small = {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6}
    return {
        "FalconAttention": plain(tf.FalconConfig, tf.FalconForCausalLM, **small),
        "GPTJAttention": plain(
            tf.GPTJConfig, tf.GPTJForCausalLM, vocab_size=VOCAB, n_embd=48, n_layer=2, n_head=6, rotary_dim=4
        ),
        "BloomAttention": plain(
            tf.BloomConfig, tf.BloomForCausalLM, vocab_size=VOCAB, hidden_size=48, n_head=6
        ),
    }


@dataclass(frozen=True)
class Seen:
    """One attention call of a run with edits: the call, z as the model computes it there, z as it went on."""

    call: AttentionCall
    plain: Tensor
    edited: Tensor


@pytest.fixture
def watch() -> Callable[..., tuple[Tensor, list[Seen]]]:
    """Runs a transformers model under edits; gives its logits and its main stack's calls in order."""

    def run(model: Any, inputs: dict[str, Tensor], edits: list[Edit]) -> tuple[Tensor, list[Seen]]:
        seen: list[Seen] = []
        main = {site for site, _, _ in head_sites(model).values()}

        def note(call: AttentionCall) -> Tensor:
            edited = call.attend()
            seen.append(Seen(call, replace(call, inner=None).attend(), edited.clone()))
            return edited

        with edit(model, edits), attention.instrument(model, note, sites=main.__contains__):
            logits = model(**inputs).logits
        return logits, seen

    return run


def visible(call: AttentionCall) -> Tensor:
    """[B or 1, H or 1, T, S] by the mask itself, whole."""
    queries, keys = call.q.shape[2], call.k.shape[2]
    if call.mask is None:
        ones = torch.ones(1, 1, queries, keys, dtype=torch.bool)
        return ones.tril(keys - queries) if call.causal else ones
    return call.mask.block(torch.arange(queries), torch.arange(keys))


def dense_weights(call: AttentionCall, seen: Tensor | None = None) -> Tensor:
    """Attention weights [B, H, T, S] in float64 by the textbook; `seen` stands for the call's mask."""
    seen = visible(call) if seen is None else seen
    k = call.k.double().repeat_interleave(call.q.shape[1] // call.k.shape[1], 1)
    scores = torch.einsum("bhtd,bhsd->bhts", call.q.double(), k) * call.scale
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    if call.bias is not None:
        scores = scores + call.bias.double()
    weights = torch.where(seen, scores, -torch.inf).exp()
    total = weights.sum(-1, keepdim=True)
    if call.sinks is not None:
        total = total + call.sinks.double().exp()[None, :, None, None]
    return torch.where(total > 0, weights / total, 0.0)


def dense_values(call: AttentionCall) -> Tensor:
    """v [B, H, S, Dv] in float64, once for each query head."""
    return call.v.double().repeat_interleave(call.q.shape[1] // call.v.shape[1], 1)


def dense_bound(call: AttentionCall) -> float:
    """Largest |z - exact z| of a float64 evaluation, by `bounds.z_bound` with the roundoff of float64.

    u = 2**-53; a score of D <= 12 terms errs by 17 u times its size s, weights by twice that, and a sum of at
    most 16 weighted values adds 20 u, storing and dividing 8 u: (68 s + 28) u max|v|, twice for two evaluations.
    """
    size = float((call.q.abs() @ call.k.abs().repeat_interleave(call.q.shape[1] // call.k.shape[1], 1).mT).max())
    extras = [extra for extra in (call.bias, call.sinks) if extra is not None]
    largest = size * call.scale + sum(float(extra[extra > -1e30].abs().max()) for extra in extras)
    return 2 * (68 * largest + 28) * 2.0**-53 * float(call.v.abs().max())


@pytest.fixture
def dense() -> SimpleNamespace:
    """Attention written out: `weights(call, seen)`, `values(call)`, `visible(call)`, `bound(call)`."""
    return SimpleNamespace(weights=dense_weights, values=dense_values, visible=visible, bound=dense_bound)


@cache
def last_call(name: str) -> tuple[AttentionCall, Tensor]:
    """The last layer's call of a family, and its z; made once, and read only."""
    case, calls = make(name), []
    main = list(head_sites(case.model).values())[-1][0]

    def note(call: AttentionCall) -> Tensor:
        calls.append(call)
        return call.attend()

    with torch.no_grad(), attention.instrument(case.model, note, sites=main.__eq__):
        case.model(**case.inputs)
        return calls[0], calls[0].attend()


@pytest.fixture
def part_of() -> Callable[..., Part]:
    """The last layer's call of a family in float64 (or as it is), as a part of some rows and heads."""

    def make_part(
        name: str, heads: tuple[int, ...] = (1, 3, 4), rows: slice = slice(0, 2, 1), *, wide: bool = True
    ) -> Part:
        call, z = last_call(name)
        if wide:
            names = ("q", "k", "v", "sinks", "bias")
            held = {n: getattr(call, n).detach().double() for n in names if getattr(call, n) is not None}
            call = replace(call, **held)
            z = call.attend()
        return Part(call, z, rows, torch.tensor(heads), call.site.layer)

    return make_part
