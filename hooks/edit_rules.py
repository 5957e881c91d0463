"""Rules that put something else where a head's output was: nothing, given values, a mean, more or less of it.

Each is called with a `Part` and returns z [b, h, T, Dv] in the model's dtype, differentiable in what it uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import HookError
from .part import Part


@dataclass(frozen=True)
class Zero:
    """Nothing: z = 0. Equal to zeroing the head's slice of W_O; the value projection's bias goes with it."""

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """Zeros, without the memory of them."""
        return part.current.new_zeros(()).expand(part.shape)


@dataclass(frozen=True, eq=False)
class Replace:
    """Given values: a mean, z of another prompt (resampling), z of an earlier run.

    values: [b or 1, H, n or 1, Dv], H all heads of the layer, b the rows of the edit, in the model's dtype.
    An n of 1 stands at every position; otherwise row t of `values` belongs to position `first` + t of the
    sequence, and the values must say what stands at every position of a call, and, of a prompt, at no more.
    """

    values: Float[Tensor, "#b H #n Dv"]
    first: int = 0

    def __call__(self, part: Part) -> Float[Tensor, "#b h #T Dv"]:
        """The values of the part's heads and positions. Raises HookError where they do not fit."""
        values = part.pick(self.values, "values")
        _, _, queries, width = part.shape
        count = values.shape[2]
        if values.shape[3] != width:
            raise HookError(f"layer {part.layer}: values are {values.shape[3]} wide; heads give {width}")
        if count == 1:
            return values.expand(part.shape)
        begin = part.start - self.first
        fits = begin >= 0 and begin + queries <= count and (part.start > 0 or begin + queries == count)
        if not fits:
            raise HookError(
                f"layer {part.layer}: values for positions {self.first} to {self.first + count - 1} in a call of "
                f"positions {part.start} to {part.start + queries - 1}; give those, or limit the edit's phase"
            )
        return values[:, :, begin : begin + queries].expand(part.shape)


@dataclass(frozen=True, eq=False)
class Scale:
    """z times a number, or times a gate for each head: factor is [] or [H], H all heads of the layer."""

    factor: float | Float[Tensor, "*H"]

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """factor * z, in z's dtype. Raises HookError for a factor of another shape."""
        factor = self.factor
        if isinstance(factor, Tensor):
            heads = part.whole.q.shape[1]
            if factor.shape not in ((), (heads,)):
                raise HookError(f"layer {part.layer}: factor {tuple(factor.shape)}; wanted one number or {heads}")
            factor = factor.to(part.z)
            factor = factor[part.heads][:, None, None] if factor.ndim else factor
        return part.z * factor


@dataclass(frozen=True)
class MeanSelf:
    """The mean of z over the row's own tokens, its first left out (a sink, unlike the others): METRICS `mean_self`.

    Only at prefill, and not of a single token: a decoding call does not see the prompt's z.
    """

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """One mean for all positions of a row. Raises HookError where a row has no second token."""
        if part.start > 0:
            raise HookError(
                f"layer {part.layer}: mean_self of a call past a cache, which does not show the prompt's z; "
                "edit with phase='prefill'"
            )
        own = ~part.padding()
        own = own & (own.cumsum(1) > 1)
        count = own.sum(1)
        if not bool((count > 0).all()):
            raise HookError(f"layer {part.layer}: mean_self of a row of fewer than two tokens; wanted more")
        wide = torch.promote_types(part.z.dtype, torch.float32)
        # What stands at a padded position may be anything, infinities included: it is left out, not weighed with 0.
        total = part.z.to(wide).masked_fill(~own[:, None, :, None], 0).sum(2)
        return (total / count[:, None, None]).to(part.z.dtype)[:, :, None].expand(part.shape)
