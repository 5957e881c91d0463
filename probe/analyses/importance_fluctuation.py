"""How much a head's output varies: a channel that hardly does can be replaced by its mean at little loss.

FLAP: An et al. 2023, Fluctuation-based Adaptive Structured Pruning (arXiv 2312.11983), section 3.2. Its bias
compensation, the mean in place of a removed channel, is the ablation mode `mean_all`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import TokensError
from probe.hooks.attention import Site
from probe.running import Running
from probe.tasks.task import Task, clean_ids


@dataclass(frozen=True, eq=False)
class Fluctuation:
    """Weighted fluctuation (WIFV) of what the output projection reads, float64.

    channels: [L, H, Dv] Var(x_j) ‖W_O[j]‖², the variance (n − 1) over all counted positions of all prompts.
    per_prompt: [N, L, H] each prompt's part of the channels' mean: averaged over prompts it is exactly
    `channels` averaged over Dv.
    """

    channels: Float[np.ndarray, "L H Dv"]
    per_prompt: Float[np.ndarray, "N L H"]

    def published(self) -> Float[np.ndarray, "L H"]:
        """A head's score as the published code ranks it: WIFV squared, z-scored over the layer's channels, averaged.

        NaN in a layer whose channels are all equal.
        """
        layers = len(self.channels)
        squared = np.square(self.channels).reshape(layers, -1)
        with np.errstate(invalid="ignore"):
            scored = (squared - squared.mean(1, keepdims=True)) / squared.std(1, ddof=1, keepdims=True)
        return np.asarray(scored.reshape(self.channels.shape).mean(-1))


def fluctuation(model: Any, task: Task, *, batch: int = 16, first: int = 1) -> Fluctuation:
    """Fluctuation of every head over all of the task's prompts, `batch` of them a forward, positions ≥ `first`.

    Deviations from the code of FLAP: a correct variance, two passes a prompt and the exact law of total variance
    over prompts (its running update uses the new mean twice, leaves the first batch out and counts samples
    where it sums tokens); the task's prompts in place of its calibration text; position 0 left out unless
    first = 0, as in `mean_all`. Raises TokensError where fewer than 2 positions count.
    """
    running = Running(model)
    count = task.length - first
    if count * len(task.prompts) < 2 or first < 0 or count < 1 or batch < 1:
        raise TokensError(
            f"fluctuation over positions from {first} of {len(task.prompts)} prompts of {task.length} tokens, "
            f"{batch} at a time; wanted at least 2 values of each channel"
        )
    means: dict[Site, list[Tensor]] = {site: [] for site in running.sites}
    squares: dict[Site, list[Tensor]] = {site: [] for site in running.sites}

    def write(site: Site, heads: Float[Tensor, "n T HDv"]) -> None:
        mean, square = spread(heads[:, first:])
        means[site].append(mean)
        squares[site].append(square)

    with running.watching_writes(write):
        for start in range(0, len(task.prompts), batch):
            running.forward(clean_ids(task.prompts[start : start + batch]))
    layers = []
    for site in running.sites:
        weight = running.head_writes(site).double()
        parts = fluctuations(torch.cat(means[site]), torch.cat(squares[site]), count)
        layers.append(parts.view(-1, *weight.shape[:2]) * weight.square().sum(-1))
    parts = torch.stack(layers, 1).cpu()
    return Fluctuation(parts.mean(0).numpy(), parts.mean(-1).numpy())


def spread(values: Float[Tensor, "n T C"]) -> tuple[Float[Tensor, "n C"], Float[Tensor, "n C"]]:
    """Mean of each prompt's channels, and Σ_t (x_t − mean)², float64."""
    wide = values.double()
    mean = wide.mean(1)
    return mean, (wide - mean[:, None]).square().sum(1)


def fluctuations(means: Float[Tensor, "N C"], squares: Float[Tensor, "N C"], count: int) -> Float[Tensor, "N C"]:
    """Each prompt's part of the channels' variance over all prompts of `count` values; the parts' mean is it.

    Σ_t (x_t − μ)² = Σ_t (x_t − mean)² + count (mean − μ)². A channel that is constant gives exactly 0.
    """
    prompts = len(means)
    # From the first prompt's mean, equal means have a grand mean of exactly no distance.
    shifted = means - means[:1]
    around = squares + count * (shifted - shifted.mean(0)).square()
    return around * prompts / (prompts * count - 1)
