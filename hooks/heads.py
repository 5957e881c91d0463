"""The heads of a model by number: which there are, those of a layer, those that share keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .call import Site
from .errors import HookError
from .lens import is_lens_model, lens_sites
from .sites import sites
from .spec import head_count, kv_head_count, main_sites

Head = tuple[int, int]
"""Layer and query head, both from 0."""

HeadSites = dict[int, tuple[Site, int, int]]
"""Layer -> (site, query heads, key/value heads)."""


def head_sites(model: nn.Module) -> HeadSites:
    """Sites and counts of the stack a model is known by (see `spec.main_sites`).

    For transformers and TransformerLens models. Layers without attention are not in it.
    """
    if is_lens_model(model):
        cfg: Any = model.cfg
        return {site.layer: (site, cfg.n_heads, cfg.n_key_value_heads or cfg.n_heads) for site in lens_sites(model)}
    found = main_sites(sites(model))
    return {site.layer: (site, head_count(model, site), kv_head_count(model, site)) for site in found}


def all_heads(model: nn.Module) -> tuple[Head, ...]:
    """Every head of the model, layer by layer."""
    return tuple((layer, head) for layer, (_, heads, _) in head_sites(model).items() for head in range(heads))


def whole_layer(model: nn.Module, layer: int) -> tuple[Head, ...]:
    """Every head of a layer. Raises HookError for a layer without attention."""
    _, heads, _ = _at(head_sites(model), layer)
    return tuple((layer, head) for head in range(heads))


def kv_group(model: nn.Module, layer: int, group: int) -> tuple[Head, ...]:
    """The query heads that share key/value head `group` of a layer. Raises HookError where there is none."""
    _, heads, groups = _at(head_sites(model), layer)
    if not 0 <= group < groups:
        raise HookError(f"layer {layer} has no key/value head {group}; wanted 0 to {groups - 1}")
    size = heads // groups
    return tuple((layer, head) for head in range(group * size, (group + 1) * size))


def by_layer(known: HeadSites, heads: Sequence[Head]) -> dict[Site, tuple[int, ...]]:
    """Site -> ascending head numbers, in the order of the layers; known: as `head_sites` gives it.

    Raises HookError for a layer or head that the model does not have, and for one that is named twice.
    """
    named: dict[Site, set[int]] = {}
    for layer, head in heads:
        site, count, _ = _at(known, layer)
        if not 0 <= head < count:
            raise HookError(f"layer {layer} has no head {head}; wanted 0 to {count - 1}")
        if head in named.setdefault(site, set()):
            raise HookError(f"head {head} of layer {layer} is named twice in one edit; name it once")
        named[site].add(head)
    return {site: tuple(sorted(named[site])) for site in sorted(named, key=lambda site: site.layer)}


def _at(known: HeadSites, layer: int) -> tuple[Site, int, int]:
    if layer not in known:
        raise HookError(f"no attention in layer {layer}; the model has it in {sorted(known)}")
    return known[layer]
