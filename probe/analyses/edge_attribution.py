"""What every edge is worth, from gradients: EAP and EAP-IG, for all edges of a model at once.

s(u -> v) = <a_u(x) - a_u(x'), d metric / d in_v>, summed over positions, averaged over prompts: a_u is what u writes
to the residual stream, in_v the stream as v reads it, before v's norm. EAP (Syed et al. 2023, arXiv 2310.10348) takes
the gradient in the clean run; EAP-IG (Hanna et al. 2024, arXiv 2403.17806, section 3.1) its mean over runs from
embeddings on the straight path from the twin's to the prompt's.

Deviations from the papers' code: the sign is METRICS' (positive: the task needs the edge; MIB's golden file has the
other); a metric is summed over prompts, never averaged, so that scores do not depend on the batch; sums over prompts
are float64 whatever the model's dtype; points of the path are midpoints (the code takes left ends), whose error falls
with the square of the steps; keys and values have a port for every query head under grouped-query attention; behind a
norm that follows a sublayer, heads write their share at that norm's scale in the same run. The tensor of all sources'
writes, and that of all readers' gradients, are made for a batch of prompts at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.graph_model import GraphModel, Pair
from probe.analyses.head_gradients import check_gradient
from probe.analyses.integrated import POINTS
from probe.circuits.graph import Graph
from probe.errors import TokensError
from probe.hooks.ports import PortGradients, Wiring
from probe.models import Loaded
from probe.progress import Progress, silent
from probe.tasks.metrics import measure
from probe.tasks.task import Task, clean_ids

if TYPE_CHECKING:
    import plotly.graph_objects as go

EDGE_METHODS = ("eap", "eap-ig")

BATCH_SHARE = 0.25
"""Of `WRITE_BYTES` for one run's writes: gradients at all readers take about three times as much beside them."""


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """What every edge and every source is worth.

    edges: [S, P] mean over prompts, in the metric's unit, positive where the task needs the edge; 0 where there can be
    none. error: its standard error (NaN of one prompt). nodes: [S, N] of every source and prompt, the sum over its
    outgoing edges, which is <a_u(x) - a_u(x'), d metric / d a_u>. layer_forwards: one is one block run over all
    prompts, a backward through it counts 2.
    """

    graph: Graph
    edges: Float[np.ndarray, "S P"]
    error: Float[np.ndarray, "S P"]
    nodes: Float[np.ndarray, "S N"]
    method: str
    layer_forwards: float

    def plot(self) -> go.Figure:
        """What every head is worth, all its outgoing edges together, as a map."""
        from probe.plots.sources import scores_map

        return scores_map(self)

    def tied(self, n_kv_heads: int) -> Float[np.ndarray, "S P"]:
        """`edges` with the key ports, and the value ports, of the query heads that share a key/value head summed.

        In the model these ports are one: to first order an edge into it is worth what all of them are.
        """
        heads, layers = self.graph.n_heads, self.graph.n_layers
        tied = self.edges.copy()
        ports = tied[:, :-1].reshape(len(tied), layers, 3 * heads + 1)[:, :, :-1]
        grouped = ports.reshape(len(tied), layers, n_kv_heads, heads // n_kv_heads, 3)
        total = grouped.copy()
        total[..., 1:] = grouped[..., 1:].sum(3, keepdims=True)
        wide = tied[:, :-1].reshape(len(tied), layers, 3 * heads + 1)
        wide[:, :, :-1] = total.reshape(ports.shape)
        return tied


def attribute(
    loaded: Loaded,
    task: Task,
    *,
    method: str = "eap-ig",
    steps: int = 5,
    points: str = "midpoint",
    rows: slice = slice(None),
    model: GraphModel | None = None,
    progress: Progress = silent,
) -> EdgeScores:
    """Scores of all edges on prompts[rows] by `eap` or `eap-ig`.

    steps, points: of the path, for eap-ig: "midpoint", "left" (as published for edges) or "right". Costs two forwards
    and, for each step, one forward and one backward. model: the graph of `loaded`, where it is at hand.
    Raises TokensError for an unknown method, prompts without twins or with twins that change nothing, and a metric
    without a gradient; HookError for a model whose parts cannot be told apart.
    """
    if method not in EDGE_METHODS:
        raise TokensError(f"method {method!r}; wanted one of {', '.join(EDGE_METHODS)}")
    if steps < 1 or points not in POINTS:
        raise TokensError(f"{steps} steps at {points!r} points; wanted 1 or more at {', '.join(POINTS)}")
    check_gradient(task, method, at_clean=method == "eap")
    made = GraphModel(loaded) if model is None else model
    graph, prompts = made.graph, task.prompts[rows]
    shares = [1.0] if method == "eap" else [(step + POINTS[points]) / steps for step in range(steps)]
    shape = (len(graph.sources), len(graph.targets))
    total, squares, nodes = np.zeros(shape), np.zeros(shape), np.zeros((shape[0], len(prompts)))
    done = 0
    for pair in made.pairs(task, prompts, share=BATCH_SHARE):
        scores = _scores(made, task, pair, shares).double().cpu().numpy()
        total += scores.sum(0)
        squares += (scores**2).sum(0)
        nodes[:, pair.rows] = scores.sum(2).T
        done += len(pair.prompts)
        progress(done, len(prompts), f"{task.name}, {method}")
    mean = total / len(prompts)
    spread = np.maximum(squares / len(prompts) - mean**2, 0.0)
    error = np.sqrt(spread / (len(prompts) - 1)) if len(prompts) > 1 else np.full(shape, np.nan)
    cost = graph.n_layers * (2 + 3 * len(shares)) * len(prompts) / len(task.prompts)
    return EdgeScores(graph, mean, error, nodes, method, cost)


def _scores(model: GraphModel, task: Task, pair: Pair, shares: list[float]) -> Float[Tensor, "n S P"]:
    """Every edge of every prompt of a batch; the gradient is the mean over the points of the path."""
    ids = clean_ids(pair.prompts)
    wiring = _Gradients(model, pair)
    for share in shares:
        wiring.share = share
        with torch.enable_grad():
            logits = model.logits(ids, pair.positions, wiring)
            values = measure(logits, pair.prompts, task.metric, clean=pair.logits)
            torch.autograd.grad(values.sum(), wiring.leaf)
    return wiring.scores() / len(shares)


class _Gradients(Wiring):
    """Sums the gradient at every reader over the runs, and multiplies it with what every source before it changes.

    share: where on the path from the corrupted (0) to the clean (1) embeddings the next run is. Sums are kept, and
    multiplied once at the end, since a product per run and port would read all sources' writes anew each time.
    """

    def __init__(self, model: GraphModel, pair: Pair) -> None:
        self._model, self._pair = model, pair
        _, prompts, length, width = pair.clean.shape
        self._sums = pair.clean.new_zeros(len(model.graph.targets), prompts, length, width)
        self.share, self.leaf = 1.0, torch.empty(0)

    def start(self, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
        corrupted, clean = self._pair.corrupted[0], self._pair.clean[0]
        self.leaf = (corrupted + self.share * (clean - corrupted)).requires_grad_()
        return self.leaf

    def gradients(self) -> PortGradients:
        def told(layer: int, port: int, grads: Float[Tensor, "H n T d"]) -> None:
            ports = self._model.ports(layer)
            self._sums[ports.start + port : ports.stop : 3] += grads

        return told

    def mlp_reads(self, layer: int, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
        return self._watched(stream, self._model.mlp_column(layer))

    def logits_read(self, stream: Float[Tensor, "n T d"]) -> Float[Tensor, "n T d"]:
        return self._watched(stream, len(self._model.graph.targets) - 1)

    def _watched(self, stream: Tensor, column: int) -> Tensor:
        def told(grad: Tensor) -> None:  # a hook that returned something would change the gradient
            self._sums[column] += grad

        read = stream.view_as(stream)
        read.register_hook(told)  # type: ignore[no-untyped-call]
        return read

    def scores(self) -> Float[Tensor, "n S P"]:
        """Every edge of every prompt, of the summed gradients."""
        change = (self._pair.clean - self._pair.corrupted).transpose(0, 1).flatten(2)
        found = change.new_zeros(*change.shape[:2], len(self._sums))
        for layer in range(self._model.graph.n_layers):
            ports, mlp = self._model.ports(layer), self._model.mlp_column(layer)
            for columns in (ports, slice(mlp, mlp + 1)):
                self._multiply(change, columns, found)
        self._multiply(change, slice(len(self._sums) - 1, None), found)
        return found

    def _multiply(self, change: Float[Tensor, "n S Td"], columns: slice, found: Float[Tensor, "n S P"]) -> None:
        sources = self._model.before(columns.start)
        for index, own in enumerate(change):
            found[index, :sources, columns] = own[:sources] @ self._sums[columns, index].flatten(1).T
