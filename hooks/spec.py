"""What a model looks like: counts, widths, and the projection that takes its heads joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from .call import Site
from .errors import HookError
from .families import CONTEXT_LENGTHS, HEAD_COUNTS, OUTPUT_PROJECTIONS, SIBLING_PROJECTIONS
from .sites import sites

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a model's main stack (the decoder of an encoder-decoder).

    d_head is the width of q and k, d_value that of v (less in multi-head latent attention). n_ctx: tokens the
    model reads, None where it states none. attention_layers: the layers that have attention (hybrids skip
    some). window, softcap: as the config states them, None where it has none; a window may hold in some
    layers only: the call's mask says which.
    """

    family: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_value: int
    d_model: int
    n_ctx: int | None
    attention_layers: tuple[int, ...]
    window: int | None
    softcap: float | None


def spec_of(model: PreTrainedModel) -> ModelSpec:
    """The spec of a transformers model, from its config and its attention sites.

    Raises HookError where the model does not use the attention interface, or its config lacks a count.
    """
    found = sites(model)
    main = main_sites(found)
    config = _text_config(model, main[0])
    n_heads = head_count(model, main[0])
    d_model = _count(config, "hidden_size", "d_model")
    d_head = _optional(config, "qk_head_dim", "head_dim", "d_kv") or d_model // n_heads
    softcap = getattr(config, "attn_logit_softcapping", None)
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return ModelSpec(
        family=str(model.config.model_type),
        n_layers=_count(config, "decoder_layers", "num_hidden_layers", "num_layers"),
        n_heads=n_heads,
        n_kv_heads=_optional(config, "num_key_value_heads") or n_heads,
        d_head=d_head,
        d_value=_optional(config, "v_head_dim") or _value_width(model, main[0]) or d_head,
        d_model=d_model,
        n_ctx=_optional(config, *CONTEXT_LENGTHS),
        attention_layers=tuple(site.layer for site in main),
        window=window if isinstance(window, int) else None,
        softcap=float(softcap) if softcap else None,
    )


def main_sites(found: list[Site]) -> list[Site]:
    """Self-attention of the stack a model is known by: the decoder, else the encoder, else vision."""
    own = [site for site in found if site.kind == "self"]
    for stack in ("decoder", "encoder", "vision"):
        main = [site for site in own if site.stack == stack]
        if main:
            return main
    raise HookError(f"no self-attention among {len(found)} attention sites")


def head_count(model: nn.Module, site: Site) -> int:
    """Number of query heads at a site, as its module or its config states it."""
    module = model.get_submodule(site.name)
    for owner in (module, getattr(module, "config", None)):
        count = _optional(owner, *HEAD_COUNTS)
        if count:
            return count
    raise HookError(f"{site.name} ({type(module).__name__}): number of heads not found; looked for {HEAD_COUNTS}")


def kv_head_count(model: nn.Module, site: Site) -> int:
    """Number of key/value heads at a site, as its module or its config states it; the query heads' without either."""
    module = model.get_submodule(site.name)
    heads = head_count(model, site)
    group = _optional(module, "num_key_value_groups")
    if group:
        return heads // group
    owners = (module, getattr(module, "config", None))
    return next((count for owner in owners if (count := _optional(owner, "num_key_value_heads"))), heads)


def output_projection(model: nn.Module, site: Site) -> tuple[nn.Module, Float[Tensor, "H Dv d_model"]]:
    """The module whose input is the heads joined, and its weight per head: head h writes z_h @ W_O[h].

    W_O is a view of the weight in its own dtype (Linear or GPT-2's Conv1D); the bias belongs to no head. In
    gated families (qwen3_next) the module's input is the gated heads.
    Raises HookError naming what was looked for.
    """
    attention = model.get_submodule(site.name)
    parent = model.get_submodule(site.name.rpartition(".")[0])
    heads = head_count(model, site)
    inside = [(attention, path) for path in OUTPUT_PROJECTIONS]
    beside = [(parent, path) for path in SIBLING_PROJECTIONS]
    for owner, path in inside + beside:
        projection = _child(owner, path)
        weight = None if projection is None else _input_first(projection)
        if projection is not None and weight is not None and weight.shape[0] % heads == 0:
            return projection, weight.reshape(heads, -1, weight.shape[1])
    raise HookError(
        f"{site.name} ({type(attention).__name__}): no output projection with {heads} heads; looked for "
        f"{', '.join(OUTPUT_PROJECTIONS)} inside it and {', '.join(SIBLING_PROJECTIONS)} beside it"
    )


def _input_first(module: nn.Module) -> Tensor | None:
    """The weight as [inputs, outputs], or None for a module that is not a plain matrix."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        return None
    if isinstance(module, nn.Linear):
        return weight.T
    return weight if type(module).__name__ == "Conv1D" else None


def _child(owner: nn.Module, path: str) -> nn.Module | None:
    for part in path.split("."):
        child = getattr(owner, part, None)
        if not isinstance(child, nn.Module):
            return None
        owner = child
    return owner


def _value_width(model: nn.Module, site: Site) -> int | None:
    try:
        return output_projection(model, site)[1].shape[1]
    except HookError:  # a model without a known projection still has a shape
        return None


def _text_config(model: PreTrainedModel, site: Site) -> PretrainedConfig:
    config = getattr(model.get_submodule(site.name), "config", None)
    return model.config if config is None else config


def _optional(owner: object, *names: str) -> int | None:
    for name in names:
        value = getattr(owner, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _count(config: object, *names: str) -> int:
    value = _optional(config, *names)
    if value is None:
        raise HookError(f"{type(config).__name__} has none of {', '.join(names)}; wanted a positive count")
    return value
