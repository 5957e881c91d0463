"""What does not fit a table: means over sequences of received attention, distances and thumbnails."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.metrics import MIN_ROWS, offset_mass, received_mean
from probe.kernels.statistics import Statistics


class Profiles:
    """Running means, layer by layer and sequence by sequence, of METRICS' profiles.

    Positions, distances and bands that no sequence has are NaN; a mean is over the sequences that have them.
    Distances past a sequence's end hold none of its mass: 0, so that the bins of `offset_mass` sum to 1.
    """

    def __init__(self, n_layers: int, n_heads: int) -> None:
        """Start empty; tensors grow with the longest sequence."""
        self.n_layers, self.n_heads = n_layers, n_heads
        self._sums: dict[str, list[_Mean]] = {
            name: [_Mean(absent_is_zero=name == "offset_mass") for _ in range(n_layers)]
            for name in ("received", "offset_mass", "thumbnail")
        }
        self._sink_other: list[np.ndarray] = []
        self._current = np.full((n_layers, n_heads), -1, dtype=np.int32)

    def add(self, layer: int, statistics: Statistics, position: Int[Tensor, "B T"]) -> None:
        """Take in one layer of one sequence (batch of one)."""
        alpha = received_mean(statistics)[0]
        self._sums["received"][layer].add(alpha)
        self._sums["offset_mass"][layer].add(offset_mass(statistics, position)[0])
        if statistics.thumbnail is not None:
            self._sums["thumbnail"][layer].add(statistics.thumbnail[0])
        hidden = (statistics.received_rows[0] < MIN_ROWS) | alpha.isnan()
        hidden[:, 0] = True
        best = alpha.masked_fill(hidden, -1).argmax(-1)
        self._current[layer] = torch.where(hidden.all(-1), -1, best).cpu().numpy()

    def next_sequence(self) -> None:
        """Close a sequence: its places of the strongest later sinks are complete."""
        self._sink_other.append(self._current.copy())

    def arrays(self) -> dict[str, np.ndarray]:
        """`received` [L, H, T], `offset_mass` [L, H, B], `thumbnail` [L, H, bands, bands], float32, and
        `sink_other_at` [sequences, L, H], int32, −1 where there is none."""
        out = {
            name: np.stack([mean.value() for mean in layers])
            for name, layers in self._sums.items()
            if layers[0].count is not None
        }
        return {**out, "sink_other_at": np.stack(self._sink_other)}


class _Mean:
    """Mean of arrays whose last axis may grow, NaN entries left out, float64 inside.

    absent_is_zero: a shorter array is 0 past its end; otherwise it does not count there.
    """

    def __init__(self, *, absent_is_zero: bool) -> None:
        self.absent_is_zero = absent_is_zero
        self.total: Tensor | None = None
        self.count: Tensor | None = None

    def add(self, value: Float[Tensor, "*shape"]) -> None:
        value = value.detach().double().cpu()
        if self.total is None or self.count is None:
            self.total, self.count = torch.zeros_like(value), torch.zeros_like(value)
        grow = value.shape[-1] - self.total.shape[-1]
        if grow > 0:
            self.total = torch.nn.functional.pad(self.total, (0, grow))
            self.count = torch.nn.functional.pad(self.count, (0, grow))
        place = (..., slice(0, value.shape[-1]))
        real = ~value.isnan()
        self.total[place] += torch.where(real, value, 0)
        self.count[place] += real

    def value(self) -> np.ndarray:
        if self.total is None or self.count is None:
            raise ValueError("a mean over no sequence")
        count = self.count[..., :1] if self.absent_is_zero else self.count
        mean: np.ndarray = (self.total / count).float().numpy()
        return mean
