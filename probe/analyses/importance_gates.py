"""Michel's head importance: how a task's metric answers to a gate ξ = 1 on each head's output, in three versions.

Michel, Levy and Neubig 2019, Are Sixteen Heads Really Better than One? (arXiv 1905.10650), section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from probe.analyses.head_gradients import check_gradient, head_gradients, judge_of, judged_positions
from probe.errors import TokensError
from probe.running import Running
from probe.tasks.task import Task, clean_ids

VERSIONS = ("example", "token", "batch")


@dataclass(frozen=True, eq=False)
class GateGradients:
    """What the three versions are made of, float64: with c_t = <z_t, d metric / d z_t> of a head at position t,

    signed: [N, L, H] Σ_t c_t = d metric / d ξ of each prompt. absolute: [N, L, H] Σ_t |c_t|.
    """

    signed: Float[np.ndarray, "N L H"]
    absolute: Float[np.ndarray, "N L H"]

    def scores(self, over: str = "example", *, batch: int | None = None) -> Float[np.ndarray, "units L H"]:
        """Values whose mean over the first axis is the importance; never negative.

        over "example": |Σ_t c_t| of each prompt, the paper's formula. "token": Σ_t |c_t| of each prompt, the
        authors' code. "batch": |Σ_x Σ_t c_t| / n of each run of n = `batch` prompts (None: all in one), as
        Hugging Face's run_bertology, where prompts of a batch cancel.

        Deviations: all three are sums over positions and means over prompts, so that token ≥ example ≥ batch;
        the codes divide by the number of tokens (the authors' last layer by that of examples), constants that
        `within_layer` removes. A last batch that is shorter counts by its share of prompts. The metric stands
        where the loss stood; its sign does not matter. Raises TokensError for another version or batch.
        """
        if over == "example":
            return np.asarray(np.abs(self.signed))
        if over == "token":
            return self.absolute
        size = len(self.signed) if batch is None else batch
        if over != "batch" or size < 1:
            raise TokensError(
                f"gate gradient over {over!r}, batches of {size}; wanted {', '.join(VERSIONS)}, 1 or more"
            )
        starts = np.arange(0, len(self.signed), size)
        sums = np.abs(np.add.reduceat(self.signed, starts, axis=0))
        # n of a full batch would let a short last one count as much as the others.
        return np.asarray(sums * (len(starts) / len(self.signed)))


def gate_gradients(model: Any, task: Task, rows: slice) -> GateGradients:
    """Gate gradients of every head on prompts[rows]: one forward and one backward; no gate is put in.

    Raises TokensError for a metric without a gradient at the clean run (accuracy, neg_kl).
    """
    check_gradient(task, "the gate gradient", at_clean=True)
    prompts, running = task.prompts[rows], Running(model)
    _, nodes = head_gradients(running, clean_ids(prompts), judged_positions(prompts), judge_of(task, prompts))
    terms = [(node.z.double() * node.grad.double()).sum(-1) for node in nodes]
    signed, absolute = (torch.stack([t.sum(-1) for t in some], 1) for some in (terms, [t.abs() for t in terms]))
    return GateGradients(signed.cpu().numpy(), absolute.cpu().numpy())


def within_layer(scores: Float[np.ndarray, "*units L H"]) -> Float[np.ndarray, "*units L H"]:
    """Scores divided by their L2 norm within the layer (+ 1e-20), as all three versions do before pruning."""
    return np.asarray(scores / (np.sqrt(np.square(scores).sum(-1, keepdims=True)) + 1e-20))


def min_max(scores: Float[np.ndarray, "L H"]) -> Float[np.ndarray, "L H"]:
    """Scores moved and scaled to 0 … 1 over the whole model, as run_bertology does after `within_layer`.

    NaN where all scores are equal.
    """
    low, high = scores.min(), scores.max()
    with np.errstate(invalid="ignore"):
        return np.asarray((scores - low) / (high - low))
