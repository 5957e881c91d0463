"""Data only: what families call the parts that this package looks for."""

from __future__ import annotations

OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "Wo", "o", "out_lin", "proj")
"""Children of an attention module that take the heads joined: llama and most others; bart, clip, whisper;
gpt2; gpt_neox, phi; modernbert; t5; distilbert; vision towers."""

SIBLING_PROJECTIONS = ("output.dense",)
"""The same, beside the attention module instead of inside it: BERT's `attention.output`."""

QUERY_PROJECTIONS = ("q_proj", "query", "q", "q_lin")
KEY_PROJECTIONS = ("k_proj", "key", "k", "k_lin")
VALUE_PROJECTIONS = ("v_proj", "value", "v", "v_lin")
"""Linear maps whose output is q, k or v before rotary embedding and norms, one head after the other."""

FUSED_PROJECTIONS = ("c_attn", "qkv_proj", "Wqkv")
"""One map for all three: the heads' q, then k, then v."""

INTERLEAVED_PROJECTIONS = ("query_key_value",)
"""One map for all three: of each head its q, k and v, then the next head's (gpt_neox)."""

HEAD_WIDTHS = ("head_dim", "attention_head_size", "key_value_proj_dim")
"""Attributes of an attention module that give the width of a head of q and k."""

HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads")
"""Attributes of an attention module that give its number of query heads."""

CONTEXT_LENGTHS = ("max_position_embeddings", "max_target_positions", "n_positions", "max_length")
"""Attributes of a config that give the length a model reads (n_positions by attribute map in most)."""
