"""Attribution from gradients along the straight path between the corrupted and the clean prompt's embeddings.

Hanna et al. 2024, Have Faith in Faithfulness (EAP-IG, arXiv 2403.17806), section 3.1, for heads as nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probe.analyses.gradient import GradientResult, by_head
from probe.analyses.head_gradients import (
    Embedded,
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

POINTS = {"left": 0.0, "midpoint": 0.5, "right": 1.0}
"""Where in each of the path's steps the gradient is taken, as a share of the step."""


def integrated(
    model: Any,
    task: Task,
    rows: slice,
    rule_of: Callable[[int], Rule] | None = None,
    *,
    steps: int = 5,
    points: str = "midpoint",
    positions: Positions = None,
) -> GradientResult:
    """<mean over the path of d metric / d z, z − z̃> of every head on prompts[rows]; `paths` is empty.

    The token embeddings are e' + α (e − e'), e the clean prompt's and e' its twin's, for one α in each of `steps`
    equal steps from 0 to 1: its "midpoint", or its "left" or "right" end. z and (rule_of None) z̃ are those of the
    clean and of the corrupted run, as published; with a rule z̃ is what it puts in z's place in the clean run.
    Costs steps forwards and backwards and two plain forwards.

    Deviations from the paper and its code: the midpoint, whose error falls with the square of the steps (the
    code takes left ends for edges, right ends for nodes: "left", "right"); scores are of heads, per prompt, not
    of edges over a batch mean; the sign is METRICS', positive where the head helps; modes other than the twin's z
    use a gradient along a path that does not lead to them. Only token embeddings are interpolated: what a
    family adds to the stream beside them (per-layer embeddings) stays the clean prompt's.

    Raises TokensError for a task without twins, fewer than 1 step, unknown points, a metric without a gradient
    (accuracy), and positions outside the prompts.
    """
    check_gradient(task, "integrated", at_clean=False)
    if steps < 1 or points not in POINTS:
        raise TokensError(f"{steps} steps at {points!r} points; wanted 1 or more at {', '.join(POINTS)}")
    prompts, running = task.prompts[rows], Running(model)
    where, ids = judged_positions(prompts), clean_ids(prompts)
    mask = counted(positions, len(prompts), task.length).to(running.device)
    ends: list[Tensor] = []

    def noted(embeddings: Tensor) -> Tensor:
        ends.append(embeddings)
        return embeddings

    twins = plain_run(running, corrupted_ids(prompts), where, noted)[1]
    logits, nodes = plain_run(running, ids, where, noted)
    judge = judge_of(task, prompts, logits)
    clean = judge(logits).double().cpu().numpy()
    for step in range(steps):
        share = (step + POINTS[points]) / steps
        there = head_gradients(running, ids, where, judge, _between(ends[0], ends[1], share))[1]
        grads = [node.grad + near.grad.double() / steps for node, near in zip(nodes, there, strict=True)]
        nodes = [replace(node, grad=grad) for node, grad in zip(nodes, grads, strict=True)]
    with torch.no_grad():
        others = [z.z for z in twins] if rule_of is None else [rule_of(n.call.site.layer)(n.part()) for n in nodes]
        values = [node.project(other, mask) for node, other in zip(nodes, others, strict=True)]
    layers = tuple(node.call.site.layer for node in nodes)
    cost = (2 + 3 * steps) * len(nodes) * len(prompts) / len(task.prompts)
    return GradientResult(layers, clean, by_head(values), {}, cost)


def _between(corrupted: Tensor, clean: Tensor, share: float) -> Embedded:
    """Puts the point of the path in place of whatever the embedding gives."""
    return lambda _given: corrupted + share * (clean - corrupted)
