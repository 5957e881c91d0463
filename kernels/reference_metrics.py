"""METRICS' scan columns as dense float64 formulas of one head on one sequence: one short function a column.

Written from the definitions alone, without the kernels, so that each can be read beside its formula and used as
the oracle of `metrics`. Everything here builds [T, T]; it is for short inputs and for tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NAN = math.nan


@dataclass(frozen=True)
class Head:
    """One head on one sequence without padding, dense.

    P: weights of the real keys after masking and softmax. seen: who may see whom. v: the head's values.
    tokens: ids. write: the head's slice of the output projection (output columns only).
    ordered: positions have an order (a causal head). learned_sink: a sink logit takes what P leaves of 1.
    sinks, window: what a streaming head keeps. epsilon: threshold of the sink rate. min_rows: rows that must see
    a later sink.
    """

    P: Float[Tensor, "T T"]
    seen: Bool[Tensor, "T T"]
    v: Float[Tensor, "T Dv"]
    tokens: Int[Tensor, "T"]
    write: Float[Tensor, "Dv d_model"] | None = None
    ordered: bool = True
    learned_sink: bool = False
    sinks: int = 4
    window: int = 64
    epsilon: float = 0.3
    min_rows: int = 32

    @property
    def T(self) -> int:
        """Tokens of the sequence."""
        return len(self.tokens)

    @property
    def distance(self) -> Int[Tensor, "T T"]:
        """i − j."""
        i = torch.arange(self.T)
        return i[:, None] - i[None, :]

    @property
    def later(self) -> Bool[Tensor, "T"]:
        """Queries that means are over: i >= 1 that see a key; every such query of a bidirectional head."""
        return self.seen.any(1) & ((torch.arange(self.T) >= 1) | (not self.ordered))

    def uniform(self) -> Head:
        """The head whose weight is shared equally among the visible keys: the chance level."""
        seen = self.seen.double()
        return replace(self, P=seen / seen.sum(1, keepdim=True).clamp(min=1), learned_sink=False)


def mean(value: Float[Tensor, "T"], rows: Bool[Tensor, "T"]) -> float:
    """Mean over the chosen rows; NaN over none."""
    return float(value.double()[rows].mean()) if bool(rows.any()) else NAN


def mass(head: Head, keys: Bool[Tensor, "T T"]) -> Float[Tensor, "T"]:
    """Σ_j P[i, j] over the chosen keys of each query."""
    return (head.P.double() * keys).sum(1)


def alpha(head: Head) -> Float[Tensor, "T"]:
    """α_k = Σ_i P[i, k] / #{i that may see k}: Gu et al. 2024 (arXiv 2410.10781), section 3."""
    return head.P.double().sum(0) / head.seen.sum(0)


def sink_first(head: Head) -> float:
    """Mean over i >= 1 that may see key 0 of P[i, 0]."""
    return mean(head.P[:, 0], head.later & head.seen[:, 0])


def sink_rate(head: Head) -> float:
    """1 where α_0 > ε (strictly), else 0; its mean over sequences is the rate (Gu et al. 2024, section 3)."""
    received = float(alpha(head)[0])
    return NAN if math.isnan(received) else float(received > head.epsilon)


def sink_other(head: Head) -> float:
    """Largest α_k over the keys k >= 1 that at least `min_rows` queries may see."""
    strong = [float(alpha(head)[k]) for k in range(1, head.T) if int(head.seen[:, k].sum()) >= head.min_rows]
    return max(strong, default=NAN)


def sink_learned(head: Head) -> float:
    """Mean over queries of the weight of the learned sink logit."""
    return mean(1 - head.P.double().sum(1), head.seen.any(1)) if head.learned_sink else NAN


def previous_token(head: Head) -> float:
    """Mean over i >= 1 of P[i, i − 1]."""
    return mean(mass(head, head.distance == 1), head.later) if head.ordered else NAN


def current_token(head: Head) -> float:
    """Mean over i >= 1 of P[i, i]."""
    return mean(mass(head, head.distance == 0), head.later) if head.ordered else NAN


def _copies(head: Head) -> Bool[Tensor, "T T"]:
    """j < i with t_j = t_i."""
    return (head.tokens[:, None] == head.tokens[None, :]) & (head.distance > 0)


def _successors(head: Head) -> Bool[Tensor, "T T"]:
    """1 <= j <= i with t_{j−1} = t_i."""
    keys = torch.zeros(head.T, head.T, dtype=torch.bool)
    keys[:, 1:] = head.tokens[:, None] == head.tokens[None, :-1]
    return keys & (head.distance >= 0)


def duplicate_token(head: Head) -> float:
    """Mean over queries with an earlier copy of their token of the mass on all such copies."""
    keys = _copies(head)
    return mean(mass(head, keys), keys.any(1) & head.seen.any(1)) if head.ordered else NAN


def induction(head: Head) -> float:
    """Mean over queries whose token came before of the mass on the tokens that followed it then."""
    keys = _successors(head)
    return mean(mass(head, keys), keys.any(1) & head.seen.any(1)) if head.ordered else NAN


def duplicate_token_chance(head: Head) -> float:
    """`duplicate_token` of uniform attention under the same mask."""
    return duplicate_token(head.uniform())


def induction_chance(head: Head) -> float:
    """`induction` of uniform attention under the same mask."""
    return induction(head.uniform())


def entropy_rows(head: Head) -> Float[Tensor, "T"]:
    """−Σ_j P log P over the real keys as they stand, nats; 0 log 0 is 0."""
    return -torch.xlogy(head.P.double(), head.P.double()).sum(1)


def entropy(head: Head) -> float:
    """Mean over i >= 1 of the entropy."""
    return mean(entropy_rows(head), head.later)


def entropy_normalised(head: Head) -> float:
    """Mean over queries with at least 2 visible keys of entropy / log(number of visible keys)."""
    keys = head.seen.sum(1)
    return mean(entropy_rows(head) / keys.double().log(), keys >= 2)


def max_weight(head: Head) -> float:
    """Mean over i >= 1 of max_j P[i, j]."""
    return mean(head.P.amax(1), head.later)


def distance(head: Head) -> float:
    """Mean over i >= 1 of Σ_j P[i, j] (i − j), in tokens."""
    return mean((head.P.double() * head.distance).sum(1), head.later) if head.ordered else NAN


def local_mass(head: Head) -> float:
    """Mean over i >= 1 of Σ P[i, j] over i − w < j <= i."""
    near = (head.distance >= 0) & (head.distance < head.window)
    return mean(mass(head, near), head.later) if head.ordered else NAN


def kept(head: Head) -> Bool[Tensor, "T T"]:
    """What a streaming head keeps: visible keys among the first s, and those with i − j < w (Xiao et al. 2023)."""
    first = (torch.arange(head.T) < head.sinks)[None, :]
    return head.seen & (first | (head.distance < head.window))


def _kept_mass(head: Head) -> Float[Tensor, "T"]:
    learned = 1 - head.P.double().sum(1) if head.learned_sink else 0
    return mass(head, kept(head)) + learned


def streaming_mass(head: Head) -> float:
    """Mean over all queries of the mass on `kept`, a learned sink included."""
    return mean(_kept_mass(head), head.seen.any(1)) if head.ordered else NAN


def streaming_error(head: Head) -> float:
    """Σ_i ‖z_i − z_i^keep‖² / Σ_i ‖z_i‖², z^keep renormalised over `kept`; a learned sink is kept with v = 0."""
    if not head.ordered:
        return NAN
    P, v, rows = head.P.double(), head.v.double(), head.seen.any(1)
    z, z_kept = P @ v, (P * kept(head)) @ v / _kept_mass(head)[:, None]
    size = float(z[rows].square().sum())
    return float((z - z_kept)[rows].square().sum()) / size if size > 0 else NAN


def write_norms(head: Head) -> Float[Tensor, "T"]:
    """‖o_i‖₂ = ‖z_i W_O‖₂ of every query."""
    if head.write is None:
        raise ValueError("write is None; output columns want the head's slice of the output projection")
    return (head.P.double() @ head.v.double() @ head.write.double()).square().sum(1).sqrt()


def output_norm(head: Head) -> float:
    """Mean over i >= 1 of ‖o_i‖₂."""
    return mean(write_norms(head), head.later)


def output_share(heads: Sequence[Head], index: int) -> float:
    """Σ_i ‖o_i‖ of one head over the sum of its layer's heads."""
    sums = [float(write_norms(head).sum()) for head in heads]
    return sums[index] / sum(sums) if sum(sums) > 0 else NAN


def offset_mass(head: Head) -> list[float]:
    """Mean over i >= 1 of the mass by distance: bin 0 is distance 0, bin b >= 1 is 2^(b−1) … 2^b − 1."""
    edges = [0, *(2**b for b in range(max(head.T - 1, 0).bit_length() + 1))]
    bins = [(head.distance >= low) & (head.distance < high) for low, high in pairwise(edges)]
    return [mean(mass(head, where), head.later) for where in bins]


def thumbnail(head: Head, bands: int) -> Float[Tensor, "bands bands"]:
    """Mean over the queries of band a of the mass on the keys of band b; band(i) = ⌊bands · i / T⌋."""
    band = bands * torch.arange(head.T) // head.T
    cells = torch.full((bands, bands), NAN, dtype=torch.float64)
    for a in sorted(set(band.tolist())):
        rows = head.P.double()[band == a].mean(0)
        cells[a] = torch.stack([rows[band == b].sum() for b in range(bands)])
    return cells


SCAN: dict[str, Callable[[Head], float]] = {
    formula.__name__: formula
    for formula in (
        sink_first, sink_rate, sink_other, sink_learned, previous_token, current_token, duplicate_token, induction,
        duplicate_token_chance, induction_chance, entropy, entropy_normalised, max_weight, distance, local_mass,
        streaming_mass, streaming_error,
    )
}  # fmt: skip
"""Every column that one head's weights, values and tokens decide; outputs and `_random` columns need more."""


def random_scores(head: Head, half: int) -> dict[str, float]:
    """The `_random` columns on [BOS] + R + R: rows of the second copy only, its first token left out for induction."""
    second = torch.arange(head.T) >= head.T - half
    after = torch.arange(head.T) > head.T - half
    return {
        "previous_token_random": mean(mass(head, head.distance == 1), second),
        "duplicate_token_random": mean(mass(head, _copies(head)), second),
        "induction_random": mean(mass(head, _successors(head)), after),
    }
