"""The benches of a study, one a task, and the recipe by which another process sets up the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from probe.analyses.exact import Where
from probe.analyses.pieces import Compute, Piece
from probe.analyses.workbench import Workbench
from probe.errors import ResultsError
from probe.models import Loaded, load
from probe.studies.file import Study
from probe.studies.identity import versions
from probe.tasks.task import Task


class Benches:
    """Workbenches of one model by task, one at a time: each keeps what its last pieces had in common."""

    def __init__(self, loaded: Loaded, tasks: Sequence[Task], study: Study) -> None:
        """Raises TokensError for a unit or position that a task or the model does not have."""
        self._loaded, self._study = loaded, study
        self._tasks = {task.name: task for task in tasks}
        self._shares: dict[str, bool] = {}
        self._bench: Workbench | None = None
        for task in tasks:
            self.of(task.name)

    def of(self, task: str) -> Workbench:
        """The bench of a task of the study."""
        if self._bench is None or self._bench.task.name != task:
            where = Where(None if self._study.positions == "all" else self._study.positions, self._study.phase)
            self._bench = Workbench(
                self._loaded, self._tasks[task], unit=self._study.unit, where=where, share_prefix=self._shares.get(task)
            )
            self._shares[task] = self._bench.sweep.shares
        return self._bench

    @property
    def group_size(self) -> int:
        """Query heads that read one key/value head."""
        running = self.of(next(iter(self._tasks))).running
        return running.n_heads // running.n_kv_heads

    def verify(self) -> None:
        """Prove the model's hook points before any number is believed. Raises HookError by name."""
        self.of(next(iter(self._tasks))).running.verify()

    def compute(self, piece: Piece) -> np.ndarray:
        """A piece of any task of the study."""
        return self.of(piece.task).compute(piece)

    def cost(self, piece: Piece) -> float:
        """Its layer-forwards, over all prompts of its task."""
        return self.of(piece.task).cost(piece)


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to compute the same as the process that keeps the ledger, and to know that it does."""

    model: str
    study: Study
    tasks: tuple[Task, ...]
    weight_hash: str
    versions: Mapping[str, str]

    def make(self) -> Callable[[], Compute]:
        """The setup of a worker, ready to be sent."""
        return partial(_set_up, self)


def loaded_for(study: Study, model: str) -> Loaded:
    """A study's model, as the study asks for it. Raises ModelError."""
    return load(model, dtype=study.dtype, device=study.device, device_map=study.device_map)


def _set_up(recipe: Recipe) -> Compute:
    """Load and check: another machine may hold another model or library under the same name."""
    here = versions()
    for name, wanted in recipe.versions.items():
        if here.get(name) != wanted:
            raise ResultsError(f"a worker has {name} {here.get(name)}, and the study {wanted}; install the same there")
    loaded = loaded_for(recipe.study, recipe.model)
    if loaded.weight_hash != recipe.weight_hash:
        raise ResultsError(
            f"a worker's {recipe.model} has the weights {loaded.weight_hash[:12]}…, and the study's "
            f"{recipe.weight_hash[:12]}…; put the same model there"
        )
    return Benches(loaded, recipe.tasks, recipe.study).compute
