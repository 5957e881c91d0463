"""Find the attention modules of a transformers model: those whose forward asks the attention interface."""

from __future__ import annotations

import inspect
import re

from torch import nn

from .call import Site
from .errors import HookError

_CROSS = re.compile(r"cross|encoder_attn|encdec", re.IGNORECASE)
_VISION = re.compile(r"vision|visual|image|siglip|(^|[._])vit", re.IGNORECASE)


def sites(model: nn.Module) -> list[Site]:
    """All attention sites of a model, in the order of its modules.

    Raises HookError, naming the model's own attention classes, where none goes through transformers'
    attention interface, and for a TransformerLens model (see `lens`).
    """
    return [site for site, _ in located(model)]


def located(model: nn.Module) -> list[tuple[Site, nn.Module]]:
    """`sites`, each with its module."""
    if type(model).__module__.startswith("transformer_lens"):
        raise HookError(f"{type(model).__name__} is a TransformerLens model: use probe.hooks.lens for it")
    found = [(name, module) for name, module in model.named_modules() if _asks_interface(module)]
    if not found:
        own = sorted({type(module).__name__ for module in model.modules() if "ttention" in type(module).__name__})
        raise HookError(
            f"{type(model).__name__}: attention does not go through transformers' attention interface (found "
            f"{', '.join(own) or 'no attention module'}); wanted a family that uses it, such as llama or gpt2"
        )
    placed = [(_site(model, name, module), module) for name, module in found]
    return _renumbered(placed)


def _asks_interface(module: nn.Module) -> bool:
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def _site(model: nn.Module, name: str, module: nn.Module) -> Site:
    kind = "cross" if _CROSS.search(f"{name}.{type(module).__name__}") else "self"
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return Site(name, _stack(model, name, module), kind, int(number.group(1)) if number else 0)


def _stack(model: nn.Module, name: str, module: nn.Module) -> str:
    owner, path = model, ""
    for part in name.split("."):
        path = f"{path}.{part}".lstrip(".")
        parent = model.get_submodule(path)
        owner = parent if hasattr(parent, "main_input_name") and hasattr(parent, "config") else owner
    if _VISION.search(f"{name}.{type(module).__name__}"):
        return "vision"
    if "decoder" in name.split(".") or "encoder" in name.split("."):
        return "decoder" if "decoder" in name.split(".") else "encoder"
    if getattr(owner, "main_input_name", "") == "pixel_values":
        return "vision"
    return "decoder" if getattr(module, "is_causal", True) else "encoder"


def _renumbered(placed: list[tuple[Site, nn.Module]]) -> list[tuple[Site, nn.Module]]:
    """Where a path's first number is a stage and not a layer, layers of the stack are counted in order."""
    taken: dict[tuple[str, str], list[int]] = {}
    for site, _ in placed:
        taken.setdefault((site.stack, site.kind), []).append(site.layer)
    ambiguous = {key for key, layers in taken.items() if len(set(layers)) != len(layers)}
    counted: dict[tuple[str, str], int] = {}
    result = []
    for site, module in placed:
        key = (site.stack, site.kind)
        if key in ambiguous:
            number = counted.get(key, 0)
            counted[key] = number + 1
            site = Site(site.name, site.stack, site.kind, number)
        result.append((site, module))
    return result
