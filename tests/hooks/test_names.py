"""TransformerLens' names, and the filters that pick among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from probe.hooks.call import Site
from probe.hooks.errors import HookError
from probe.hooks.names import block_name, hook_names, matching
from probe.hooks.sites import sites

TWELVE = [Site(f"h.{layer}.attn", "decoder", "self", layer) for layer in range(12)]
NAMES = list(hook_names(TWELVE))


def test_names_are_those_of_transformer_lens() -> None:
    assert NAMES[:3] == ["blocks.0.attn.hook_q", "blocks.0.attn.hook_k", "blocks.0.attn.hook_v"]
    assert hook_names(TWELVE)["blocks.11.attn.hook_pattern"] == (TWELVE[11], "pattern")


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("blocks.3.attn.hook_z", ["blocks.3.attn.hook_z"]),
        ("z3", ["blocks.3.attn.hook_z"]),
        ("hook_rot_q11", ["blocks.11.attn.hook_rot_q"]),
        ("rot_q1", ["blocks.1.attn.hook_rot_q"]),
        ("q1", ["blocks.1.attn.hook_q"]),
        (["z1", "pattern0", "z1"], ["blocks.1.attn.hook_z", "blocks.0.attn.hook_pattern"]),
        ("pattern", [f"blocks.{layer}.attn.hook_pattern" for layer in range(12)]),
        (lambda name: name.endswith("5.attn.hook_k"), ["blocks.5.attn.hook_k"]),
    ],
)
def test_filters(wanted: Any, names: list[str]) -> None:
    assert matching(wanted, NAMES) == names


@pytest.mark.parametrize(
    "wanted", ["scores", "z12", "blocks.0.attn.hook_Z", "", [], ["z0", "zz"], lambda name: False]
)
def test_filters_that_match_nothing_raise(wanted: Any) -> None:
    with pytest.raises(HookError, match="matches nothing"):
        matching(wanted, NAMES)


def test_stacks_are_told_apart(build: Callable[[str], Any]) -> None:
    def names(family: str) -> list[str]:
        found = sites(build(family).model)
        return [block_name(site, found) for site in found]

    assert names("bert") == ["blocks.0.attn", "blocks.1.attn"]
    assert names("vit") == ["blocks.0.attn", "blocks.1.attn"]
    assert names("clip") == ["blocks.0.attn", "blocks.1.attn", "vision_blocks.0.attn", "vision_blocks.1.attn"]
    assert names("t5") == [
        "encoder_blocks.0.attn",
        "encoder_blocks.1.attn",
        "decoder_blocks.0.attn",
        "decoder_blocks.0.cross_attn",
        "decoder_blocks.1.attn",
        "decoder_blocks.1.cross_attn",
    ]
