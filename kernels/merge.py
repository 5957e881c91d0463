"""Attention over disjoint sets of keys, joined exactly; and the identities that need nothing but such parts.

A part is normalised within itself and carries its log-sum-exp, so that joining is a weighted mean: any grouping of
the parts gives the same answer. A learned sink is a part of its own, with no value and no entropy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.validate import KernelError


@dataclass(frozen=True)
class Part:
    """What some rows do on some of their keys. Scores s; P is the softmax over the part's own keys.

    lse: log Σ exp s, −inf for a part without a key. mass: Σ P over its real keys: 1; 0 for a learned sink or no key.
    output: Σ P v. entropy: −Σ P log P over the real keys. peak: max s over the real keys, −inf without one.
    argmax: the lowest key of that score, −1 without one.
    means: whatever else is linear in P (a distance, the mass of a class or label), by name; 0 without a key.
    """

    lse: Float[Tensor, "*rows"]
    mass: Float[Tensor, "*rows"]
    output: Float[Tensor, "*rows Dv"]
    entropy: Float[Tensor, "*rows"]
    peak: Float[Tensor, "*rows"]
    argmax: Int[Tensor, "*rows"]
    means: dict[str, Float[Tensor, "*rows"]] = field(default_factory=dict)

    @property
    def max_weight(self) -> Float[Tensor, "*rows"]:
        """max P over the real keys; 0 without one."""
        return _shares(self.peak, self.lse)


def learned_sink(logit: Float[Tensor, "*rows"], like: Part) -> Part:
    """The part of a learned sink logit: always visible, v = 0, counted in the normaliser and nowhere else."""
    zero = torch.zeros_like(like.lse)
    return Part(
        lse=logit.to(zero).expand_as(zero),
        mass=zero,
        output=torch.zeros_like(like.output),
        entropy=zero,
        peak=torch.full_like(zero, -torch.inf),
        argmax=torch.full_like(like.argmax, -1),
        means=dict.fromkeys(like.means, zero),
    )


def merge(*parts: Part) -> Part:
    """One part over all the keys of several disjoint ones. Raises KernelError where their `means` differ in names."""
    names = [sorted(part.means) for part in parts]
    if not parts or any(name != names[0] for name in names):
        raise KernelError(f"parts carry the means {names}; wanted at least one part, and the same names in all")

    def stacked(pick: str) -> Tensor:
        return torch.stack([getattr(part, pick) for part in parts])

    return merge_stack(
        Part(
            **{pick: stacked(pick) for pick in ("lse", "mass", "output", "entropy", "peak", "argmax")},
            means={name: torch.stack([part.means[name] for part in parts]) for name in names[0]},
        )
    )


def merge_stack(parts: Part) -> Part:
    """The same for parts stacked along the first axis of every field.

    P = w p with w = exp(lse_part − lse) for the keys of a part, so −Σ P log P = Σ_parts w (H_part + mass (lse −
    lse_part)), and everything linear in P is a mean weighted by w. Equal peaks go to the lowest key.
    A NaN in any part's lse makes the whole NaN.
    """
    lse = parts.lse.logsumexp(0)
    share = _shares(parts.lse, lse)
    gap = torch.where(parts.lse == -torch.inf, 0, lse - parts.lse)
    peak = parts.peak.amax(0)
    limit = torch.iinfo(parts.argmax.dtype).max
    first = parts.argmax.masked_fill((parts.peak != peak) | (parts.argmax < 0), limit).amin(0)
    return Part(
        lse=lse,
        mass=(share * parts.mass).sum(0),
        output=(share[..., None] * parts.output).sum(0),
        entropy=(share * (parts.entropy + parts.mass * gap)).sum(0),
        peak=peak,
        argmax=first.masked_fill(first == limit, -1),
        means={name: (share * value).sum(0) for name, value in parts.means.items()},
    )


def strongest(
    score: Float[Tensor, "*rows n"], key: Int[Tensor, "*rows n"], count: int
) -> tuple[Float[Tensor, "*rows count"], Int[Tensor, "*rows count"]]:
    """The `count` largest scores with their keys, falling; equal scores by rising key.

    Candidates at key −1 are none; where fewer are left than `count`, the rest is −inf at key −1.
    """
    score = torch.where(key < 0, -torch.inf, score)
    short = count - score.shape[-1]
    if short > 0:
        score = torch.nn.functional.pad(score, (0, short), value=-torch.inf)
        key = torch.nn.functional.pad(key, (0, short), value=-1)
    order = key.argsort(dim=-1, stable=True)
    falling = score.gather(-1, order).argsort(dim=-1, descending=True, stable=True)
    order = order.gather(-1, falling)[..., :count]
    return score.gather(-1, order), key.gather(-1, order)


def _shares(lse: Tensor, total: Tensor) -> Tensor:
    """exp(lse − total), 0 where there is nothing on either side (−inf − −inf is NaN)."""
    return torch.where(lse == -torch.inf, 0, torch.exp(lse - total))


def streaming_gap(kept: Part, dropped: Part) -> Float[Tensor, "*rows Dv"]:
    """z − z^keep = (1 − m)(z^drop − z^keep), m the mass kept: METRICS' first identity.

    A learned sink belongs to `kept` (merge it there). Exactly 0 where nothing is dropped, NaN where nothing is kept.
    """
    share = torch.sigmoid(dropped.lse - kept.lse)[..., None]
    gap = share * (dropped.output - kept.output)
    gap = torch.where((dropped.lse == -torch.inf)[..., None], 0, gap)
    return torch.where((kept.lse == -torch.inf)[..., None], torch.nan, gap)


def without_key(
    z: Float[Tensor, "*rows Dv"], weight: Float[Tensor, "*rows"], value: Float[Tensor, "*#rows Dv"]
) -> Float[Tensor, "*rows Dv"]:
    """z' = (z − P_s v_s) / (1 − P_s): key s taken away and the rest renormalised. NaN where s was the only key."""
    left = 1 - weight
    return torch.where((left > 0)[..., None], (z - weight[..., None] * value) / left[..., None], torch.nan)


def scaled_keys(
    chosen: Float[Tensor, "*rows Dv"], rest: Float[Tensor, "*rows Dv"], mass: Float[Tensor, "*rows"], share: float
) -> Float[Tensor, "*rows Dv"]:
    """z' = β a_S + a_R (1 + (1 − β) m_S / (1 − m_S)): a key set at a share β of its weight, the others given the rest.

    chosen, rest: Σ P v over the set and over the others, not renormalised; mass: m_S. share 0 removes the set; 1
    changes nothing, also where there are no others (else NaN there: nobody can be given the rest).
    """
    given = torch.zeros_like(mass) if share == 1 else (1 - share) * mass / (1 - mass)
    given = torch.where((mass == 1) & (share != 1), torch.nan, given)
    return share * chosen + rest * (1 + given)[..., None]


def softened(z: Float[Tensor, "*rows Dv"], own: Float[Tensor, "*rows Dv"], amount: float) -> Float[Tensor, "*rows Dv"]:
    """z' = (1 − u) z + u v_i: attention moved softly to the identity, `own` being the query's own value."""
    return (1 - amount) * z + amount * own


def influence(gradient: Float[Tensor, "*rows Dv"], gap: Float[Tensor, "*rows Dv"]) -> Float[Tensor, "*rows"]:
    """⟨∂metric/∂z, z − z~⟩ with gap = z − z~ (`streaming_gap`, or z minus any of the above), before summing over rows.

    To first order clean minus ablated: positive where what is replaced helps the metric.
    """
    return (gradient * gap).sum(-1)
