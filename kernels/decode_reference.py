"""The definition of the decoding statistics: dense, float64, one formula a line."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels import reference
from probe.kernels.decoded import Decoded, DecodeRequest
from probe.kernels.inputs import Attention, Request


def decode_reference(call: Attention, request: DecodeRequest) -> Decoded:
    """Every field of `Decoded` in float64 (z too), from the whole [T, S] pattern: for short inputs and for tests."""
    z, statistics = reference.statistics(call, Request(sinks=request.sinks, window=request.window, bands=0))
    P, seen = reference.pattern(call), reference.visibility(call)
    scores = reference.scores(call).masked_fill(~seen, -torch.inf)
    weight, key = _ranked(scores, P, request.top)
    undefined = statistics.lse.isnan()
    return Decoded(
        z=z,
        lse=statistics.lse,
        entropy=statistics.entropy,
        max_weight=statistics.max_weight,
        argmax=_ranked(scores, P, 1)[1][..., 0].masked_fill(undefined, -1),
        row_mass=statistics.row_mass,
        distance=statistics.distance,
        sink_mass=statistics.sink_mass,
        local_mass=statistics.local_mass,
        visible=statistics.visible,
        top_weight=weight,
        top_key=key.masked_fill(undefined[..., None], -1),
    )


def _ranked(
    scores: Float[Tensor, "B H T S"], P: Float[Tensor, "B H T S"], top: int
) -> tuple[Float[Tensor, "B H T top"], Int[Tensor, "B H T top"]]:
    """Weights and keys by falling score, equal ones in their order (a stable sort); weight 0, key −1 past the end."""
    short = max(0, top - scores.shape[-1])
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :top]
    weight, hidden = P.gather(-1, order), scores.gather(-1, order) == -torch.inf
    key = order.masked_fill(hidden, -1)
    return torch.nn.functional.pad(weight, (0, short)), torch.nn.functional.pad(key, (0, short), value=-1)
