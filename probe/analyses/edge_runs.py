"""A task measured with nothing but a circuit's edges left: each circuit is run once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from probe.analyses.edge_circuit import edge_metric
from probe.analyses.graph_model import GraphModel
from probe.analyses.known import Known
from probe.models import Loaded
from probe.progress import Progress, silent
from probe.tasks.task import Task

KEPT_TOGETHER = 6
"""Circuits that are run before their results are handed over: what a stop can cost."""


class EdgeRuns:
    """What a task scores with every edge outside given circuits corrupted (`edge_circuit`).

    loaded, task, model: the model, its prompts, its graph. mode: `resample`, the one there is for edges. known:
    results of circuits that were run before, to which new ones are added as they come. circuits: how many were run.
    """

    def __init__(
        self, loaded: Loaded, task: Task, *, model: GraphModel | None = None, known: Known[str] | None = None
    ) -> None:
        self.loaded, self.task, self.mode = loaded, task, "resample"
        self.model = GraphModel(loaded) if model is None else model
        self.progress: Progress = silent
        self.circuits = 0
        self._known: Known[str] = {} if known is None else known

    def kept(self, sets: Sequence[Bool[np.ndarray, "S P"]]) -> Float[np.ndarray, "sets n"]:
        """The metric of every prompt with only each circuit's edges clean, float64."""
        keys = [edges_key(one) for one in sets]
        missing = {key: one for key, one in zip(keys, sets, strict=True) if key not in self._known}
        names = list(missing)
        for first in range(0, len(names), KEPT_TOGETHER):
            some = names[first : first + KEPT_TOGETHER]
            found = edge_metric(self.loaded, self.task, [missing[key] for key in some], model=self.model)
            for key, row in zip(some, found, strict=True):
                self._known[key] = row
            self.circuits += len(some)
            self.progress(first + len(some), len(names), f"{self.task.name}, circuits of edges")
        return np.stack([self._known[key] for key in keys])

    @property
    def clean(self) -> Float[np.ndarray, "n"]:
        """The metric with all edges clean: m(N)."""
        return np.asarray(self.kept([self._every])[0])

    @property
    def empty(self) -> Float[np.ndarray, "n"]:
        """The metric with no edge clean, that of the corrupted run: m(∅)."""
        return np.asarray(self.kept([~self._every])[0])

    @cached_property
    def _every(self) -> Bool[np.ndarray, "S P"]:
        return np.ones(self.model.graph.possible.shape, dtype=np.bool_)


def edges_key(keep: Bool[np.ndarray, "S P"]) -> str:
    """A name for a circuit that no other has: the SHA-256 of its bits and its shape."""
    return hashlib.sha256(f"{keep.shape}".encode() + np.packbits(keep).tobytes()).hexdigest()
