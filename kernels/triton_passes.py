"""What the GPU passes are asked for, and what they hand back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.inputs import Lookup

PARTIALS = ("dropped", "norm", "zero", "mean", "sink_removed", "streaming")
"""Head-level sums over rows: Σ‖z − z_keep‖², Σ‖z‖², and Σ ⟨z − z~, g⟩ for the four z~."""


@dataclass(frozen=True)
class RowsWanted:
    """What pass 1 writes beside z.

    fields: of `ROW_FIELDS`. sinks, window: the kept keys of a streaming head; classes False: keys are not told apart
    (bidirectional calls have no classes). partials: the head-level sums. direction: g of the effects [B, H, T, Dv];
    mean: what replaces z in the effect against a mean, [B | 1, H, T | 1, Dv].
    """

    fields: tuple[str, ...] = ("lse",)
    classes: bool = True
    sinks: int = 4
    window: int = 64
    argmax: bool = False
    parts: bool = False
    partials: bool = False
    lookups: Sequence[Lookup] = ()
    direction: Float[Tensor, "B H T Dv"] | None = None
    mean: Float[Tensor, "#B H #T Dv"] | None = None


@dataclass(frozen=True)
class RowsMade:
    """Pass 1: z in the dtype of q; row statistics by name, NaN in rows that see no key; partial sums by block.

    argmax: [B, H, T] int32, −1 in rows that see no key. parts: [2, B, H, T, Dv], sinks and local, unnormalised parts
    of z. lookup: [lookups, B, H, T]. sums: [6, B, H] float64 in the order of `PARTIALS`, NaN where not computed.
    """

    z: Float[Tensor, "B H T Dv"]
    fields: dict[str, Float[Tensor, "B H T"]]
    argmax: Int[Tensor, "B H T"] | None
    parts: Float[Tensor, "2 B H T Dv"] | None
    lookup: Float[Tensor, "lookups B H T"] | None
    sums: Float[Tensor, "6 B H"] | None


@dataclass(frozen=True)
class ColumnsWanted:
    """What pass 2 writes: Σ over rows of P, its maximum, the sum times ‖v‖, counts above thresholds, a thumbnail."""

    received: bool = True
    peak: bool = False
    value: bool = False
    thresholds: tuple[float, ...] = ()
    bands: int = 0


@dataclass(frozen=True)
class ColumnsMade:
    """Pass 2, float32. thumbnail: sums of P over (row band, key band), float64, not yet divided by the rows."""

    received: Float[Tensor, "B H S"] | None
    peak: Float[Tensor, "B H S"] | None
    value: Float[Tensor, "B H S"] | None
    counts: Int[Tensor, "thresholds B H S"] | None
    thumbnail: Float[Tensor, "B H bands bands"] | None
