"""A model as a graph: what every source writes on given prompts, and runs in which readers read something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.circuits.graph import Graph
from probe.errors import TokensError
from probe.hooks.anatomy import Anatomy, anatomy
from probe.hooks.ports import Wiring, wired
from probe.models import Loaded
from probe.running import Running
from probe.tasks.evaluate import logits_at
from probe.tasks.metrics import measure
from probe.tasks.task import Prompt, Task, clean_ids, corrupted_ids, metric_positions

WRITE_BYTES = 256 << 20
"""What all sources write on the prompts of a batch may take; prompts are worked on in batches of this size."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A batch of prompts and what every source writes on them, clean and corrupted: [S, n, T, d], model's dtype."""

    prompts: tuple[Prompt, ...]
    rows: slice
    clean: Float[Tensor, "S n T d"]
    corrupted: Float[Tensor, "S n T d"]
    logits: Float[Tensor, "n K V"]

    @property
    def positions(self) -> Int[Tensor, "n K"]:
        """Where the prompts are judged."""
        return metric_positions(self.prompts)


class GraphModel:
    """A transformers decoder with its anatomy and its graph. Raises HookError for one that has none."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.model = loaded, loaded.model
        self.running = Running(loaded.model)
        self.parts: Anatomy = anatomy(loaded.model)
        self.graph = Graph(len(self.parts.blocks), self.running.n_heads, self.parts.parallel)
        self.port_count = 3 * self.graph.n_heads + 1

    def before(self, target: int) -> int:
        """How many sources have written before a target reads: the first so many of the graph's."""
        return int(self._before[target])

    def ports(self, layer: int) -> slice:
        """Columns of a layer's ports: head by head, q, k, v."""
        return slice(layer * self.port_count, (layer + 1) * self.port_count - 1)

    def mlp_column(self, layer: int) -> int:
        """Column of a layer's MLP as a reader."""
        return (layer + 1) * self.port_count - 1

    def heads_rows(self, layer: int) -> slice:
        """Rows of a layer's heads as writers."""
        first = 1 + layer * (self.graph.n_heads + 1)
        return slice(first, first + self.graph.n_heads)

    def mlp_row(self, layer: int) -> int:
        """Row of a layer's MLP as a writer."""
        return (layer + 1) * (self.graph.n_heads + 1)

    def logits(
        self, ids: Int[Tensor, "n T"], positions: Int[Tensor, "n K"], wiring: Wiring | None = None
    ) -> Float[Tensor, "n K V"]:
        """Logits at the judged positions of a run with that wiring (None: as the model is)."""
        with nullcontext() if wiring is None else wired(self.model, self.parts, wiring):
            return logits_at(self.model, ids, positions)

    def pairs(self, task: Task, prompts: tuple[Prompt, ...], *, share: float = 1.0) -> Iterator[Pair]:
        """The prompts in batches, with what every source writes on them; two forwards a batch.

        share: of `WRITE_BYTES`. Raises TokensError where prompts have no twins, or write the same as their twins.
        """
        if not prompts:
            raise TokensError(f"task {task.name}: no prompts chosen; wanted at least one")
        ids, twins = clean_ids(prompts), corrupted_ids(prompts)
        size = torch.finfo(self.model.dtype).bits // 8
        width = self.model.get_input_embeddings().weight.shape[1]  # type: ignore[index]
        step = max(1, int(share * WRITE_BYTES) // (len(self.graph.sources) * task.length * width * size))
        for first in range(0, len(prompts), step):
            rows = slice(first, min(first + step, len(prompts)))
            some = prompts[rows]
            positions = metric_positions(some)
            with torch.no_grad():
                clean, logits = self._writes(ids[rows], positions)
                corrupted, _ = self._writes(twins[rows], positions)
            same = [index for index in range(len(some)) if torch.equal(clean[:, index], corrupted[:, index])]
            if same:
                raise TokensError(
                    f"task {task.name}, prompt {first + same[0]}: the clean and the corrupted run are identical; "
                    "no edge carries a difference: wanted a corrupted twin that changes the model's run"
                )
            yield Pair(some, rows, clean, corrupted, logits)

    def _writes(
        self, ids: Int[Tensor, "n T"], positions: Int[Tensor, "n K"]
    ) -> tuple[Float[Tensor, "S n T d"], Float[Tensor, "n K V"]]:
        recorder = Recorder(self)
        logits = self.logits(ids, positions, recorder)
        return recorder.writes, logits

    @cached_property
    def _before(self) -> Int[np.ndarray, "P"]:
        return np.asarray(self.graph.possible.sum(0))


class Recorder(Wiring):
    """Keeps what every source writes, in `writes` [S, n, T, d]."""

    def __init__(self, model: GraphModel) -> None:
        self._model = model
        self.writes: Tensor = torch.empty(0)

    def start(self, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
        """Make room, and keep what `input` writes."""
        self.writes = stream.new_empty(len(self._model.graph.sources), *stream.shape)
        self.writes[0] = stream
        return stream

    def heads_wrote(self, layer: int, write: Callable[[], Float[Tensor, "H n T d"]]) -> None:
        """Keep it."""
        self.writes[self._model.heads_rows(layer)] = write()

    def mlp_wrote(self, layer: int, write: Float[Tensor, "n T d"]) -> None:
        """Keep it."""
        self.writes[self._model.mlp_row(layer)] = write


def judged(logits: Float[Tensor, "n K V"], pair: Pair, task: Task, copies: int = 1) -> Float[np.ndarray, "rows"]:
    """The task's metric of every row, float64; `copies` runs of the pair's prompts one after the other."""
    clean = pair.logits.repeat(copies, 1, 1) if task.metric == "neg_kl" else None
    values = measure(logits, list(pair.prompts) * copies, task.metric, clean=clean)
    return np.asarray(values.double().cpu().numpy())
