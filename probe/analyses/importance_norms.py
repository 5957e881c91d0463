"""How much a head writes: norms of its output and of what the output projection makes of it.

L1 after the projection: AMP (Attention head and MLP pruning, repository c2d-usp). L2: METRICS' `output_norm`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.hooks.attention import Site
from probe.running import Running
from probe.tasks.task import Task, clean_ids


def output_norms(model: Any, task: Task, rows: slice, *, first: int = 1) -> dict[str, Float[np.ndarray, "n L H"]]:
    """Three norms of every head on prompts[rows], float64, each a mean over the prompt's positions ≥ `first`.

    z_norm: ‖z‖₂, z as the output projection receives it (after a gate where the family has one). write_norm:
    ‖z W_O‖₂ through the Gram matrix W_O W_Oᵀ; METRICS' `output_norm`. write_l1: AMP's ‖z W_O‖₁, one head at a
    time, so that a [T, H, d_model] tensor is never built.

    Deviations from AMP: position 0, which often is a sink of another size, is left out unless first = 0, and
    prompts are averaged with equal weight; its generated token is not run. NaN where no position is left.
    """
    running = Running(model)
    found: dict[str, dict[Site, Tensor]] = {"z_norm": {}, "write_norm": {}, "write_l1": {}}
    weights = {site: running.head_writes(site) for site in running.sites}

    def write(site: Site, heads: Float[Tensor, "n T HDv"]) -> None:
        weight = weights[site]
        z = heads[:, first:].view(len(heads), -1, *weight.shape[:2]).transpose(1, 2)
        for name, norms in norms_of(z, weight).items():
            found[name][site] = norms.mean(-1)

    with running.watching_writes(write):
        running.forward(clean_ids(task.prompts[rows]))
    return {
        name: torch.stack([layers[site] for site in running.sites], 1).cpu().numpy() for name, layers in found.items()
    }


def norms_of(z: Float[Tensor, "n H T Dv"], weight: Float[Tensor, "H Dv d_model"]) -> dict[str, Float[Tensor, "n H T"]]:
    """The three norms of every output, float64."""
    wide, matrix = z.double(), weight.double()
    gram = matrix @ matrix.mT
    squared: Tensor = ((wide @ gram) * wide).sum(-1)
    l1 = torch.stack([(wide[:, head] @ matrix[head]).abs().sum(-1) for head in range(len(matrix))], 1)
    return {"z_norm": wide.square().sum(-1).sqrt(), "write_norm": squared.clamp(min=0).sqrt(), "write_l1": l1}
