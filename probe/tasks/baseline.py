"""How well a model does a task before anything is ablated: what it cannot do, an ablation cannot break."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from probe.statistics import bootstrap
from probe.tasks.evaluate import logits_at
from probe.tasks.metrics import accuracy, measure
from probe.tasks.task import Task, clean_ids, metric_positions
from probe.text import number

FEW = 8
"""Below as many prompts (groups, where prompts belong together) an interval says little; METRICS calls them few."""
_LOGITS = 1 << 26
"""Logits held at once: 256 MiB in float32."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """The unablated model on a task.

    values: [N] the task's metric of each prompt, in its unit, with mean and interval. correct: [N] each prompt's
    accuracy (`probe.tasks.metrics`), with mean and interval, beside the task's chance; NaN where a prompt has nothing
    to be right about. able: the lower end of the accuracy's interval is above chance. sentence: the verdict in words.
    """

    task: str
    metric: str
    values: Float[np.ndarray, "N"]
    mean: float
    low: float
    high: float
    correct: Float[np.ndarray, "N"]
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    chance: float
    able: bool
    sentence: str


def baseline(model: Any, task: Task) -> Baseline:
    """Run the measured prompts once, clean, and judge them.

    Means have 95 % bootstrap intervals over prompts, or over the groups that prompts belong to. `able` asks that the
    accuracy's interval lies above chance: a model may do so and still do badly, which the numbers show. A task
    without answers or targets (neg_kl alone) has no accuracy and is never called unable.
    """
    values, correct = _run(model, task)
    how = bootstrap(np.stack([values, correct], 1), groups=task.groups)
    (mean, share), (low, share_low), (high, share_high) = how.mean.tolist(), how.low.tolist(), how.high.tolist()
    judged = not np.isnan(share)
    able = share_low > task.chance if judged else True
    units = len(set(task.groups)) if task.groups else len(task.prompts)
    return Baseline(
        task=task.name, metric=task.metric, values=values, mean=mean, low=low, high=high, correct=correct,
        accuracy=share, accuracy_low=share_low, accuracy_high=share_high, chance=task.chance, able=able,
        sentence=_sentence(task, units, (mean, low, high), (share, share_low, share_high), able),
    )  # fmt: skip


def _run(model: Any, task: Task) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    values: list[torch.Tensor] = []
    correct: list[torch.Tensor] = []
    rows, step = 0, 1  # only its logits tell how large a vocabulary is: the first run is of one prompt
    while rows < len(task.prompts):
        some = task.prompts[rows : rows + step]
        with torch.no_grad():
            logits = logits_at(model, clean_ids(some), metric_positions(some))
            values.append(measure(logits, some, task.metric, clean=logits if task.metric == "neg_kl" else None))
            answered = some[0].target_ids is not None or some[0].answer_ids
            correct.append(accuracy(logits.float(), some) if answered else torch.full((len(some),), torch.nan))
        rows, step = rows + len(some), max(1, min(16, _LOGITS // logits[0].numel()))
    return _numbers(values), _numbers(correct)


def _numbers(parts: list[torch.Tensor]) -> Float[np.ndarray, "N"]:
    return np.asarray(torch.cat(parts).cpu().double().numpy())


def _sentence(
    task: Task, units: int, value: tuple[float, float, float], share: tuple[float, float, float], able: bool
) -> str:
    def told(mean: float, low: float, high: float) -> str:
        return number(mean) if np.isnan(low) else f"{number(mean)} [{number(low)}, {number(high)}]"

    few = f" ({units} independent: few)" if units < FEW else ""
    start = f"{task.name}, {len(task.prompts)} prompts{few}: {task.metric} {told(*value)}"
    if np.isnan(share[0]):
        return f"{start}; it has no answers, so nothing can be right or wrong."
    if not able:
        verdict = "no better than guessing: there is nothing here for an ablation to break."
    elif share[0] < 0.5:
        verdict = "better than guessing, though more often wrong than right."
    else:
        verdict = "the model can do it."
    return f"{start}, accuracy {told(*share)} where guessing has {number(task.chance)}; {verdict}"
