"""Edge attribution with integrated gradients as its package does it, written anew from METHODS 12.2: what we are
measured against.

One tensor [prompts, positions, sources, width] of what every source changes, for all prompts at once; every reader
has a copy of the stream of its own in every run; a gradient is multiplied with what came before as it arrives, in
every step. Kinder than the package in two things: gradients of the weights are not taken, and points of the path are
ours (midpoints), so that scores can be compared.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.graph_model import GraphModel
from probe.hooks.ports import Wiring
from probe.models import Loaded
from probe.tasks.metrics import measure
from probe.tasks.task import Task, clean_ids, corrupted_ids, metric_positions


def attribute_at_once(loaded: Loaded, task: Task, *, steps: int) -> Float[np.ndarray, "S P"]:
    """Mean score of every edge over the task's prompts, in our sign: positive where the task needs the edge."""
    model = GraphModel(loaded)
    ids, twins, positions = clean_ids(task.prompts), corrupted_ids(task.prompts), metric_positions(task.prompts)
    width = int(loaded.model.get_input_embeddings().weight.shape[1])  # type: ignore[index]
    dtype = loaded.model.dtype
    sources, targets = len(model.graph.sources), len(model.graph.targets)
    change = torch.zeros(*ids.shape, sources, width, dtype=dtype)
    with torch.no_grad():
        model.logits(twins, positions, _Differences(model, change, -1))
        corrupted = -change[:, :, 0]
        clean_logits = model.logits(ids, positions, _Differences(model, change, 1))
        clean = corrupted + change[:, :, 0]
    scores = torch.zeros(sources, targets, dtype=dtype)
    for step in range(steps):
        start = (corrupted + (step + 0.5) / steps * (clean - corrupted)).requires_grad_()
        with torch.enable_grad():
            logits = model.logits(ids, positions, _Products(model, start, change, scores))
            values = measure(logits, task.prompts, task.metric, clean=clean_logits)
            torch.autograd.grad(values.sum(), start)
    return np.asarray(scores.double().numpy()) / (steps * len(task.prompts))


class _Differences(Wiring):
    """Adds what every source writes, times `sign`, to `change` [n, T, S, d]."""

    def __init__(self, model: GraphModel, change: Tensor, sign: int) -> None:
        self._model, self._change, self._sign = model, change, sign

    def start(self, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
        self._change[:, :, 0] += self._sign * stream
        return stream

    def heads_wrote(self, layer: int, write: Callable[[], Float[Tensor, "H n T d"]]) -> None:
        self._change[:, :, self._model.heads_rows(layer)] += self._sign * write().permute(1, 2, 0, 3)

    def mlp_wrote(self, layer: int, write: Float[Tensor, "n T d"]) -> None:
        self._change[:, :, self._model.mlp_row(layer)] += self._sign * write


class _Products(Wiring):
    """Gives every reader its own copy of the stream, and multiplies its gradient with all changes before it."""

    def __init__(self, model: GraphModel, start: Tensor, change: Tensor, scores: Tensor) -> None:
        self._model, self._start, self._change, self._scores = model, start, change, scores

    def start(self, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
        return self._start

    def heads_read(self, layer: int, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "3 H n T d"]:
        columns = self._model.ports(layer)
        heads = self._model.graph.n_heads
        copies = stream.expand(3, heads, *stream.shape).clone()

        def told(grads: Tensor) -> None:
            for port, grad in enumerate(grads):
                self._multiply(slice(columns.start + port, columns.stop, 3), grad.permute(1, 2, 0, 3))

        copies.register_hook(told)  # type: ignore[no-untyped-call]
        return copies

    def mlp_reads(self, layer: int, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
        return self._watched(stream, self._model.mlp_column(layer))

    def logits_read(self, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
        return self._watched(stream, len(self._model.graph.targets) - 1)

    def _watched(self, stream: Tensor, column: int) -> Tensor:
        def told(grad: Tensor) -> None:
            self._multiply(slice(column, column + 1), grad[:, :, None])

        copy = stream.clone()
        copy.register_hook(told)  # type: ignore[no-untyped-call]
        return copy

    def _multiply(self, columns: slice, grads: Float[Tensor, "n T R d"]) -> None:
        before = self._model.before(columns.start)
        self._scores[:before, columns] += torch.einsum("ntsd,ntrd->sr", self._change[:, :, :before], grads)
