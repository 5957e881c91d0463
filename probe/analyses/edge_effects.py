"""The exact effect of an edge: one reader reads one source's corrupted write in place of its clean one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.graph_model import GraphModel, Pair, judged
from probe.circuits.graph import LOGITS, PORTS, head_of, layer_of
from probe.errors import TokensError
from probe.hooks.blocks import Prefix, record_prefix, resumed
from probe.hooks.ports import Wiring
from probe.models import Loaded
from probe.progress import Progress, silent
from probe.tasks.task import Task, clean_ids

Edge = tuple[str, str]
"""Names of a source and a target, as `probe.circuits.graph` has them."""

COPY_TOKENS = 1_536
"""Edges into one layer run side by side, in copies of the prompts of about this many tokens in all."""


def edge_effect(
    loaded: Loaded,
    task: Task,
    edges: Sequence[Edge],
    rows: slice = slice(None),
    *,
    model: GraphModel | None = None,
    progress: Progress = silent,
) -> Float[np.ndarray, "edges n"]:
    """clean − metric with that one edge corrupted, all others clean, for every prompt of prompts[rows]; float64.

    What the reader then writes differs and everything after it goes on live: the change of one edge as in ACDC's
    first step (METHODS 12.4, exact). What lies below the reader's layer is shared. Positive: the task needs the edge.
    The oracle of `edge_attribution`: one forward from the reader's layer on for each edge, so for chosen edges, or for
    all of a small graph. Raises ResultsError for a name that the graph does not have, TokensError for a pair of names
    without an edge, and as `attribute` does.
    """
    made = GraphModel(loaded) if model is None else model
    graph = made.graph
    places = [(graph.source(source), graph.target(target)) for source, target in edges]
    for (source, target), place in zip(edges, places, strict=True):
        if not graph.possible[place]:
            raise TokensError(f"no edge {source} -> {target}: {target} reads before {source} has written")
    prompts = task.prompts[rows]
    effects = np.zeros((len(edges), len(prompts)))
    by_layer: dict[int, list[int]] = {}
    for index, (_, target) in enumerate(edges):
        by_layer.setdefault(graph.n_layers - 1 if target == LOGITS else layer_of(target), []).append(index)
    done = 0
    for pair in made.pairs(task, prompts):
        ids = clean_ids(pair.prompts)
        with torch.no_grad():
            prefix, logits = record_prefix(made.model, partial(made.logits, ids, pair.positions))
        clean = judged(logits, pair, task)
        step = max(1, COPY_TOKENS // ids.numel())
        for layer, members in by_layer.items():
            for first in range(0, len(members), step):
                some = members[first : first + step]
                found = _patched(made, task, pair, prefix, layer, [edges[index] for index in some])
                effects[some, pair.rows] = clean - found
                done += len(some) * len(pair.prompts)
                progress(done, effects.size, f"{task.name}, exact edges")
    return effects


def _patched(
    model: GraphModel, task: Task, pair: Pair, prefix: Prefix, layer: int, edges: Sequence[Edge]
) -> Float[np.ndarray, "edges n"]:
    copies = len(edges)
    hidden = prefix.hidden[layer].repeat(copies, 1, 1)
    wiring = _Edges(model, pair, layer, edges)
    ids, positions = clean_ids(pair.prompts).repeat(copies, 1), pair.positions.repeat(copies, 1)
    with torch.no_grad(), resumed(model.model, prefix, layer, hidden):
        logits = model.logits(ids, positions, wiring)
    return judged(logits, pair, task, copies).reshape(copies, -1)


class _Edges(Wiring):
    """In copy i of the prompts, the target of edge i reads its source's corrupted write."""

    def __init__(self, model: GraphModel, pair: Pair, layer: int, edges: Sequence[Edge]) -> None:
        self._heads, self._layer, self._edges = model.graph.n_heads, layer, edges
        rows = [model.graph.source(source) for source, _ in edges]
        self._change = pair.corrupted[rows] - pair.clean[rows]  # [copies, n, T, d]

    def heads_read(self, layer: int, stream: Float[Tensor, "r T d"]) -> Float[Tensor, "3 H r T d"] | None:
        if layer != self._layer or all(head_of(target) is None for _, target in self._edges):
            return None
        read = stream.repeat(3, self._heads, 1, 1, 1).unflatten(2, (len(self._edges), -1))  # type: ignore[no-untyped-call]
        for copy, (_, target) in enumerate(self._edges):
            place = head_of(target)
            if place is not None:
                read[PORTS.index(target[-2]), place[1], copy] += self._change[copy]
        made: Tensor = read.flatten(2, 3)
        return made

    def mlp_reads(self, layer: int, stream: Float[Tensor, "r T d"]) -> Float[Tensor, "r T d"]:
        return self._changed(stream, f"m{layer}")

    def logits_read(self, stream: Float[Tensor, "r T d"]) -> Float[Tensor, "r T d"]:
        return self._changed(stream, LOGITS)

    def _changed(self, stream: Tensor, target: str) -> Tensor:
        own = torch.tensor([one == target for _, one in self._edges], device=stream.device)
        return stream + (self._change * own[:, None, None, None]).flatten(0, 1) if bool(own.any()) else stream
