"""Counts and projections of every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from probe.hooks.attention import AttentionCall, instrument
from probe.hooks.errors import HookError
from probe.hooks.sites import sites
from probe.hooks.spec import head_count, kv_head_count, main_sites, output_projection, spec_of


def test_the_spec_is_what_calls_show(case: Any) -> None:
    spec = spec_of(case.model)
    main = set(main_sites(sites(case.model)))

    def check(call: AttentionCall) -> torch.Tensor:
        if call.site in main:
            assert call.q.shape[1] == spec.n_heads
            assert call.k.shape[1] == spec.n_kv_heads
            assert call.q.shape[3] == spec.d_head
            assert call.v.shape[3] == spec.d_value
            assert call.softcap == spec.softcap
        assert head_count(case.model, call.site) == call.q.shape[1]
        assert kv_head_count(case.model, call.site) == call.k.shape[1]
        return call.attend()

    with torch.no_grad(), instrument(case.model, check):
        case.model(**case.inputs)
    assert (spec.n_layers, spec.d_model) == (2, 48)
    assert spec.attention_layers == tuple(site.layer for site in sites(case.model) if site in main)
    assert spec.n_ctx == (None if case.name in ("vit", "t5") else 64)


def test_heads_through_w_o_are_the_projection(case: Any) -> None:
    for site in sites(case.model):
        projection, weight = output_projection(case.model, site)
        z = torch.randn(3, *weight.shape[:2], generator=torch.Generator().manual_seed(0))
        wanted = projection(z.flatten(1)) - (
            0 if getattr(projection, "bias", None) is None else projection.bias
        )
        # 48 float32 products of order 1.
        assert (torch.einsum("thd,hdm->tm", z, weight) - wanted).abs().max() < 1e-5


def test_w_o_is_a_view_of_the_weight(build: Callable[[str], Any]) -> None:
    for name in ("llama", "gpt2"):
        model = build(name).model
        projection, weight = output_projection(model, sites(model)[0])
        assert weight.data_ptr() == projection.weight.data_ptr()


def test_a_missing_projection_is_named(llama: Any) -> None:
    llama.model.model.layers[0].self_attn.o_proj = nn.Identity()
    with pytest.raises(HookError, match=r"layers\.0\.self_attn .* looked for o_proj, out_proj"):
        output_projection(llama.model, sites(llama.model)[0])


def test_windows_are_given_only_where_they_are_used(build: Callable[[str], Any]) -> None:
    windows = {name: spec_of(build(name).model).window for name in ("llama", "qwen2", "mistral", "gemma3")}
    assert windows == {"llama": None, "qwen2": 4, "mistral": 4, "gemma3": 4}
    model = build("qwen2").model
    model.config.use_sliding_window = False
    assert spec_of(model).window is None


def test_missing_counts_are_named(llama: Any) -> None:
    llama.model.config.num_attention_heads = 0
    with pytest.raises(HookError, match="number of heads not found"):
        spec_of(llama.model)
