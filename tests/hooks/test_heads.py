"""Heads by number, on transformers models; TransformerLens ones are in test_edits_lens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from probe.hooks.errors import HookError
from probe.hooks.heads import all_heads, by_layer, head_sites, kv_group, whole_layer


def test_counts_are_those_of_the_calls(case: Any, watch: Callable[..., Any]) -> None:
    if case.name == "clip":
        return
    found = head_sites(case.model)
    _, seen = watch(case.model, case.inputs, [])
    assert [one.call.site for one in seen] == [site for site, _, _ in found.values()]
    counts = [(one.call.q.shape[1], one.call.k.shape[1]) for one in seen]
    assert counts == [(heads, groups) for _, heads, groups in found.values()]


def test_hybrids_have_heads_where_they_attend(build: Callable[[str], Any]) -> None:
    model = build("qwen3_next").model
    assert all_heads(model) == tuple((1, head) for head in range(6))
    with pytest.raises(HookError, match=r"no attention in layer 0; the model has it in \[1\]"):
        whole_layer(model, 0)


def test_groups_are_those_that_share_keys(build: Callable[[str], Any]) -> None:
    assert kv_group(build("llama").model, 0, 1) == ((0, 3), (0, 4), (0, 5))
    assert kv_group(build("gpt2").model, 1, 5) == ((1, 5),)
    with pytest.raises(HookError, match="layer 0 has no key/value head 2; wanted 0 to 1"):
        kv_group(build("llama").model, 0, 2)


def test_heads_are_sorted_by_layer(llama: Any) -> None:
    found = by_layer(head_sites(llama.model), ((1, 4), (0, 2), (1, 1)))
    assert [(site.layer, heads) for site, heads in found.items()] == [(0, (2,)), (1, (1, 4))]
