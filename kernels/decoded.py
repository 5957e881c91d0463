"""What a few queries do on many keys: the statistics of decoding, and how they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.inputs import Attention, Request
from probe.kernels.validate import KernelError, validate


@dataclass(frozen=True)
class DecodeRequest:
    """What to count beside the output. sinks, window: as in `Request`. top: strongest keys a query and head."""

    sinks: int = 4
    window: int = 64
    top: int = 0


@dataclass(frozen=True)
class Decoded:
    """Output and statistics of every query; P is the weight after masking and softmax, keys are numbered as in k.

    z is in the dtype of q, statistics are float32 (float64 for float64 inputs). A query that sees no key has z
    exactly 0, `visible` 0, NaN statistics, and key −1 at weight 0; one with a NaN score has NaN throughout and key −1.

    lse: log Σ exp s, a learned sink included.      entropy: −Σ P log P over the real keys, nats.
    max_weight, argmax: largest P and its key, the lowest of equal ones.
    row_mass: Σ P over the real keys (below 1 beside a learned sink).
    distance: Σ P (i − j), tokens.                  visible: number of keys the query may see.
    sink_mass, local_mass: P on j < sinks, and on i − j < window without the sinks, j from the first valid key.
    top_weight, top_key: the strongest keys by falling score, equal ones by rising key; weight 0 at key −1 beyond
        the visible ones. Scores are equal when they are as computed, in float32.
    distance, sink_mass and local_mass need an order: NaN where the call is not causal.
    """

    z: Float[Tensor, "B H T Dv"]
    lse: Float[Tensor, "B H T"]
    entropy: Float[Tensor, "B H T"]
    max_weight: Float[Tensor, "B H T"]
    argmax: Int[Tensor, "B H T"]
    row_mass: Float[Tensor, "B H T"]
    distance: Float[Tensor, "B H T"]
    sink_mass: Float[Tensor, "B H T"]
    local_mass: Float[Tensor, "B H T"]
    visible: Int[Tensor, "B H T"]
    top_weight: Float[Tensor, "B H T top"]
    top_key: Int[Tensor, "B H T top"]


def validate_decode(call: Attention, request: DecodeRequest) -> None:
    """The check of a call and what is asked of it, before any backend. Raises KernelError."""
    validate(call, Request(sinks=request.sinks, window=request.window))
    if request.top < 0:
        raise KernelError(f"top is {request.top}; wanted a number of keys, 0 or more")
    if call.score.sigmoid:
        raise KernelError("sigmoid attention has no log-sum-exp to merge; take attention_statistics for its gates")
