"""Attribution of every head from one forward and one backward, with the softmax recomputed for queries and keys.

Nanda 2023, Attribution patching; Kramár et al. 2024, AtP* (arXiv 2403.00745), sections 2.3 and 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from probe.analyses.head_gradients import (
    Positions,
    check_gradient,
    counted,
    head_gradients,
    judge_of,
    judged_positions,
    plain_run,
)
from probe.errors import TokensError
from probe.hooks.edits import Rule
from probe.running import Running
from probe.tasks.task import Task, clean_ids, corrupted_ids

PATHS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class GradientResult:
    """First-order estimates of each head's effect on each prompt, float64, in the metric's unit; positive = it helps.

    layers: the model's own numbers of the L layers. clean: [n] the metric, nothing replaced.
    z: [L, H, n] of putting the rule's output in place of the head's. paths: "q", "k", "v" → [L, H, n] of putting
    the corrupted twin's queries, keys or values in place of the head's own; empty where not asked for.
    layer_forwards: as `Effects` counts them: one is one block run over all of the task's prompts.
    """

    layers: tuple[int, ...]
    clean: Float[np.ndarray, "n"]
    z: Float[np.ndarray, "L H n"]
    paths: dict[str, Float[np.ndarray, "L H n"]]
    layer_forwards: float


def gradient(
    model: Any,
    task: Task,
    rows: slice,
    rule_of: Callable[[int], Rule],
    *,
    positions: Positions = None,
    paths: Collection[str] = (),
) -> GradientResult:
    """<d metric / d z, z − z̃> of every head on prompts[rows], z̃ being what the layer's rule puts in z's place.

    model: of transformers or TransformerLens. rule_of: layer → rule, aligned to prompts[rows]. positions: the
    query positions whose z is replaced (None: all). One forward with the graph, one backward; the sum of the
    metric over prompts is differentiated, so that an estimate does not depend on how prompts are batched.

    paths: "q", "k", "v": what the head's output becomes with the corrupted twin's queries (keys, values) at all
    positions, attention recomputed exactly, projected on the same gradient: one more forward and one more
    attention a path. Deviations from AtP*: keys are replaced at all positions at once, not one at a time; the
    head's z is what is projected, which is d metric / d A · ΔA summed over keys; the sign is METRICS'. Where query
    heads share a key/value head the shared keys are replaced for one of them: the sum over the group estimates
    the effect of the group's keys.

    Raises TokensError for a metric without a gradient (accuracy; neg_kl, which is flat at the clean run),
    positions outside the prompts, unknown paths, and paths of a task without twins.
    """
    check_gradient(task, "gradient", at_clean=True)
    unknown = sorted(set(paths) - set(PATHS))
    if unknown:
        raise TokensError(f"paths {', '.join(unknown)}; wanted some of {', '.join(PATHS)}")
    prompts, running = task.prompts[rows], Running(model)
    where = judged_positions(prompts)
    mask = counted(positions, len(prompts), task.length).to(running.device)
    twins = plain_run(running, corrupted_ids(prompts), where)[1] if paths else []
    clean, nodes = head_gradients(running, clean_ids(prompts), where, judge_of(task, prompts))
    with torch.no_grad():
        z = [node.project(rule_of(node.call.site.layer)(node.part()), mask) for node in nodes]
        corrected = {
            path: [node.project(node.through(path, twin), mask) for node, twin in zip(nodes, twins, strict=True)]
            for path in PATHS
            if path in paths
        }
    passes = 3 + (1 if paths else 0)
    return GradientResult(
        tuple(node.call.site.layer for node in nodes),
        clean,
        by_head(z),
        {path: by_head(values) for path, values in corrected.items()},
        passes * len(nodes) * len(prompts) / len(task.prompts),
    )


def by_head(layers: list[Float[np.ndarray, "n H"]]) -> Float[np.ndarray, "L H n"]:
    """One array a layer, prompts first, as [L, H, n]."""
    return np.stack([layer.T for layer in layers])
