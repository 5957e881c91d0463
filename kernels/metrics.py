"""From the statistics of one call to one number a sequence and head: the columns of a head table.

Queries are averaged within a sequence; every mean leaves out the rows that do not count, and a mean over no row is
NaN. The formulas are METRICS'; `reference_metrics` states each of them densely.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.kernels.statistics import Statistics

SINK_RATE_THRESHOLD = 0.3
"""ε of the sink rate: Gu et al. 2024 (arXiv 2410.10781), section 3."""

MIN_ROWS = 32
"""Keys seen by fewer queries have a received mean of mostly their own weight; `sink_other` leaves them out."""


def head_metrics(
    statistics: Statistics,
    z: Float[Tensor, "B H T Dv"],
    position: Int[Tensor, "B T"],
    *,
    sink_rate_threshold: float = SINK_RATE_THRESHOLD,
    learned_sink: bool = False,
    ordered: bool = True,
) -> dict[str, Float[Tensor, "B H"]]:
    """Every column of METRICS that one attention call decides, float64, NaN where not defined.

    position: place of each query among its sequence's own tokens, −1 for padding. ordered: whether the call is
    causal; means over i >= 1 are over all valid queries where it is not. The request's lookups are
    averaged elsewhere, as which queries count depends on the tokens. The sink columns assume that the sequence's
    first key is the call's first valid key.
    """
    s, later = statistics, (position >= (1 if ordered else 0))[:, None]
    seen = s.visible > 0
    alpha = received_mean(s)
    first_key = (s.received_rows > 0).int().argmax(-1, keepdim=True)
    alpha_first = alpha.gather(-1, first_key)[..., 0]
    other = alpha.masked_fill(s.received_rows < MIN_ROWS, torch.nan).scatter(-1, first_key, torch.nan)
    keep_mass, error = streaming(s, z, learned_sink)
    normal = s.entropy / s.visible.double().log()
    metrics = {
        "sink_first": mean_rows(s.first, later & seen & sees_first(s, position)),
        "sink_rate": (alpha_first > sink_rate_threshold).double().masked_fill(alpha_first.isnan(), torch.nan),
        "sink_other": nanmax(other),
        "sink_learned": mean_rows(1 - s.row_mass.double(), seen)
        if learned_sink
        else torch.full_like(alpha_first, torch.nan),
        "previous_token": mean_rows(s.previous, later & seen),
        "current_token": mean_rows(s.current, later & seen),
        "entropy": mean_rows(s.entropy, later & seen),
        "entropy_normalised": mean_rows(normal, s.visible >= 2),
        "max_weight": mean_rows(s.max_weight, later & seen),
        "distance": mean_rows(s.distance, later & seen),
        "local_mass": mean_rows(s.local, later & seen),
        "streaming_mass": mean_rows(keep_mass, seen),
        "streaming_error": error,
    }
    return metrics


def sees_first(statistics: Statistics, position: Int[Tensor, "B T"]) -> Bool[Tensor, "B H T"]:
    """Queries that may see the first key: a window hides it from all but the first ones, so they are a prefix."""
    counts = statistics.received_rows
    first_key = (counts > 0).int().argmax(-1, keepdim=True)
    return (position[:, None] < counts.gather(-1, first_key)) & (position >= 0)[:, None]


def received_mean(statistics: Statistics) -> Float[Tensor, "B H S"]:
    """α_k = Σ_i P[i, k] / #{i that may see k}; NaN for a key that nobody may see."""
    return statistics.received / statistics.received_rows.double()


def streaming(
    statistics: Statistics, z: Float[Tensor, "B H T Dv"], learned_sink: bool
) -> tuple[Float[Tensor, "B H T"], Float[Tensor, "B H"]]:
    """Mass on the kept keys, and Σ_i ‖z_i − z_i^keep‖² / Σ_i ‖z_i‖² (keep: sinks and window, renormalised).

    A learned sink is kept, with v = 0. The error is NaN where Σ‖z‖² is 0, and for sigmoid gates.
    """
    s = statistics
    mass = s.sink_mass + s.local_mass
    if learned_sink:
        mass = mass + (1 - s.row_mass)
    if s.streaming is not None:
        dropped, norm = s.streaming.unbind(-1)
    else:
        dropped, norm = streaming_sums(s, z, learned_sink)
    return mass, dropped / norm


def streaming_sums(
    statistics: Statistics, z: Float[Tensor, "B H T Dv"], learned_sink: bool
) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
    """Σ_i ‖z_i − z_i^keep‖² and Σ_i ‖z_i‖² from the partial outputs, float64; the first is NaN where it has no meaning
    (sigmoid gates, no order)."""
    s, seen = statistics, statistics.visible > 0
    mass = s.sink_mass + s.local_mass
    if learned_sink:
        mass = mass + (1 - s.row_mass)
    kept = (s.sink_part + s.local_part) / mass[..., None]
    dropped = (z.to(kept.dtype) - kept).double().square().sum(-1)
    norm = z.double().square().sum(-1)
    defined = ~(mass.isnan() | s.lse.isnan()) | ~seen  # sigmoid gates have no lse: nothing to renormalise
    lost = torch.where(seen, dropped, 0).sum(-1).masked_fill(~defined.all(-1), torch.nan)
    return lost, torch.where(seen, norm, 0).sum(-1)


def mean_rows(value: Float[Tensor, "B H T"], rows: Bool[Tensor, "#B #H T"]) -> Float[Tensor, "B H"]:
    """Mean over the chosen queries, in float64; NaN over none."""
    rows = rows.expand_as(value)
    return torch.where(rows, value.double(), 0).sum(-1) / rows.sum(-1)


def nanmax(value: Float[Tensor, "B H S"]) -> Float[Tensor, "B H"]:
    """Maximum that leaves NaN out; NaN where all are."""
    best = value.nan_to_num(nan=-torch.inf).amax(-1)
    return best.masked_fill(best.isinf(), torch.nan)


def offset_edges(n: int) -> list[int]:
    """Edges of the bins of the distances 0 … n − 1: bin 0 is distance 0, bin b >= 1 is 2^(b−1) … 2^b − 1."""
    return [0, *(2**power for power in range(max(n - 1, 0).bit_length())), n]


def offset_mass(statistics: Statistics, position: Int[Tensor, "B T"]) -> Float[Tensor, "B H bins"]:
    """Mean over queries at positions >= 1 of the mass by distance, in powers of two; B = 2 + ⌊log2(T − 1)⌋ bins."""
    total = statistics.by_distance
    rows = ((position >= 1)[:, None] & (statistics.visible > 0)).sum(-1)
    # Runs of neighbours, added up as such: scattered adds come in no fixed order on a GPU.
    edges = offset_edges(total.shape[-1])
    bins = [total[..., low:high].sum(-1) for low, high in pairwise(edges)]
    return torch.stack(bins, -1) / rows[..., None]
