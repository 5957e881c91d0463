"""First-order effects of putting another output for z, summed strip by strip from the parts of z alone.

Each z~ is a combination of three parts (sinks, window, rest), so ⟨z − z~, g⟩ needs their products with g and their
masses; no z~ is ever written. Nothing is a difference of nearly equal numbers divided by a small one: the part beside
the sinks is multiplied out anew, as 1 − (mass on the sinks) has no digits left where they hold all of it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.statistics import EFFECTS
from probe.kernels.strips import Strip


def strip_effects(
    part: Strip,
    inverse: Float[Tensor, "r rows"],
    v: Float[Tensor, "S Dv"],
    local_part: Float[Tensor, "r rows Dv"],
    local_mass: Float[Tensor, "r rows"],
    near: int,
    direction: Float[Tensor, "r rows Dv"],
    mean: Float[Tensor, "r rows Dv"] | None,
) -> Float[Tensor, "4 r"]:
    """Σ over the rows of a strip of ⟨z − z~, direction⟩, float64, in the order of `EFFECTS`; NaN where not defined.

    near: how many of the strip's first keys are sinks. local_part, local_mass: normalised, sinks left out. Rows that
    see no key have weights of 0 and count 0; for a mean they must be told apart by their mass.
    """
    weights, low, high = part.weights, part.low, part.high
    out = torch.full((len(EFFECTS), weights.shape[0]), torch.nan, dtype=torch.float64, device=weights.device)
    along = _along(part.output, direction) * inverse
    out[0] = along.double().sum(-1)
    if mean is not None:
        seen = part.mass > 0
        out[1] = torch.where(seen, along - _along(mean, direction), 0).double().sum(-1)
    if not part.sequence.causal or part.sequence.score.sigmoid:
        return out
    sinks = weights[..., :near] @ v[low : low + near] * inverse[..., None]
    others = weights[..., near:] @ v[low + near : high] * inverse[..., None]
    sink_mass, other_mass = weights[..., :near].sum(-1) * inverse, weights[..., near:].sum(-1) * inverse
    learned = (part.total - part.mass) * inverse
    along_sink, along_other = _along(sinks, direction), _along(others, direction)
    along_local = _along(local_part, direction)
    left = other_mass + learned
    moved = torch.where(left > 0, along_other * sink_mass / left, along_sink)
    out[2] = (along_sink - moved).double().sum(-1)
    keep = sink_mass + local_mass + learned
    rest = along_other - along_local
    lost = torch.where(keep > 0, rest - (along_sink + along_local) * (other_mass - local_mass) / keep, 0)
    out[3] = lost.double().sum(-1)
    return out


def _along(vectors: Tensor, direction: Tensor) -> Tensor:
    return (vectors * direction).sum(-1)
