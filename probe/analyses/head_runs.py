"""A task measured with sets of heads replaced, or with nothing but a set of heads left: each set is run once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from probe.analyses.exact import ExactSweep
from probe.analyses.known import Known
from probe.analyses.replacement import replacement
from probe.analyses.units import Head, set_unit
from probe.circuits.graph import Graph
from probe.errors import TokensError
from probe.models import Loaded
from probe.progress import Progress, silent
from probe.running import Running
from probe.table import head_name
from probe.tasks.task import Task

KEPT_TOGETHER = 16
"""Sets that are run before their results are handed over: what a stop can cost."""


class HeadRuns:
    """What a task scores with given sets of heads replaced, at every position.

    loaded, task: the model and its prompts. mode: what stands in a replaced head's place (METRICS, Studies);
    `resample` is its z on the corrupted twin ("noising"): the heads that are left, the MLPs and the embedding stay
    live and read what the replaced ones write.

    Cost: one forward over all prompts a set, less the blocks below its lowest head, and one over the twins at the
    beginning (0 for modes that read the live run). A set that was asked for before costs nothing; `layer_forwards`
    counts what was spent, one being one block run over all prompts.
    Raises TokensError for a mode that the task cannot have (no twins).
    """

    def __init__(
        self, loaded: Loaded, task: Task, *, mode: str = "resample", known: Known[frozenset[Head]] | None = None
    ) -> None:
        """Make the mode's replacement: one forward where it reads another run.

        known: results of sets that were run before, to which new ones are added as they come.
        """
        self.loaded, self.task, self.mode = loaded, task, mode
        self.running = Running(loaded.model)
        self.heads: tuple[Head, ...] = tuple(
            (site.layer, head) for site in self.running.sites for head in range(self.running.n_heads)
        )
        self.sweep = ExactSweep(self.running, task)
        self.graph = Graph(self.sweep.depth, self.running.n_heads, layers=tuple(s.layer for s in self.running.sites))
        self.replacement = replacement(self.running, task, mode)
        self.layer_forwards = 0.0
        self.progress: Progress = silent
        self.remember: Callable[[Task], Known[frozenset[Head]]] | None = None
        self._known: Known[frozenset[Head]] = {} if known is None else known

    def replaced(self, sets: Sequence[Iterable[Head]]) -> Float[np.ndarray, "sets n"]:
        """The metric of every prompt with each set of heads replaced, float64; the empty set is the clean run.

        Raises TokensError for a head that the model does not have.
        """
        asked = [self._checked(members) for members in sets]
        wanted = [members for members in dict.fromkeys(asked) if members not in self._known]
        units = [set_unit(_name(members), members) for members in wanted if members]
        if frozenset() in wanted:
            self._known[frozenset()] = self.sweep.clean(slice(None))
            self.layer_forwards += self.sweep.depth
        for first in range(0, len(units), KEPT_TOGETHER):
            some = units[first : first + KEPT_TOGETHER]
            for unit, row in zip(some, self.sweep.ablated(some, self.replacement, slice(None)), strict=True):
                self._known[frozenset(unit.heads)] = row
            self.layer_forwards += sum(self.sweep.cost(unit) for unit in some)
            self.progress(first + len(some), len(units), f"{self.task.name}, sets of heads")
        return np.stack([self._known[members] for members in asked])

    def kept(self, sets: Sequence[Iterable[Head]]) -> Float[np.ndarray, "sets n"]:
        """The metric of every prompt with every head outside each set replaced.

        Raises TokensError for a head that the model does not have.
        """
        everyone = frozenset(self.heads)
        return self.replaced([everyone - self._checked(members) for members in sets])

    @property
    def clean(self) -> Float[np.ndarray, "n"]:
        """The metric with nothing replaced: m(N)."""
        return np.asarray(self.replaced([()])[0])

    @property
    def empty(self) -> Float[np.ndarray, "n"]:
        """The metric with every head replaced: m(∅). Not the corrupted run: MLPs and embedding stay clean."""
        return np.asarray(self.replaced([self.heads])[0])

    def on(self, task: Task) -> HeadRuns:
        """The same of other prompts, with what `remember` has of them.

        Whether runs may start at the edited layer is not asked anew.
        """
        known = None if self.remember is None else self.remember(task)
        other = HeadRuns(self.loaded, task, mode=self.mode, known=known)
        other.sweep.share_prefix = self.sweep.shares
        other.progress, other.remember = self.progress, self.remember
        return other

    def _checked(self, members: Iterable[Head]) -> frozenset[Head]:
        found = frozenset(members)
        strangers = sorted(found - set(self.heads))
        if strangers:
            raise TokensError(f"no head {head_name(*strangers[0])} in {self.loaded.name}, of {len(self.heads)} heads")
        return found


def halves(task: Task) -> tuple[Task, Task]:
    """The task's prompts in two: what is chosen on the first is to be reported on the second.

    Every other prompt, or group of prompts that belong together, goes to the second. Raises TokensError where there
    are fewer than two.
    """
    labels = task.groups or tuple(str(index) for index in range(len(task.prompts)))
    order = {label: place for place, label in enumerate(dict.fromkeys(labels))}
    if len(order) < 2:
        raise TokensError(
            f"task {task.name}: {len(order)} independent prompt; wanted two or more, to choose on some and report on "
            "the others"
        )
    parts = [
        tuple(prompt for prompt, label in zip(task.prompts, labels, strict=True) if order[label] % 2 == side)
        for side in (0, 1)
    ]
    return replace(task, prompts=parts[0]), replace(task, prompts=parts[1])


def _name(members: Iterable[Head]) -> str:
    return "+".join(head_name(*head) for head in sorted(members))
