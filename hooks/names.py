"""TransformerLens' names for what happens at an attention call, and the filters its users write."""

from __future__ import annotations

import re
from collections.abc import Callable

from .call import Site
from .errors import HookError

NamesFilter = str | list[str] | Callable[[str], bool]
QUANTITIES = ("q", "k", "v", "rot_q", "rot_k", "z", "result", "pattern")


def block_name(site: Site, found: list[Site]) -> str:
    """The name a site's hooks begin with: "blocks.3.attn".

    A stack beside the main one is named before it, "encoder_blocks.3.attn" or "vision_blocks.3.attn", both
    stacks of an encoder-decoder are, and cross-attention is "decoder_blocks.3.cross_attn".
    """
    stacks = {other.stack for other in found}
    encoder_decoder = any(other.kind == "cross" for other in found)
    order = ("decoder", "encoder", "vision")
    main = None if encoder_decoder else next(stack for stack in order if stack in stacks)
    prefix = "blocks" if site.stack == main else f"{site.stack}_blocks"
    return f"{prefix}.{site.layer}.{'cross_attn' if site.kind == 'cross' else 'attn'}"


def hook_names(found: list[Site]) -> dict[str, tuple[Site, str]]:
    """Every name that can be asked for, with its site and quantity, in the order of the model."""
    return {f"{block_name(site, found)}.hook_{quantity}": (site, quantity) for site in found for quantity in QUANTITIES}


def matching(names_filter: NamesFilter, names: list[str]) -> list[str]:
    """The names that a filter asks for.

    A string is a full name, or a shorthand as of TransformerLens' `get_act_name`: "pattern" or "hook_pattern"
    in every layer, "pattern3" in layer 3. A list holds such strings; a callable is asked name by name.
    Raises HookError for a string, or a filter, that matches nothing.
    """
    if callable(names_filter):
        chosen = [name for name in names if names_filter(name)]
    else:
        chosen = []
        for wanted in [names_filter] if isinstance(names_filter, str) else names_filter:
            hits = [name for name in names if name == wanted or _shorthand(wanted, name)]
            if not hits:
                raise HookError(f"names_filter {wanted!r} matches nothing; names look like {names[-1]!r}")
            chosen += [name for name in hits if name not in chosen]
    if not chosen:
        raise HookError(f"names_filter {names_filter!r} matches nothing; names look like {names[-1]!r}")
    return chosen


def _shorthand(wanted: str, name: str) -> bool:
    parts = re.fullmatch(r"(?:hook_)?([a-z_]+?)(\d+)?", wanted)
    if parts is None or not name.endswith(f".hook_{parts.group(1)}"):
        return False
    return parts.group(2) is None or name.split(".")[1] == parts.group(2)
