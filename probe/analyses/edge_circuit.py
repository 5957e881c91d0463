"""How a task goes when only some edges carry the prompt, and all others what they carry on its corrupted twin.

Every reader reads the live stream with, in the place of each dropped source's write, the same source's write in the
corrupted run (METHODS 12.6). Kept edges carry live writes: what a source makes of what it was given to read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.analyses.graph_model import GraphModel, Pair, judged
from probe.errors import TokensError
from probe.hooks.ports import Wiring
from probe.models import Loaded
from probe.progress import Progress, silent
from probe.tasks.task import Task, clean_ids


def edge_metric(
    loaded: Loaded,
    task: Task,
    keep: Bool[np.ndarray, "S P"] | Sequence[Bool[np.ndarray, "S P"]],
    rows: slice = slice(None),
    *,
    model: GraphModel | None = None,
    progress: Progress = silent,
) -> Float[np.ndarray, "*circuits n"]:
    """The task's metric of prompts[rows] with every edge outside `keep` corrupted; of several circuits [circuits, n].

    Nothing kept: the metric of the corrupted run under the clean prompt's answers; all kept: that of the clean run.
    float64. One circuit costs one to three forwards, the more the more of its ports differ; the two runs that tell
    what sources write are shared by all circuits. Raises TokensError for a `keep` of another shape, and as `attribute`.
    """
    made = GraphModel(loaded) if model is None else model
    several = not isinstance(keep, np.ndarray)
    circuits = list(keep) if several else [np.asarray(keep)]
    shape = made.graph.possible.shape
    for circuit in circuits:
        if circuit.shape != shape or circuit.dtype != np.bool_:
            raise TokensError(f"a circuit of {circuit.dtype} {list(circuit.shape)}; wanted bool {list(shape)}")
    prompts = task.prompts[rows]
    found = np.zeros((len(circuits), len(prompts)))
    done = 0
    for pair in made.pairs(task, prompts, share=0.5):
        ids = clean_ids(pair.prompts)
        for index, circuit in enumerate(circuits):
            with torch.no_grad():
                logits = made.logits(ids, pair.positions, _Circuit(made, pair, circuit))
            found[index, pair.rows] = judged(logits, pair, task)
            done += len(pair.prompts)
            progress(done, found.size, f"{task.name}, circuits")
    return found if several else found[0]


class _Circuit(Wiring):
    """Readers read corrupted writes of the sources whose edge to them is dropped."""

    def __init__(self, model: GraphModel, pair: Pair, keep: Bool[np.ndarray, "S P"]) -> None:
        self._model, self._pair = model, pair
        dropped = torch.from_numpy(model.graph.possible & ~keep)
        self._dropped = dropped.to(pair.corrupted.device, pair.corrupted.dtype)
        self._change = torch.zeros_like(pair.corrupted)  # corrupted − live, filled as sources write

    def start(self, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
        self._change[0] = self._pair.corrupted[0] - stream
        return stream

    def heads_read(self, layer: int, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "3 H n T d"] | None:
        missing = self._missing(self._model.ports(layer), stream)
        if missing is None:
            return None
        made: Tensor = stream + missing.view(-1, 3, *stream.shape).transpose(0, 1)
        return made

    def heads_wrote(self, layer: int, write: Callable[[], Float[Tensor, "H n T d"]]) -> None:
        rows = self._model.heads_rows(layer)
        self._change[rows] = self._pair.corrupted[rows] - write()

    def mlp_reads(self, layer: int, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
        return self._one(self._model.mlp_column(layer), stream)

    def mlp_wrote(self, layer: int, write: Float[Tensor, "n T d"]) -> None:
        row = self._model.mlp_row(layer)
        self._change[row] = self._pair.corrupted[row] - write

    def logits_read(self, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
        return self._one(len(self._model.graph.targets) - 1, stream)

    def _one(self, column: int, stream: Tensor) -> Tensor:
        missing = self._missing(slice(column, column + 1), stream)
        return stream if missing is None else stream + missing.view_as(stream)

    def _missing(self, columns: slice, stream: Tensor) -> Float[Tensor, "p n*T*d"] | None:
        """What the dropped edges into these targets change of what they read; None: no edge is dropped."""
        sources = self._model.before(columns.start)
        dropped = self._dropped[:sources, columns]
        if not bool(dropped.any()):
            return None
        return dropped.T @ self._change[:sources].flatten(1)
