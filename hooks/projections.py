"""The maps that make q, k and v of what attention reads: their weights head by head, and how the model joins them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .call import Site
from .errors import HookError
from .families import (
    FUSED_PROJECTIONS,
    INTERLEAVED_PROJECTIONS,
    KEY_PROJECTIONS,
    QUERY_PROJECTIONS,
    VALUE_PROJECTIONS,
)
from .spec import head_count, kv_head_count

Joined = Callable[[Tensor, Tensor, Tensor], dict[nn.Module, Tensor]]
"""q [B, T, H, D], k [B, T, G, D], v [B, T, G, Dv] -> what each projection module is to give."""


@dataclass(frozen=True, eq=False)
class Projections:
    """W_Q [H, D, d_model], W_K and W_V [G, D*, d_model], views in the model's dtype; biases [heads, D*] or None.

    join: what the model's own modules would have given, from q, k and v head by head.
    """

    weights: tuple[Float[Tensor, "H D d"], Float[Tensor, "G D d"], Float[Tensor, "G Dv d"]]
    biases: tuple[Tensor | None, Tensor | None, Tensor | None]
    join: Joined


def projections(model: nn.Module, site: Site) -> Projections:
    """The projections of one attention site.

    Raises HookError, by name, where q, k and v are not plain maps of what attention reads (compressed as in
    deepseek, gated as in qwen3_next), and where a norm runs over several heads at once (olmo2), which no port of a
    single head can have.
    """
    module = model.get_submodule(site.name)
    heads, groups = head_count(model, site), kv_head_count(model, site)
    where = f"{site.name} ({type(module).__name__})"
    three = [_first(module, names) for names in (QUERY_PROJECTIONS, KEY_PROJECTIONS, VALUE_PROJECTIONS)]
    fused, interleaved = _first(module, FUSED_PROJECTIONS), _first(module, INTERLEAVED_PROJECTIONS)
    if all(one is not None for one in three):
        found = _separate([one for one in three if one is not None], (heads, groups, groups), where)
    elif fused is not None:
        found = _fused(fused, heads, groups, where)
    elif interleaved is not None and heads == groups:
        found = _interleaved(interleaved, heads, where)
    else:
        raise HookError(
            f"{where}: no plain projection to q, k and v; looked for {', '.join(QUERY_PROJECTIONS)}, "
            f"{', '.join(FUSED_PROJECTIONS)}, {', '.join(INTERLEAVED_PROJECTIONS)}"
        )
    width = found.weights[0].shape[1]
    if found.weights[1].shape[1] != width:
        raise HookError(f"{where}: queries {width} wide and keys {found.weights[1].shape[1]}: a gated or shared map")
    _check_norms(module, width, where)
    return found


def _check_norms(module: nn.Module, width: int, where: str) -> None:
    for name, child in module.named_children():
        weight = getattr(child, "weight", None)
        if "norm" in name and isinstance(weight, Tensor) and weight.shape[-1] != width and weight.ndim == 1:
            raise HookError(
                f"{where}: {name} is {weight.shape[-1]} wide and a head {width}: it joins heads, whose q and k then "
                "cannot be read from streams of their own"
            )


def _separate(modules: list[nn.Module], counts: tuple[int, int, int], where: str) -> Projections:
    maps = [_map(module, where) for module in modules]
    weights = [weight.reshape(count, -1, weight.shape[1]) for (weight, _), count in zip(maps, counts, strict=True)]
    biases = [_by_head(bias, count) for (_, bias), count in zip(maps, counts, strict=True)]

    def join(q: Tensor, k: Tensor, v: Tensor) -> dict[nn.Module, Tensor]:
        return {module: one.flatten(2) for module, one in zip(modules, (q, k, v), strict=True)}

    return Projections((weights[0], weights[1], weights[2]), (biases[0], biases[1], biases[2]), join)


def _fused(module: nn.Module, heads: int, groups: int, where: str) -> Projections:
    weight, bias = _map(module, where)
    width, odd = divmod(weight.shape[0], heads + 2 * groups)
    if odd:
        raise HookError(f"{where}: {weight.shape[0]} outputs for {heads} queries and twice {groups} keys and values")
    sizes = [heads * width, groups * width, groups * width]
    weights = [part.reshape(-1, width, weight.shape[1]) for part in torch.split(weight, sizes)]
    biases = [None] * 3 if bias is None else [part.reshape(-1, width) for part in torch.split(bias, sizes)]

    def join(q: Tensor, k: Tensor, v: Tensor) -> dict[nn.Module, Tensor]:
        return {module: torch.cat([q.flatten(2), k.flatten(2), v.flatten(2)], -1)}

    return Projections((weights[0], weights[1], weights[2]), (biases[0], biases[1], biases[2]), join)


def _interleaved(module: nn.Module, heads: int, where: str) -> Projections:
    weight, bias = _map(module, where)
    by_head = weight.reshape(heads, 3, -1, weight.shape[1])
    biases = [None] * 3 if bias is None else list(bias.reshape(heads, 3, -1).unbind(1))

    def join(q: Tensor, k: Tensor, v: Tensor) -> dict[nn.Module, Tensor]:
        return {module: torch.stack([q, k, v], 3).flatten(2)}

    q, k, v = by_head.unbind(1)
    return Projections((q, k, v), (biases[0], biases[1], biases[2]), join)


def _first(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((one for name in names if isinstance(one := getattr(module, name, None), nn.Module)), None)


def _map(module: nn.Module, where: str) -> tuple[Float[Tensor, "out d"], Float[Tensor, "out"] | None]:
    """Weight as [outputs, inputs], and bias."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    plain = type(module) is nn.Linear or type(module).__name__ == "Conv1D"
    if not plain or not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise HookError(f"{where}: {type(module).__name__} is no plain matrix (adapted or quantised); merge it first")
    return (weight if type(module) is nn.Linear else weight.T), bias if isinstance(bias, Tensor) else None


def _by_head(bias: Tensor | None, count: int) -> Tensor | None:
    return None if bias is None else bias.reshape(count, -1)
