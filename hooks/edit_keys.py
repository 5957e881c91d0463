"""Rules that take single keys away from a head, or change how much they count: edges, and attention sinks.

They start from the call's own q, k and v: of two of them on one head and query, the last one stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .dense import pattern_rows
from .edit_strips import kept_rows, z_by_strips
from .errors import HookError
from .part import Part
from .positions import Positions, checked, marked


@dataclass(frozen=True, eq=False)
class KnockOut:
    """No attention from the named queries to the named keys; what is left is renormalised.

    queries, keys: positions in the sequence (see `positions`); queries None: all. Every named query loses every
    named key. A query left with no key sees its own. Other queries keep their z. A key that has not been read
    yet is not there to be taken.
    """

    queries: Positions | None
    keys: Positions

    def __post_init__(self) -> None:
        checked(self.keys, "keys")
        if self.queries is not None:
            checked(self.queries, "queries")

    @property
    def last_position(self) -> int:
        """The furthest position that is named."""
        named = [self.keys] if self.queries is None else [self.keys, self.queries]
        return max(int(checked(positions, "positions").max()) for positions in named)

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """z without these edges. Raises HookError for positions given for another number of rows."""
        call = part.call
        keys = ~_marked(part, self.keys, part.start - part.offset, call.k.shape[2])[:, None, None]
        if self.queries is None:
            return z_by_strips(call, lambda rows: kept_rows(call, rows, keys))
        asked = _marked(part, self.queries, part.start, part.shape[2])
        rows = asked.any(0).nonzero()[:, 0]
        if not len(rows):
            return part.z
        some = replace(call, q=call.q[:, :, rows])
        z = z_by_strips(some, lambda strip: kept_rows(call, rows[strip], keys))
        z = part.z.index_copy(2, rows, z)
        return torch.where(asked[:, None, :, None], z, part.z)


@dataclass(frozen=True, eq=False)
class SinkScale:
    """The weight on a row's first tokens times beta, and what that frees to the other keys in proportion.

    z' = beta a_S + a_R (1 + (1 - beta) m_S / (1 - m_S)) with a_S, a_R the parts of z that come from the sinks
    and from the rest, m_S the mass on the sinks (METRICS, Identities). Computed as beta a_S + (1 - beta m_S) z_R
    with z_R the rest renormalised, which keeps its precision where nearly all the mass is on the sinks. beta = 0
    knocks the sinks out; a query that sees nothing else sees its own token in their place. A learned sink is
    one of the others.

    beta: a number, or a tensor of one where its gradient is wanted. sinks: how many tokens, padding not counted.
    """

    beta: float | Float[Tensor, ""]
    sinks: int = 1

    def __post_init__(self) -> None:
        _check_sinks(self.sinks)

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """z with the sinks scaled, by strips of rows."""
        call = part.call
        sinks = part.first_tokens(self.sinks)[:, None, None]

        def weights(rows: Int[Tensor, "rows"]) -> Tensor:
            on_sinks = self.beta * (pattern_rows(call, rows) * sinks)
            return on_sinks + (1 - on_sinks.sum(-1, keepdim=True)) * kept_rows(call, rows, ~sinks)

        return z_by_strips(call, weights)


@dataclass(frozen=True)
class SinkValueZero:
    """What a head reads from a row's first tokens taken away, the weights as they are: z - a_S.

    sinks: how many tokens, padding not counted.
    """

    sinks: int = 1

    def __post_init__(self) -> None:
        _check_sinks(self.sinks)

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """Attention over values of which the sinks' are 0."""
        sinks = part.first_tokens(self.sinks)[:, None, :, None]
        return replace(part.call, v=part.call.v.masked_fill(sinks, 0)).attend()


def _check_sinks(count: int) -> None:
    if count < 1:
        raise HookError(f"{count} sinks; wanted 1 or more")


def _marked(part: Part, positions: Positions, first: int, count: int) -> Tensor:
    given = checked(positions, "positions").to(part.current.device)
    if len(given) not in (1, part.shape[0]):
        raise HookError(f"layer {part.layer}: positions for {len(given)} rows in an edit of {part.shape[0]}")
    return marked(given, first, count)
