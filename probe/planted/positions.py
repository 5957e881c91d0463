"""How a planted head reads distance: sums of cosines with one sharp peak, amplitudes by linear programming.

A head whose query and key hold only position scores S K(Δ), K(Δ) = Σ_i a_i cos(ω_i (Δ − shift)), where Δ is
the distance from query to key, a_i ≥ 0 and Σ a_i = 1. K(shift) = 1, and the gap to the best other distance
is what softmax turns into attention, so the amplitudes maximise that gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LOCAL_WINDOW = 16
"""Tokens that a planted local head sees: distances 0 … 15."""
_SLOW = 0.3


@dataclass(frozen=True)
class Kernels:
    """Amplitudes `[F]` (float64, each summing to 1) over `frequencies` `[F]` in radians a token."""

    frequencies: Float[Tensor, "F"]
    previous: Float[Tensor, "F"]
    current: Float[Tensor, "F"]
    local: Float[Tensor, "F"]


def kernels_for(frequencies: Float[Tensor, "F"], max_length: int) -> Kernels:
    """Amplitudes that separate distance 1, distance 0 and the last 16 tokens from every other distance.

    `frequencies` `[F]` float64, radians a token; `max_length` in tokens bounds the distances looked at.
    """
    distances = torch.arange(max_length, dtype=torch.float64)
    # Fast cosines would put the whole weight on the token itself; slow ones spread it over the window.
    slow = frequencies < _SLOW
    local = torch.zeros_like(frequencies)
    beyond = torch.arange(LOCAL_WINDOW, max(max_length, 4 * LOCAL_WINDOW), dtype=torch.float64)
    local[slow] = _sharpest(frequencies[slow], beyond)
    return Kernels(
        frequencies,
        previous=_sharpest(frequencies, distances[distances != 1] - 1),
        current=_sharpest(frequencies, distances[distances != 0]),
        local=local,
    )


def _sharpest(frequencies: Float[Tensor, "F"], others: Float[Tensor, "N"]) -> Float[Tensor, "F"]:
    """Amplitudes a ≥ 0, Σ a = 1, that maximise min over `others` of Σ a_i (1 − cos ω_i Δ)."""
    return max_min_mixture(1 - torch.cos(others[:, None] * frequencies))


def max_min_mixture(payoff: Float[Tensor, "N F"], tolerance: float = 1e-3) -> Float[Tensor, "F"]:
    """The mixture a (a ≥ 0, Σ a = 1) that maximises min over rows of `payoff @ a`, to within `tolerance`.

    A linear program solved over a few rows at a time: the rows that the last answer serves worst are added
    until none of the others falls short. `payoff` `[N, F]` float64.
    """
    n = payoff.shape[0]
    active = torch.zeros(n, dtype=torch.bool)
    active[:64] = True
    active[:: max(1, n // 64)] = True
    while True:
        mixture = _barrier(payoff[active], tolerance / 4)
        reached = payoff @ mixture
        short = (reached < reached[active].min() - tolerance / 2) & ~active
        if not bool(short.any()):
            return mixture
        worst = torch.where(short, reached, torch.inf).argsort()[: min(64, int(short.sum()))]
        active[worst] = True


def _barrier(payoff: Float[Tensor, "N F"], tolerance: float) -> Float[Tensor, "F"]:
    """`max_min_mixture` on few rows, by a log-barrier interior-point method.

    Boyd & Vandenberghe, Convex Optimization, 11.3: the barrier of weight 1/t is (N + F)/t away from the
    optimum.
    """
    n, f = payoff.shape
    mixture = torch.full((f,), 1 / f, dtype=torch.float64)
    point = torch.cat([mixture, (payoff @ mixture).min()[None] - 0.1])
    rows = torch.cat([payoff, -torch.ones(n, 1, dtype=torch.float64)], 1)
    rows = torch.cat([rows, torch.eye(f, f + 1, dtype=torch.float64)])
    sharpness = 1.0
    while sharpness < (n + f) / tolerance:
        sharpness *= 10
        point = _centre(rows, point, sharpness)
    return point[:-1] / point[:-1].sum()


def _centre(rows: Float[Tensor, "C F1"], point: Float[Tensor, "F1"], sharpness: float) -> Float[Tensor, "F1"]:
    """Newton steps to the minimum of −t·point[-1] − Σ log(rows @ point) on the plane Σ point[:-1] = const."""
    size = point.numel()
    plane = torch.ones(size, dtype=torch.float64)
    plane[-1] = 0
    system = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    system[:size, size] = system[size, :size] = plane
    value = _objective(rows, point, sharpness)
    while True:
        slack = rows @ point
        scaled = rows / slack[:, None]
        gradient = -scaled.sum(0)
        gradient[-1] -= sharpness
        system[:size, :size] = scaled.T @ scaled
        step = torch.linalg.solve(system, torch.cat([-gradient, torch.zeros(1, dtype=torch.float64)]))[:size]
        if float(-gradient @ step) < 1e-6:
            return point
        # As far as the nearest wall allows, then back until the objective falls.
        length = min(1.0, 0.95 / max(float((-(rows @ step) / slack).max()), 0.95))
        while length > 1e-6 and _objective(rows, point + length * step, sharpness) >= value:
            length /= 2
        if length <= 1e-6:
            return point
        point = point + length * step
        value = _objective(rows, point, sharpness)


def _objective(rows: Float[Tensor, "C F1"], point: Float[Tensor, "F1"], sharpness: float) -> float:
    return float(-sharpness * point[-1] - (rows @ point).log().sum())
