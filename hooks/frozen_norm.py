"""A norm as the linear map that it is once its scale is frozen: found by asking the module, whatever its names.

LayerNorm and RMSNorm give y = (x − m) · s(x) γ + β, with m the mean of x or 0. With s held at the value that it has
in one run, every part of x has its own share of y (METHODS 17).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import HookError

ROUNDINGS = 32
"""Roundings in one number that a norm gives, those of its probes included; a sum over d is taken in float32 or wider
by every norm of transformers, in blocks."""


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """share(x) = (x − mean(x) where centred) · scale; the norm itself is share(x) + offset.

    scale: [*rows, d] float64, γ s(x) of every row of the run; offset: [d] float64, β.
    """

    scale: Float[Tensor, "*rows d"]
    offset: Float[Tensor, "d"]
    centred: bool

    def share(self, part: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """What a part of the norm's input becomes, float64; shares of parts that add up add up."""
        part = part.double()
        return (part - part.mean(-1, keepdim=True) if self.centred else part) * self.scale

    def pulled(self, direction: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """The direction before the norm: ⟨share(x), direction⟩ = ⟨x, pulled(direction)⟩ for every x."""
        before = direction.double() * self.scale
        return before - before.mean(-1, keepdim=True) if self.centred else before


def frozen(norm: Callable[[Tensor], Tensor], given: Float[Tensor, "*rows d"]) -> FrozenNorm:
    """The map of `norm` with the scale that it has for `given`; memory: a few times that of `given` in float64.

    norm: the module, or its forward. γ and β are read off its answers to 0, to a constant and to a vector of
    alternating signs. Raises HookError for a module that does not answer as LayerNorm or RMSNorm do.
    """
    width = given.shape[-1]
    signs = torch.ones(width, dtype=given.dtype, device=given.device)
    constant = signs.clone()
    signs[1::2] = -1
    with torch.no_grad():
        offset, flat, wide, gave = (norm(x).double() for x in (torch.zeros_like(signs), constant, signs, given))
    centred = bool((flat - offset).norm() < 0.1 * (wide - offset).norm())
    weight = (wide - offset) / (signs - signs.mean() if centred else signs).double()
    x = given.double()
    mean = x.mean(-1, keepdim=True) if centred else torch.zeros_like(x[..., :1])
    plain = (x - mean) * weight
    size = plain.square().sum(-1, keepdim=True)
    ratio = torch.where(size > 0, ((gave - offset) * plain).sum(-1, keepdim=True) / size, 0.0)
    error = (gave - offset - ratio * plain).abs()
    around = ratio.abs() * weight.abs() * (x.abs() + mean.abs()) + offset.abs()
    # Many norms compute in float32 whatever they are given.
    unit = max(torch.finfo(given.dtype).eps, torch.finfo(torch.float32).eps)
    if not bool((error <= ROUNDINGS * unit * around).all()):
        name = type(getattr(norm, "__self__", norm)).__name__  # of the module, also where its method is given
        raise HookError(
            f"{name} does not scale and shift what it is given as LayerNorm and RMSNorm do; its scale cannot be frozen"
        )
    return FrozenNorm(ratio * weight, offset, centred)
