"""What one attention call did: the statistics every backend returns, row by row and key by key."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Statistics of one `Attention` call, on the device of its inputs. P is the weight after masking and softmax.

    Row statistics are float32, NaN where the query sees no key (padding, a mask that hides everything) or where
    the statistic is not defined for the call (an order for a bidirectional head, entropy for a sigmoid one).

    lse: log Σ_j exp(s_ij), a learned sink included.     entropy: −Σ_j P log P over the real keys, nats.
    max_weight: max_j P.                                 distance: Σ_j P (i − j), tokens.
    first, previous, current: P on the first key, on key i − 1, on key i (0 where that key is out of sight).
    local: Σ P over 0 <= i − j < window.                 row_mass: Σ_j P (below 1 beside a learned sink).
    sink_mass, local_mass: P on the classes sink (j < sinks) and local (i − j < window, sinks left out).
    sink_part, local_part: Σ P v over the same classes; the rest is z minus both.
    lookup: name -> Σ P over the keys that carry the query's label.
    visible: number of keys the query may see.
    received: Σ_i P[i, k], float64.                      received_rows: number of queries that may see key k.
    by_distance: Σ over queries at positions >= 1 of P at distance d, float64, index d.
    thumbnail: [.., a, b] mean over the queries of band a of the mass on the keys of band b; band(i) =
        ⌊bands · i / T⌋; NaN for a band that no query hits. None when not asked for, or when the
        queries are not the keys (T != S, an offset).

    Only where the request says so (else NaN, which takes no memory, for parts and by_distance, and None for these):
    argmax: arg-max_j P, the place of a key on its axis, lowest of equal ones; −1 where the query sees no key. P as
        float32 has it: keys closer than its rounding may stand for one another.
    received_max: max_i P[i, k], NaN where no query sees key k.      received_value: received · ‖v_k‖, float64.
    received_counts: number of queries with P[i, k] above each threshold.
    streaming: where no parts are kept, Σ_i ‖z_i − z_i^keep‖² and Σ_i ‖z_i‖², float64; keep: sinks and window,
        renormalised, a learned sink kept with v = 0. The first is NaN without an order or for sigmoid gates.
    effects: Σ_i ⟨z_i − z~_i, direction_i⟩ over queries that see a key, float64: the first-order effect of putting z~
        for z, positive where the head helps. z~ by name: zero (0), mean (the request's), sink_removed (the class sink
        removed and the rest renormalised; a query that sees nothing else keeps its z), streaming (z^keep). The last
        two are NaN without an order or for sigmoid gates, mean where none was given.
    """

    lse: Float[Tensor, "B H T"]
    entropy: Float[Tensor, "B H T"]
    max_weight: Float[Tensor, "B H T"]
    distance: Float[Tensor, "B H T"]
    first: Float[Tensor, "B H T"]
    previous: Float[Tensor, "B H T"]
    current: Float[Tensor, "B H T"]
    local: Float[Tensor, "B H T"]
    row_mass: Float[Tensor, "B H T"]
    sink_mass: Float[Tensor, "B H T"]
    local_mass: Float[Tensor, "B H T"]
    sink_part: Float[Tensor, "B H T Dv"]
    local_part: Float[Tensor, "B H T Dv"]
    lookup: dict[str, Float[Tensor, "B H T"]]
    visible: Int[Tensor, "B H T"]
    received: Float[Tensor, "B H S"]
    received_rows: Int[Tensor, "B H S"]
    by_distance: Float[Tensor, "B H S"]
    thumbnail: Float[Tensor, "B H bands bands"] | None
    argmax: Int[Tensor, "B H T"] | None = None
    received_max: Float[Tensor, "B H S"] | None = None
    received_value: Float[Tensor, "B H S"] | None = None
    received_counts: Int[Tensor, "B H thresholds S"] | None = None
    streaming: Float[Tensor, "B H 2"] | None = None
    effects: dict[str, Float[Tensor, "B H"]] | None = None


EFFECTS = ("zero", "mean", "sink_removed", "streaming")
"""Names of `Statistics.effects`."""
