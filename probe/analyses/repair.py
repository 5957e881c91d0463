"""Repair: heads made to look where they should, and whether the model then does a task that it did badly.

The four-head intervention of Merullo et al. (arXiv 2310.08744; METHODS §10): three inhibition heads and a negative
mover made to look at the wrong answers raise the accuracy of a second task. Here for any heads and named positions,
with a search for the heads that help, on prompts other than those that the answer is reported on, and a control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from probe.analyses.head_runs import HeadRuns, halves
from probe.analyses.retrieval_ablation import matched_draw
from probe.analyses.units import Head
from probe.errors import TokensError
from probe.models import Loaded
from probe.statistics import bootstrap
from probe.table import head_name
from probe.tasks.task import Task

if TYPE_CHECKING:
    import plotly.graph_objects as go

SIZE = 4
DRAWS = 20


@dataclass(frozen=True)
class Spread:
    """A mean over prompts and its 95 % bootstrap interval (NaN with fewer than two prompts or groups)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Forced:
    """A task with some heads looking, from one position, at others in equal shares and nowhere else.

    heads: which. mode: `force:QUERY>KEY/KEY`. metric: the task's. values, correct: metric and accuracy of every prompt
    with the heads forced; clean, clean_correct: without. float64. groups: the task's.
    """

    heads: tuple[Head, ...]
    mode: str
    metric: str
    values: Float[np.ndarray, "n"]
    correct: Float[np.ndarray, "n"]
    clean: Float[np.ndarray, "n"]
    clean_correct: Float[np.ndarray, "n"]
    groups: tuple[str, ...] | None = None

    def change(self, seed: int = 0) -> Spread:
        """Forced − clean of the metric: positive where forcing helps."""
        return _spread(self.values - self.clean, self.groups, seed)

    def accuracy(self, seed: int = 0) -> tuple[Spread, Spread]:
        """Accuracy without and with the heads forced."""
        return _spread(self.clean_correct, self.groups, seed), _spread(self.correct, self.groups, seed)


@dataclass(frozen=True, eq=False)
class Repair:
    """The heads that repair a task, found on one half of its prompts, and what they do on the other.

    path: the heads in the order chosen, those it started from first. searched: mean metric on the first half with
    nothing forced, with the start, and after each head chosen. forced: the chosen heads on the second half. random,
    random_correct: mean metric and accuracy there of as many random heads of the same layers, others than the chosen,
    forced alike [draws]. p_value: (1 + draws that do as well or better by the metric) / (1 + draws), one-sided.
    layer_forwards: what it cost; one is one block run over half of the task's prompts.
    """

    task: str
    path: tuple[Head, ...]
    searched: tuple[float, ...]
    forced: Forced
    random: Float[np.ndarray, "draws"]
    random_correct: Float[np.ndarray, "draws"]
    p_value: float
    layer_forwards: float

    @property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        before, after = self.forced.accuracy()
        names = ", ".join(head_name(*head) for head in self.path)
        return (
            f"{self.task}, {len(self.forced.values)} prompts that the search did not see: with {names} forced "
            f"({self.forced.mode}) accuracy goes from {before.mean:.3f} to {after.mean:.3f} "
            f"[{after.low:.3f}, {after.high:.3f}] and {self.forced.metric} from {self.forced.clean.mean():.3f} to "
            f"{self.forced.values.mean():.3f}; random heads of the same layers, {len(self.random)} draws: accuracy "
            f"{self.random_correct.mean():.3f}, {self.forced.metric} {self.random.mean():.3f} "
            f"(p = {self.p_value:.3g}, one-sided)."
        )

    def plot(self) -> go.Figure:
        """Accuracy before and after, beside random heads forced alike."""
        from probe.plots.beside import repair_draws

        return repair_draws(self)


def forced_mode(to: Sequence[str], query: str) -> str:
    """The ablation mode of a forced pattern. Raises TokensError without positions to look at."""
    if isinstance(to, str) or not to:
        raise TokensError(f"attention forced to {to!r}; wanted names of the task's positions, such as ['S1', 'S2']")
    return f"force:{query}>{'/'.join(to)}"


def force_attention(
    loaded: Loaded, task: Task, heads: Sequence[Head], *, to: Sequence[str], query: str = "END"
) -> Forced:
    """Metric and accuracy of every prompt with the heads' attention at `query` put on the positions `to`.

    Cost: four forwards over the prompts, less the blocks below the lowest head. Raises TokensError for unknown heads
    and names, and a task without right answers; HookError for a position that the query cannot see.
    """
    mode = forced_mode(to, query)
    return _forced(*_runs(loaded, task, mode), tuple(heads))


def repair(
    loaded: Loaded,
    task: Task,
    candidates: Sequence[Head],
    *,
    to: Sequence[str],
    query: str = "END",
    start: Sequence[Head] = (),
    size: int = SIZE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Repair:
    """Find up to `size` heads that, made to look at the positions `to`, do most for the task; measure them elsewhere.

    candidates: heads to choose from, such as another circuit's of some role, or all. start: heads that are forced
    from the beginning, and count. Greedy forward selection by the mean metric on one half of the prompts
    (`head_runs.halves`), ended early where no head left raises it; ties go to the lowest layer and head. Everything
    that is reported of the chosen heads comes from the other half. The control does not search: it says what forcing
    any heads of those layers does, not what the best of as many random candidates would.

    Cost: at most size · candidates + 4 + 2 · draws forwards over half of the prompts, each less the blocks below the
    lowest forced head. Raises TokensError for numbers below 1, unknown heads and names, fewer candidates than are to
    be chosen, heads of which none helps, and a task without right answers; HookError for a position that the query
    cannot see.
    """
    mode = forced_mode(to, query)
    if min(size, draws) < 1 or len({*candidates, *start}) < size or len(set(start)) > size:
        raise TokensError(
            f"{size} heads wanted from {len(set(candidates))} candidates and {len(set(start))} to start from, "
            f"{draws} draws; wanted 1 or more of each, and heads enough"
        )
    first, second = halves(task)
    search = HeadRuns(loaded, first, mode=mode)
    path, searched = _greedy(search, candidates, tuple(dict.fromkeys(start)), size)
    if not path:
        raise TokensError(f"task {task.name}: none of {len(set(candidates))} heads raises {task.metric} under {mode}")
    runs, judged = _runs(loaded, second, mode)
    drawn = [matched_draw(path, runs.heads, np.random.default_rng([seed, draw])) for draw in range(draws)]
    random, random_correct = runs.replaced(drawn).mean(axis=1), judged.replaced(drawn).mean(axis=1)
    forced = _forced(runs, judged, path)
    better = int((random >= forced.values.mean()).sum())
    spent = search.layer_forwards + runs.layer_forwards + (judged.layer_forwards if judged is not runs else 0)
    return Repair(
        task.name, path, searched, forced, random, random_correct, (1 + better) / (1 + draws), spent
    )  # fmt: skip


def _greedy(
    runs: HeadRuns, candidates: Sequence[Head], start: tuple[Head, ...], size: int
) -> tuple[tuple[Head, ...], tuple[float, ...]]:
    """Heads chosen one at a time, each the one that raises the mean metric most, and that mean along the way."""
    chosen = start
    scores = [float(runs.clean.mean())]
    if start:
        scores.append(float(runs.replaced([start]).mean()))
    while len(chosen) < size:
        left = [head for head in sorted(set(candidates)) if head not in chosen]
        means = runs.replaced([(*chosen, head) for head in left]).mean(axis=1)
        best = int(np.argmax(means))
        if means[best] <= scores[-1]:
            break
        chosen = (*chosen, left[best])
        scores.append(float(means[best]))
    return chosen, tuple(scores)


def _runs(loaded: Loaded, task: Task, mode: str) -> tuple[HeadRuns, HeadRuns]:
    """The task by its own metric and by accuracy; the same where that is its metric."""
    runs = HeadRuns(loaded, task, mode=mode)
    return runs, runs if task.metric == "accuracy" else runs.on(replace(task, metric="accuracy"))


def _forced(runs: HeadRuns, judged: HeadRuns, heads: tuple[Head, ...]) -> Forced:
    values, clean = runs.replaced([heads, ()])
    correct, clean_correct = judged.replaced([heads, ()])
    return Forced(heads, runs.mode, runs.task.metric, values, correct, clean, clean_correct, runs.task.groups)


def _spread(values: Float[np.ndarray, "n"], groups: tuple[str, ...] | None, seed: int) -> Spread:
    found = bootstrap(values[:, None], groups=groups, seed=seed)
    return Spread(float(found.mean[0]), float(found.low[0]), float(found.high[0]))
