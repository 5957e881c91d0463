"""Rules that change where a head looks: everywhere alike, by distance, at itself, or as it did in another run.

None but `Identity` asks what z is at present: they compute it anew from the call's tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .edit_strips import left_keys, shown, z_by_strips
from .errors import HookError
from .part import Part


@dataclass(frozen=True)
class Uniform:
    """Every visible key alike: z_i is the mean of the v that query i may see. Learned sinks and biases are left out.

    Computed with queries of zero, whose scores are all zero, at the speed of plain attention.
    """

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """The mean of the visible v."""
        call = part.call
        bias = call.bias
        if bias is not None:  # what it hides stays hidden
            bias = torch.zeros_like(bias).masked_fill(~shown(bias), torch.finfo(bias.dtype).min)
        return replace(call, q=torch.zeros_like(call.q), sinks=None, bias=bias, softcap=None).attend()


@dataclass(frozen=True, eq=False)
class ByDistance:
    """Static attention: a key counts by its distance from the query alone, weights normalised over visible keys.

    weights: [K], or [H, K] with one profile for each head of the layer; floats from 0, at distances 0 to K - 1 of
    |i - j|, in any scale. Keys further away count nothing. A query whose visible keys all count nothing sees its
    own. Learned sinks are left out. Gradients reach the weights.
    Raises HookError for weights of another shape, or below 0.
    """

    weights: Float[Tensor, "*H K"]

    def __post_init__(self) -> None:
        given = self.weights
        if given.ndim not in (1, 2) or not given.numel() or not given.is_floating_point() or bool((given < 0).any()):
            raise HookError(f"weights {tuple(given.shape)} {given.dtype}; wanted [K] or [heads, K] floats from 0")

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """The weighted mean of the visible v, by strips of rows."""
        call = replace(part.call, sinks=None)
        wide = torch.promote_types(call.q.dtype, torch.float32)
        profile = self.weights.to(call.q.device, wide)
        heads = part.whole.q.shape[1]
        if profile.ndim == 2 and len(profile) != heads:
            raise HookError(f"layer {part.layer}: weights {tuple(profile.shape)}; wanted {heads} heads")
        profile = profile[part.heads] if profile.ndim == 2 else profile[None]
        profile = torch.nn.functional.pad(profile, (0, 1))
        columns = torch.arange(call.k.shape[2], device=call.q.device)

        def weights(rows: Int[Tensor, "rows"]) -> Tensor:
            distance = (rows[:, None] + call.offset - columns).abs().clamp(max=profile.shape[1] - 1)
            counts = profile[:, distance][None]
            left = left_keys(call, rows, counts > 0)
            # A row left with none has its own key, whatever that one counts.
            counts = torch.where(left & (counts == 0), 1.0, counts * left)
            return counts / counts.sum(-1, keepdim=True).clamp(min=torch.finfo(wide).tiny)

        return z_by_strips(call, weights)


@dataclass(frozen=True)
class SelfOnly:
    """Every query sees its own token only: z_i = v_i."""

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """The values of the queries' own tokens."""
        return part.own_values()


@dataclass(frozen=True, eq=False)
class Identity:
    """Softly towards attention to self: z' = (1 - u) z + u v_i (METRICS, Identities).

    u: a number, or a tensor of one where its gradient is wanted.
    """

    u: float | Float[Tensor, ""]

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """Between z and the values of the queries' own tokens."""
        return (1 - self.u) * part.z + self.u * part.own_values()


@dataclass(frozen=True, eq=False)
class FrozenPattern:
    """Where the head looked in another run, at the values of this one: the path through q and k is cut.

    q: [b or 1, H, T, D] and k: [b or 1, H or G, S, D] of that run, as an attention call has them (after rotary
    embedding), of all the layer's heads, in the model's dtype; of as many tokens as the call's. Mask, scale,
    soft cap and learned sinks are this call's. The pattern is never stored.
    """

    q: Float[Tensor, "#b H T D"]
    k: Float[Tensor, "#b G S D"]

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """Attention of the frozen q and k over live v. Raises HookError where they do not fit."""
        q = _like(part, part.pick(self.q, "q"), part.call.q, "q")
        k = _like(part, part.pick(self.k, "k", grouped=True), part.call.k, "k")
        return replace(part.call, q=q, k=k).attend()


@dataclass(frozen=True, eq=False)
class FrozenValues:
    """What the head read in another run, looked at as in this one: the path through v is cut.

    v: [b or 1, H or G, S, Dv] of that run, of all the layer's heads, in the model's dtype, as many as the call's.
    """

    v: Float[Tensor, "#b G S Dv"]

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """Attention of live q and k over the frozen v. Raises HookError where it does not fit."""
        v = _like(part, part.pick(self.v, "v", grouped=True), part.call.v, "v")
        return replace(part.call, v=v).attend()


def _like(part: Part, frozen: Tensor, live: Tensor, name: str) -> Tensor:
    if frozen.shape[2:] != live.shape[2:]:
        raise HookError(
            f"layer {part.layer}: frozen {name} of {frozen.shape[2]} tokens and width {frozen.shape[3]}; this call "
            f"has {live.shape[2]} and {live.shape[3]}"
        )
    return frozen.expand(live.shape)
