"""A small transformer, written by hand, that does two tasks whose circuits share as many heads as one asks for.

A real `LlamaForCausalLM` without trained weights: 4 layers of 8 query heads on 4 key/value heads of 32 dims, RoPE,
RMSNorm, a SwiGLU MLP that one task needs, in a randomly rotated residual stream of 160 dims. Which heads and edges
carry which task is in `probe.planted.circuits`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from probe.errors import ModelError
from probe.planted.circuit_heads import (
    CODE_WIDTH,
    HEAD_WIDTH,
    LONGEST,
    ROPE_THETA,
    SHARE_ORDER,
    STREAM,
    circuit_layers,
    circuit_reader,
    circuit_values,
)
from probe.planted.circuit_words import (
    CIRCUIT_MARKS,
    CIRCUIT_WORDS,
    DOMAIN,
    KEYS,
    QUESTIONS,
    VALUES,
    domain_of,
    ids_of,
)
from probe.planted.heads import Layer
from probe.planted.stream import BALLAST, EMBEDDING_NORM, rotation, write_weights

WIDTH, MLP_WIDTH = 160, 16
LOGIT_GAIN = 10.0
"""Logit that one unit of a value's code in `out` gives to that value."""
_GATE = 8.0
_MLPS = (("alias", "query", 1.0), ("prev", "junk", 0.3), ("val", "junk", 0.3), ("val", "junk", 0.0))
"""Of each layer's MLP: the codes that it looks for, where it writes them, and how strongly."""


def planted_circuits(shared: int = 2, *, seed: int = 0) -> LlamaForCausalLM:
    """The model whose two tasks share exactly `shared` of the four heads that each runs on, 0 to 4.

    seed: the rotation. Float32, on the CPU, eval mode, no gradients. Raises `ModelError` for another `shared`.
    """
    check_shared(shared)
    generator = torch.Generator().manual_seed(seed)
    gain = WIDTH**0.5 / EMBEDDING_NORM
    lift = rotation(WIDTH, STREAM.size, generator)
    embedding, unembedding = _codebook(gain)
    weights = {"model.embed_tokens.weight": embedding @ lift.T, "lm_head.weight": unembedding @ lift.T}
    layers = circuit_layers(circuit_reader(), shared)
    for index, (layer, value) in enumerate(zip(layers, circuit_values(), strict=True)):
        weights |= _attention(f"model.layers.{index}.self_attn", layer, value, lift, gain)
        weights |= _mlp(f"model.layers.{index}.mlp", index, lift, gain)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config())
    write_weights(model, weights)
    return model


def check_shared(shared: int) -> None:
    """Raises ModelError where `shared` is not one of 0 to 4."""
    if type(shared) is not int or not 0 <= shared <= len(SHARE_ORDER):
        raise ModelError(f"planted circuits: shared {shared!r}; wanted a whole number from 0 to {len(SHARE_ORDER)}")


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(CIRCUIT_WORDS),
        hidden_size=WIDTH,
        intermediate_size=MLP_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=HEAD_WIDTH,
        max_position_embeddings=LONGEST,
        rms_norm_eps=1e-8,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=CIRCUIT_MARKS.index("<bos>"),
        eos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
    )


def _codebook(gain: float) -> tuple[Float[Tensor, "V m"], Float[Tensor, "V m"]]:
    """Embedding and unembedding `[V, m]`; `pad` makes all embeddings equally long."""
    vocabulary = len(CIRCUIT_WORDS)
    embedding = torch.zeros(vocabulary, STREAM.size, dtype=torch.float64)
    embedding[:, STREAM["const"]] = BALLAST
    for mark, flag in (("<bos>", "bos"), ("<sep>", "sep"), ("<ask>", "ask")):
        embedding[CIRCUIT_MARKS.index(mark), STREAM[flag]] = 1
    codes = torch.eye(CODE_WIDTH, dtype=torch.float64)
    embedding[list(ids_of(KEYS)), STREAM["key"]] = codes
    # Values speak up more or less clearly, so that prompts differ in how well they are answered.
    clarity = torch.linspace(0.7, 1.3, DOMAIN, dtype=torch.float64).repeat(CODE_WIDTH // DOMAIN)
    embedding[list(ids_of(VALUES)), STREAM["val"]] = clarity.diag()
    asking = list(ids_of(QUESTIONS))
    embedding[asking, STREAM["question"]] = 1
    own, foreign = domain_of("recall"), domain_of("translate")
    embedding[asking[own], STREAM["query"]] = codes[own]
    embedding[asking[foreign], STREAM["alias"]] = codes[foreign]
    embedding[:, STREAM["pad"]] = (EMBEDDING_NORM**2 - embedding.square().sum(1, keepdim=True)).sqrt()
    unembedding = torch.zeros_like(embedding)
    unembedding[list(ids_of(VALUES)), STREAM["out"]] = LOGIT_GAIN / gain * codes
    return embedding, unembedding


def _attention(
    block: str, layer: Layer, value: Float[Tensor, "D m"], lift: Float[Tensor, "d m"], gain: float
) -> dict[str, Tensor]:
    """W_Q, W_K, W_V, W_O in the rotated stream; √D of the score's scale is split between query and key."""
    reading = HEAD_WIDTH**0.25 / gain
    return {
        f"{block}.q_proj.weight": torch.cat([head.query for head in layer.heads]) @ lift.T * reading,
        f"{block}.k_proj.weight": torch.cat(layer.keys) @ lift.T * reading,
        f"{block}.v_proj.weight": (value @ lift.T / gain).repeat(len(layer.keys), 1),
        f"{block}.o_proj.weight": lift @ torch.cat([head.output for head in layer.heads], 1),
    }


def _mlp(block: str, index: int, lift: Float[Tensor, "d m"], gain: float) -> dict[str, Tensor]:
    """Layer `index`'s MLP: 0 turns a `translate` question's alias into its query; 1 and 2 write `junk`, 3 nothing.

    A neuron's gate is 8 where its code is, and 0, whose silu is exactly 0, where it is not; its `up` is 1.
    """
    gate = torch.zeros(MLP_WIDTH, STREAM.size, dtype=torch.float64)
    up, down = torch.zeros_like(gate), torch.zeros_like(gate).T.clone()
    source, to, strength = _MLPS[index]
    gate[:, STREAM[source]] = _GATE * torch.eye(CODE_WIDTH, dtype=torch.float64)
    up[:, STREAM["const"]] = 1 / BALLAST
    opened = torch.nn.functional.silu(torch.tensor(_GATE, dtype=torch.float64))
    down[STREAM[to]] = strength / opened * torch.eye(CODE_WIDTH, dtype=torch.float64)
    return {
        f"{block}.gate_proj.weight": gate @ lift.T / gain,
        f"{block}.up_proj.weight": up @ lift.T / gain,
        f"{block}.down_proj.weight": lift @ down,
    }
