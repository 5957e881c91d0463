"""What patching asks of a task: prompts with corrupted twins, and twins that are judged otherwise."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from probe.errors import TokensError
from probe.tasks.task import Prompt, Task


def paired_prompts(task: Task, rows: slice) -> tuple[Prompt, ...]:
    """task.prompts[rows], each with a twin.

    Raises TokensError where one has none, or there is no prompt; where every twin is its clean prompt; and for
    neg_kl, whose reference is the clean run itself, so that no other run can be judged by it.
    """
    prompts = task.prompts[rows]
    if not prompts or any(prompt.corrupted_ids is None for prompt in prompts):
        raise TokensError(f"task {task.name}: patching wants prompts with corrupted twins; found none, or some without")
    if all(prompt.corrupted_ids == prompt.clean_ids for prompt in prompts):
        raise TokensError(f"task {task.name}: clean and corrupted prompts are the same; choose another corruption")
    if task.metric == "neg_kl":
        raise TokensError(f"task {task.name}: neg_kl compares with the clean run itself; wanted a metric of the answer")
    return prompts


def check_apart(task: Task, clean: Float[np.ndarray, "n"], corrupted: Float[np.ndarray, "n"]) -> None:
    """Raises TokensError where clean and corrupted runs are judged alike on average, so that no effect has a scale.

    Alike: closer than 1e-6 of the metric's size, which is rounding in float32.
    """
    size = max(float(np.abs(clean).max()), float(np.abs(corrupted).max()))
    if abs(float(clean.mean() - corrupted.mean())) <= 1e-6 * size:
        raise TokensError(
            f"task {task.name}: clean and corrupted runs have the same {task.metric} ({clean.mean():.6g}); "
            "choose a corruption that changes the answer"
        )
