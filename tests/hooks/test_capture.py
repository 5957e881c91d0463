"""Captured tensors are the model's own, by TransformerLens' names and axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from probe.hooks.attention import AttentionCall, instrument
from probe.hooks.capture import capture
from probe.hooks.errors import HookError
from probe.hooks.names import hook_names
from probe.hooks.sites import sites
from probe.hooks.spec import output_projection

FUSED = {"phi3", "gpt_neox", "deepseek_v3", "modernbert"}
"""Families with rotary embedding that show q and k only after it."""


def test_everything_that_a_family_shows(case: Any) -> None:
    names = hook_names(sites(case.model))
    refused = {"q", "k"} if case.name in FUSED else {"q"} if case.family.gated else set()
    wanted = [name for name, (_, quantity) in names.items() if quantity not in refused]
    with torch.no_grad(), capture(case.model, wanted) as cache:
        case.model(**case.inputs)
    assert set(cache) == set(wanted)
    for name, (site, quantity) in names.items():
        if quantity == "pattern":
            stem = name.removesuffix("hook_pattern")
            batch, heads, queries, keys = cache[name].shape
            assert cache[f"{stem}hook_rot_q"].shape[:3] == (batch, queries, heads)
            assert cache[f"{stem}hook_rot_k"].shape[:2] == cache[f"{stem}hook_v"].shape[:2] == (batch, keys)
            projection, weight = output_projection(case.model, site)
            assert cache[f"{stem}hook_z"].shape == (batch, queries, *weight.shape[:2])
            total = cache[f"{stem}hook_result"].sum(2)
            bias = getattr(projection, "bias", None)
            given = projection(cache[f"{stem}hook_z"].flatten(2)) - (0 if bias is None else bias)
            # 48 float32 products of order 1.
            assert (total - given).abs().max() < 1e-5
            if not case.family.gated:
                groups = cache[f"{stem}hook_v"].shape[2]
                v = cache[f"{stem}hook_v"].repeat_interleave(heads // groups, 2)
                z = torch.einsum("bhqk,bkhd->bqhd", cache[name], v)
                seen = (cache[name].sum(-1) > 0.01).transpose(1, 2)
                # A dozen float32 products of order 1.
                assert (z - cache[f"{stem}hook_z"])[seen].abs().max() < 1e-5


@pytest.mark.parametrize("name", sorted(FUSED))
def test_queries_before_rotary_embedding_are_refused_where_fused(
    name: str, build: Callable[[str], Any]
) -> None:
    model = build(name).model
    with (
        pytest.raises(HookError, match=r"blocks\.0\.attn\.hook_q: .* ask for hook_rot_q"),
        capture(model, "q"),
    ):
        pass


def test_queries_before_rotary_embedding_are_the_projections_own(build: Callable[[str], Any]) -> None:
    case = build("qwen3")
    attention = case.model.model.layers[1].self_attn
    kept: list[torch.Tensor] = []
    handle = attention.q_proj.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad(), capture(case.model, ["q1", "rot_q1"]) as cache:
        case.model(**case.inputs)
    handle.remove()
    assert torch.equal(cache["blocks.1.attn.hook_q"].flatten(2), kept[0])
    assert (cache["blocks.1.attn.hook_q"] - cache["blocks.1.attn.hook_rot_q"]).abs().max() > 1e-2


def test_captured_tensors_have_gradients(llama: Any) -> None:
    with capture(llama.model, ["z0", "pattern0"]) as cache:
        llama.model(**llama.inputs).logits.square().mean().backward()
    assert cache["blocks.0.attn.hook_z"].requires_grad
    assert cache["blocks.0.attn.hook_pattern"].requires_grad


def test_capture_within_an_edit_sees_the_edited_heads(llama: Any) -> None:
    def edit(call: AttentionCall) -> torch.Tensor:
        z = call.attend()
        z[:, 5] = 0
        return z

    with torch.no_grad(), instrument(llama.model, edit), capture(llama.model, "z") as cache:
        llama.model(**llama.inputs)
    assert all(z[:, :, 5].abs().max() == 0 and z[:, :, 4].abs().max() > 0 for z in cache.values())


def test_over_the_budget_is_refused_with_its_size(llama: Any) -> None:
    ids = torch.zeros(1, 64, dtype=torch.long)
    with (
        pytest.raises(HookError, match=r"take 0\.00 GiB \(6 heads, 64 queries, 64 keys, 2 layers\)"),
        capture(llama.model, "pattern", memory_budget=2 * 6 * 64 * 64 * 4 - 1),
    ):
        llama.model(ids)
    with torch.no_grad(), capture(llama.model, "pattern", memory_budget=2 * 6 * 64 * 64 * 4) as cache:
        llama.model(ids)
    assert len(cache) == 2


def test_hooks_that_never_fire_raise(llama: Any) -> None:
    with pytest.raises(HookError, match="never fired"), capture(llama.model, "z1"):
        pass


def test_filters_that_match_nothing_raise(llama: Any) -> None:
    with pytest.raises(HookError, match="matches nothing"), capture(llama.model, "attn_out"):
        pass


def test_everything_is_undone(llama: Any) -> None:
    before = llama.model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), capture(llama.model, lambda name: True):
        raise ZeroDivisionError
    assert llama.model.config._attn_implementation == before
    assert not any(
        m._forward_hooks or m._forward_pre_hooks for m in llama.model.modules() if "proj" in str(type(m))
    )
    assert not llama.model.model.layers[0].self_attn.q_proj._forward_hooks
    assert not llama.model.model.layers[0].self_attn.o_proj._forward_pre_hooks


def test_a_refused_capture_leaves_nothing_behind(build: Callable[[str], Any]) -> None:
    model = build("phi3").model
    with pytest.raises(HookError), capture(model, ["z0", "q0"]):
        pass
    assert not model.model.layers[0].self_attn.o_proj._forward_pre_hooks
