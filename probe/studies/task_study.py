"""One task's ablation study, as a page shows it: the task, every method's effects, the removal curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from probe.analyses.agreement import Agreement, agreement
from probe.analyses.effect_columns import column_names, summary
from probe.analyses.effects import ESTIMATES, Effects
from probe.analyses.removal_curve import RemovalCurve
from probe.columns import METRIC_UNITS
from probe.errors import ResultsError
from probe.statistics import EXACT, FLIPS, Summary, bootstrap
from probe.tasks.baseline import Baseline
from probe.tasks.build import TASKS
from probe.tasks.task import Task
from probe.token_strings import token_strings

if TYPE_CHECKING:
    import plotly.graph_objects as go

NOUNS = {"head": "heads", "kv_group": "key/value groups", "layer": "layers", "set": "sets of heads"}


@dataclass(frozen=True, eq=False)
class TaskStudy:
    """What was asked and found on one task.

    effects: one or more (mode, method); the first measured one leads. question: what the task asks, in a few words.
    baseline: how well the model does it before anything is removed; None: the page says that it was not judged.
    answers, wrongs: right and wrong tokens of the first prompt, as strings. curve: heads removed one after the other.
    """

    task: Task
    effects: tuple[Effects, ...]
    question: str = ""
    baseline: Baseline | None = None
    answers: tuple[str, ...] = ()
    wrongs: tuple[str, ...] = ()
    curve: RemovalCurve | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ResultsError without effects, or for those of another task or other prompts."""
        if not self.effects:
            raise ResultsError(f"a study of {self.task.name} without effects; wanted at least one method's")
        for one in self.effects:
            if one.task != self.task.name or len(one.clean) != len(self.task.prompts):
                raise ResultsError(
                    f"effects on {len(one.clean)} prompts of {one.task} beside {len(self.task.prompts)} prompts of "
                    f"{self.task.name}; wanted the same"
                )

    @property
    def unit(self) -> str:
        """The unit of the metric, and so of its effects."""
        return METRIC_UNITS[self.task.metric]

    @property
    def n(self) -> int:
        """Prompts measured."""
        return len(self.task.prompts)

    @property
    def independent(self) -> int:
        """Groups of prompts that are independent of each other; prompts, where each stands for itself."""
        return len(set(self.task.groups)) if self.task.groups else self.n

    @property
    def counted(self) -> str:
        """`64 prompts`, `64 prompts in 16 groups`."""
        return f"{self.n} prompts" + (f" in {self.independent} groups" if self.task.groups else "")

    @property
    def lead(self) -> int:
        """Which effects lead: the first that were measured, not estimated; the first where none was."""
        return next((index for index, one in enumerate(self.effects) if one.method not in ESTIMATES), 0)

    @cached_property
    def numbers(self) -> tuple[pd.DataFrame, ...]:
        """Mean, interval, p and q of every unit, for each of the effects."""
        return tuple(summary(one, self.task.groups, self.seed) for one in self.effects)

    @cached_property
    def columns(self) -> list[str]:
        """The head table's column of each of the effects."""
        return column_names(self.effects)

    @cached_property
    def clean(self) -> Summary:
        """The metric with nothing removed: mean and interval over prompts."""
        values = np.asarray(self.effects[self.lead].clean, dtype=float)[:, None]
        return bootstrap(values, groups=self.task.groups, seed=self.seed)

    @property
    def noun(self) -> str:
        """What was removed: `heads`, `layers`, …; `units` where kinds are mixed."""
        kinds = {unit.kind for unit in self.effects[self.lead].units}
        return NOUNS[kinds.pop()] if len(kinds) == 1 else "units"

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that so many independent prompts can give."""
        return 2 / 2**self.independent if self.independent <= EXACT else 1 / (1 + FLIPS)

    @cached_property
    def agreements(self) -> dict[int, tuple[int, Agreement]]:
        """Index of an estimate → index of what was measured in the same mode, and how far they agree."""
        found = {}
        for index, one in enumerate(self.effects):
            if one.method in ESTIMATES:
                same = [
                    place
                    for place, other in enumerate(self.effects)
                    if other.mode == one.mode and other.method not in ESTIMATES
                ]
                if same:
                    found[index] = (same[0], agreement(one, self.effects[same[0]]))
        return found

    def measured(self, index: int) -> str:
        """`270 heads`; `14 of 270 heads`; `14 heads on all prompts, 256 on some, of 270`: what was measured."""
        n, prompts = self.numbers[index]["n_effect"], len(self.task.prompts)
        whole, some = int((n == prompts).sum()), int(((n > 0) & (n < prompts)).sum())
        if some:
            return f"{whole} {self.noun} on all prompts, {some} on some, of {len(n)}"
        return f"{len(n)} {self.noun}" if whole == len(n) else f"{whole} of {len(n)} {self.noun}"

    def mapped(self, index: int) -> bool:
        """Whether effects have a place in a map: no two units share a head."""
        heads = [head for unit in self.effects[index].units for head in unit.heads]
        return len(set(heads)) == len(heads)

    def plot(self) -> go.Figure:
        """The leading effects as a map, or ranked where units share heads and so have no place in one."""
        from probe.plots.ablation import effect_map, ranked_effects

        one, numbers = self.effects[self.lead], self.numbers[self.lead]
        how = f"{one.mode.replace('_', ' ')} ablation, {one.method}"
        if self.mapped(self.lead):
            return effect_map(one.units, numbers, self.task.metric, f"What each head does for {self.task.name}: {how}")
        return ranked_effects(numbers, self.task.metric, title=f"The strongest {self.noun} for {self.task.name}: {how}")


def study_of(
    task: Task,
    effects: Sequence[Effects],
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    baseline: Baseline | None = None,
    curve: RemovalCurve | None = None,
    seed: int = 0,
) -> TaskStudy:
    """A study ready for the page: the task's question in words, the first prompt's answers as the tokenizer has them.

    A prompt judged by its targets alone shows the first of those; a curve without groups gets the task's. Raises
    ResultsError as `TaskStudy` does.
    """
    first = task.prompts[0]
    right = first.answer_ids or (first.target_ids or ())[:1]
    question = TASKS[task.name].what if task.name in TASKS else ""
    if curve is not None and curve.groups is None:
        curve = replace(curve, groups=task.groups)
    answers, wrongs = (tuple(token_strings(tokenizer, ids)) for ids in (right, first.wrong_ids))
    return TaskStudy(task, tuple(effects), question, baseline, answers, wrongs, curve, seed)
