"""Transformers whose weights are written by hand, so that the job of every attention head is known.

A Llama-style and a GPT-2-style model, real `transformers` classes without trained weights, hold the same 24
heads (`PLANTED_ROLES`) in a randomly rotated residual stream, so that no analysis can find them by reading
sparsity. They are the ground truth of the tests and the offline demonstration. In the shuffled twin
every head looks for nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from probe.errors import ModelError
from probe.planted.heads import N_HEADS, N_KV_HEADS, Layer, planted_layers, value
from probe.planted.positions import kernels_for
from probe.planted.stream import (
    BALLAST,
    CODE,
    EMBEDDING_NORM,
    HEAD_DIM,
    Reader,
    Stream,
    rope_reader,
    rotation,
    table_reader,
    write_weights,
)
from probe.planted.words import BOS, DELIMITER, END, NAMES, VOCABULARY

PLANTED_ROLES: dict[tuple[int, int], str] = {
    (0, 0): "previous_token",
    (0, 1): "local",
    (0, 2): "uniform",
    (0, 3): "duplicate_token",
    (0, 4): "first_token_sink",
    (0, 5): "later_token_sink",
    (0, 6): "graded_sink",
    (0, 7): "idle",
    (1, 0): "induction",
    (1, 1): "negative_induction",
    (1, 2): "s_inhibition",
    (1, 3): "local",
    (1, 4): "first_token_sink",
    (1, 5): "later_token_sink",
    (1, 6): "graded_induction",
    (1, 7): "idle",
    (2, 0): "backup_induction",
    (2, 1): "idle",
    (2, 2): "name_mover",
    (2, 3): "idle",
    (2, 4): "uniform",
    (2, 5): "previous_token",
    (2, 6): "first_token_sink",
    (2, 7): "idle",
}
"""Job of every head, (layer, head) → role; the same in both planted models.

- `previous_token`: all mass on the token before. L0H0 writes it to the stream, where induction reads it;
  L2H5 has the same pattern and writes what nobody reads.
- `induction`, `negative_induction`, `backup_induction`: mass on the tokens that followed this one before,
  shared equally; on the first token where there are none. They copy to the output (the negative one −0.3
  times); the backup rests on the first token until L1H0 is gone, and then makes good half of the loss.
  `graded_induction` matches weakly, so it has gradients.
- `duplicate_token`: mass on earlier occurrences of this token; on the first token where there are none.
- `first_token_sink`, `later_token_sink`: all mass on `<bos>`; on `<sep>` (on `<bos>` before the first one,
  shared where there are several). `graded_sink`: `<bos>` with a score of 4 against 0 everywhere else.
- `local`: all mass on the last 16 tokens. `uniform`: the same mass on every visible token.
- `s_inhibition`, `name_mover`: at `<end>`, mass on the second occurrence of a name, and on the name that
  came once, which is copied to the output; elsewhere on the first token.
- `idle`: uniform mass, W_O = 0.
"""

PLANTED_TOLERANCE = 0.002
"""Largest distance of a head's mean mass on its target from 1, in float32, from 64 to 4,096 tokens."""

_UNEMBEDDING_GAIN = 40.0
_QUIET = 20.0
_MIN_LENGTH, _MAX_LENGTH = 64, 65_536


def planted_llama(*, max_length: int = 4096, seed: int = 0, shuffled: bool = False) -> LlamaForCausalLM:
    """A `LlamaForCausalLM` (RoPE, 8 query and 4 KV heads of 128 dims, RMSNorm, 3 layers, idle MLPs), planted.

    `max_length`: tokens it must read; `rope_theta` grows with it. `seed`: codes and rotation. `shuffled`:
    the twin whose W_Q and W_K columns are permuted independently. Float32, on the CPU, eval mode, no
    gradients.

    Raises `ModelError` where `max_length` is not within 64 … 65,536.
    """
    _check_length(max_length)
    # Pairs from 28 on must turn less than 0.3 rad over the whole context, or content scores would fade.
    theta = max(1e10, (max_length / 0.3) ** (HEAD_DIM / 2 / 28))
    read = rope_reader(lambda frequencies: kernels_for(frequencies, max_length), theta)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=8,
        num_hidden_layers=3,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=max_length,
        rms_norm_eps=1e-8,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        bos_token_id=BOS,
        eos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    generator = torch.Generator().manual_seed(seed)
    gain = 512**0.5 / EMBEDDING_NORM
    lift = rotation(512, read.stream.size, generator)
    embedding, unembedding = _codebook(read.stream, generator, gain)
    weights = {"model.embed_tokens.weight": embedding @ lift.T, "lm_head.weight": unembedding @ lift.T}
    for index, layer in enumerate(planted_layers(read)):
        queries, keys, values, outputs = _lifted(layer, read, lift, gain, generator, shuffled)
        block = f"model.layers.{index}"
        weights[f"{block}.self_attn.q_proj.weight"] = queries.flatten(0, 1)
        weights[f"{block}.self_attn.k_proj.weight"] = keys.flatten(0, 1)
        weights[f"{block}.self_attn.v_proj.weight"] = values.flatten(0, 1)
        weights[f"{block}.self_attn.o_proj.weight"] = outputs.transpose(0, 1).flatten(1)
        weights[f"{block}.mlp.down_proj.weight"] = torch.zeros(512, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the start of the unused MLP, which the weight hash covers
        model = LlamaForCausalLM(config)
    write_weights(model, weights)
    return model


def planted_gpt2(*, max_length: int = 4096, seed: int = 0, shuffled: bool = False) -> GPT2LMHeadModel:
    """A `GPT2LMHeadModel` (learned positions, LayerNorm, 8 heads of 128 dims, 3 layers), the same 24 heads.

    Arguments, state and errors as `planted_llama`. The rotation leaves the all-ones direction alone, which
    is what LayerNorm removes; positions are 28 pairs (cos ωp, sin ωp) of length ¼.
    """
    _check_length(max_length)
    generator = torch.Generator().manual_seed(seed)
    fast = 0.05 + (torch.pi - 0.05) * torch.rand(18, generator=generator, dtype=torch.float64)
    frequencies = torch.cat([torch.logspace(-3.5, -0.6, 10, dtype=torch.float64), fast])
    scale = 0.25
    read = table_reader(kernels_for(frequencies, max_length), scale)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=max_length,
        n_embd=1024,
        n_layer=3,
        n_head=N_HEADS,
        n_inner=8,
        layer_norm_epsilon=1e-8,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=BOS,
        eos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    gain = 1024**0.5 / (EMBEDDING_NORM**2 + frequencies.numel() * scale**2) ** 0.5
    lift = rotation(1024, read.stream.size, generator)
    embedding, unembedding = _codebook(read.stream, generator, gain)
    angles = torch.arange(max_length, dtype=torch.float64)[:, None] * frequencies
    table = torch.stack([angles.cos(), angles.sin()], -1).flatten(1) * scale
    weights = {
        "transformer.wte.weight": embedding @ lift.T,
        "transformer.wpe.weight": table @ lift[:, read.stream["pos"]].T,
        "lm_head.weight": unembedding @ lift.T,
    }
    shared = N_HEADS // N_KV_HEADS
    for index, layer in enumerate(planted_layers(read)):
        queries, keys, values, outputs = _lifted(layer, read, lift, gain, generator, shuffled)
        heads = [queries, keys.repeat_interleave(shared, 0), values.repeat_interleave(shared, 0)]
        block = f"transformer.h.{index}"
        weights[f"{block}.attn.c_attn.weight"] = torch.cat([weight.flatten(0, 1) for weight in heads]).T
        weights[f"{block}.attn.c_proj.weight"] = outputs.transpose(1, 2).flatten(0, 1)
        weights[f"{block}.mlp.c_proj.weight"] = torch.zeros(8, 1024)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the start of the unused MLP, which the weight hash covers
        model = GPT2LMHeadModel(config)
    write_weights(model, weights)
    return model


def _check_length(max_length: int) -> None:
    if not _MIN_LENGTH <= max_length <= _MAX_LENGTH:
        raise ModelError(
            f"planted model: found max_length {max_length}, wanted {_MIN_LENGTH} to {_MAX_LENGTH} tokens; "
            "pass one there"
        )


def _codebook(
    stream: Stream, generator: torch.Generator, gain: float
) -> tuple[Float[Tensor, "V m"], Float[Tensor, "V m"]]:
    """Embedding and unembedding `[V, m]`: random unit codes, flags, a filler that makes all lengths equal."""
    codes = torch.randn(VOCABULARY, CODE, generator=generator, dtype=torch.float64)
    codes /= codes.norm(dim=1, keepdim=True)
    codes[BOS] = 0
    embedding = torch.zeros(VOCABULARY, stream.size, dtype=torch.float64)
    embedding[:, stream["const"]] = BALLAST
    embedding[:, stream["tok"]] = codes
    embedding[:, stream["nonbos"]] = 1
    embedding[BOS, stream["nonbos"]] = 0
    embedding[BOS, stream["bos"]] = 1
    embedding[DELIMITER, stream["delim"]] = 1
    embedding[END, stream["end"]] = 1
    embedding[list(NAMES), stream["name"]] = 1
    embedding[:, stream["pad"]] = (EMBEDDING_NORM**2 - embedding.square().sum(1, keepdim=True)).sqrt()
    unembedding = torch.zeros_like(embedding)
    unembedding[:, stream["out"]] = _UNEMBEDDING_GAIN / gain * codes
    return embedding, unembedding


def _lifted(
    layer: Layer, read: Reader, lift: Tensor, gain: float, generator: torch.Generator, shuffled: bool
) -> tuple[Float[Tensor, "H D d"], Float[Tensor, "G D d"], Float[Tensor, "G D d"], Float[Tensor, "H d D"]]:
    """One layer's W_Q, W_K, W_V, W_O in the rotated stream; `gain` is what the norm layer multiplies by."""
    # √D of the score's scale is split between query and key.
    reading = HEAD_DIM**0.25 / gain
    queries = torch.stack([head.query for head in layer.heads]) @ lift.T * reading
    keys = torch.stack(layer.keys) @ lift.T * reading
    values = (value(read.stream) @ lift.T / gain).expand(N_KV_HEADS, -1, -1)
    outputs = lift @ torch.stack([head.output for head in layer.heads])
    if shuffled:
        queries, keys = _shuffled(queries, keys, generator, _QUIET * reading**2)
    return queries, keys, values, outputs


def _shuffled(
    queries: Float[Tensor, "H D d"], keys: Float[Tensor, "G D d"], generator: torch.Generator, loudest: float
) -> tuple[Float[Tensor, "H D d"], Float[Tensor, "G D d"]]:
    """Columns of W_Q and of W_K permuted independently, and W_Q of loud heads scaled down.

    A shuffled content head would still score tokens at random, by tens of units, and so make sinks of some
    of them; below `loudest` = ‖W_Q‖‖W_K‖ its attention is as good as uniform.
    """
    width = queries.shape[-1]
    queries = queries[..., torch.randperm(width, generator=generator)]
    keys = keys[..., torch.randperm(width, generator=generator)]
    product = queries.norm(dim=(1, 2)) * keys.norm(dim=(1, 2)).repeat_interleave(N_HEADS // N_KV_HEADS)
    return queries * (loudest / product.clamp(min=loudest))[:, None, None], keys
