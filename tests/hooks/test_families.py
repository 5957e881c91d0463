"""The names in the tables are names of real parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf

from probe.hooks import families
from probe.hooks.capture import capture
from probe.hooks.verify import verify

FAMILIES = ["llama", "gpt2", "gpt_neox", "bart", "t5", "modernbert", "bert", "vit"]


def test_the_tables_find_parts_in_families(build: Callable[[str], Any]) -> None:
    known = {
        name.rpartition(".")[2] for family in FAMILIES for name, _ in build(family).model.named_modules()
    }
    for name in ("o_proj", "c_proj", "dense", "out_proj", "o", "Wo"):
        assert name in families.OUTPUT_PROJECTIONS
        assert name in known
    assert {"q_proj", "query", "q"} == set(families.QUERY_PROJECTIONS) & known
    assert {"k_proj", "key", "k"} == set(families.KEY_PROJECTIONS) & known


def test_a_family_with_names_of_its_own() -> None:
    torch.manual_seed(0)
    model = tf.DistilBertForMaskedLM(
        tf.DistilBertConfig(vocab_size=53, dim=48, n_layers=2, n_heads=6, hidden_dim=32)
    )
    assert verify(model.eval()).error <= 1
    with torch.no_grad(), capture(model, ["q0", "k0", "z0"]) as cache:
        model(torch.tensor([[5, 6, 7]]))
    assert [tuple(tensor.shape) for tensor in cache.values()] == [(1, 3, 6, 8)] * 3
