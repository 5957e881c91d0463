"""Every attention module is found, and told apart by stack, kind and layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from probe.hooks.attention import AttentionCall, instrument
from probe.hooks.errors import HookError
from probe.hooks.sites import located, sites

STACKS = {
    "bert": ("encoder", "self"),
    "modernbert": ("encoder", "self"),
    "vit": ("vision", "self"),
}


def test_the_sites_are_the_modules_that_call(case: Any) -> None:
    called: list[str] = []

    def note(call: AttentionCall) -> torch.Tensor:
        assert call.module is case.model.get_submodule(call.site.name)
        called.append(call.site.name)
        return call.attend()

    with torch.no_grad(), instrument(case.model, note):
        case.model(**case.inputs)
    assert sorted(called) == sorted(site.name for site in sites(case.model))
    assert len(called) == case.family.sites


def test_stack_kind_and_layer_tell_sites_apart(case: Any) -> None:
    found = sites(case.model)
    assert len({(site.stack, site.kind, site.layer) for site in found}) == len(found)
    if case.family.decodes and case.family.inputs == "text":
        assert {(site.stack, site.kind) for site in found} == {("decoder", "self")}
    elif case.family.inputs in ("pair", "speech"):
        kinds = {("encoder", "self"), ("decoder", "self"), ("decoder", "cross")}
        assert {(site.stack, site.kind) for site in found} == kinds
    elif case.name == "clip":
        assert [(s.stack, s.layer) for s in found] == [
            ("encoder", 0),
            ("encoder", 1),
            ("vision", 0),
            ("vision", 1),
        ]
    else:
        assert {(site.stack, site.kind) for site in found} == {STACKS[case.name]}


def test_hybrids_keep_the_models_own_numbers(build: Callable[[str], Any]) -> None:
    assert [site.layer for site in sites(build("qwen3_next").model)] == [1]


def test_a_stage_number_is_not_a_layer(llama: Any) -> None:
    tower = torch.nn.ModuleList([torch.nn.ModuleList(llama.model.model.layers)])
    assert [site.layer for site, _ in located(tower)] == [0, 1]


def test_models_without_the_interface_are_named(outside: dict[str, Callable[[], Any]]) -> None:
    for name, make in outside.items():
        with pytest.raises(HookError, match=name):
            sites(make())
    with pytest.raises(HookError, match="no attention module"):
        sites(torch.nn.Linear(2, 2))
