"""A circuit: the heads and edges that a task runs on, their scores, how faithful they are, how it was found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from probe.circuits.graph import Graph, head_node, head_of
from probe.errors import ResultsError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.hooks.heads import Head

ARMS = ("heads", "edges", "edges_absolute", "random_heads", "random_edges")
"""What a point of the curve keeps: heads, or edges by signed or absolute score; as many random ones as each."""

_MOST_PAIRS = 2**30
"""Sources × targets that are taken on: the largest open models have 0.8 of it, and one byte is spent on each."""


@dataclass(frozen=True)
class CircuitNode:
    """A head, MLP or `input`.

    score, low, high: what its removal costs the task, in the metric's unit (positive: it helps), with the 95 %
        interval over prompts. in_circuit: whether it is in the head circuit. role: its job by measured behaviour,
        empty where none fits. evidence: the numbers behind the role.
    """

    name: str
    score: float
    low: float
    high: float
    in_circuit: bool
    role: str = ""
    evidence: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class CircuitEdge:
    """One edge, from a source to a target (a head's port, an MLP, `logits`); positive score: it helps the task."""

    source: str
    target: str
    score: float
    in_circuit: bool


@dataclass(frozen=True)
class CurvePoint:
    """How much of the task a part of the model does.

    arm: one of `ARMS`. size: number of heads, or share of all edges that was asked. count: how many there really
    were after pruning. faithfulness: (m(C) − m(∅)) / (m(N) − m(∅)), with its 95 % interval.
    """

    arm: str
    size: float
    count: int
    faithfulness: float
    low: float
    high: float


@dataclass(frozen=True)
class PromptScores:
    """Node scores of every prompt, from which the noise of a circuit's discovery is drawn.

    values: [sources, prompts] float64, rows in the order of the graph's sources. groups: one label a prompt; prompts
    of one label are resampled together (None: each stands for itself).
    """

    values: Float[np.ndarray, "S N"]
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Circuit:
    """What a task runs on in one model.

    Two grains, found separately: `nodes[].in_circuit` is the head circuit, `edges[].in_circuit` the edge circuit; an
    edge may touch a head outside the head circuit.

    model: its name. n_layers, n_heads, n_kv_heads: its shape. parallel: attention and MLP of a block read the same
    stream. layers: those that have attention (None: all). task, metric: what was measured. method: how scores were
    found. ablation, corruption: what stood in a part's place, and how the corrupted twins were made. prompts: their
    number; prompts_sha256: of their ids. seed: of everything drawn. definitions: version of the formulas.
    nodes: all heads in graph order; MLPs and `input` may follow. edges: those of the circuit, and the strongest
    others as context. curve: faithfulness by size. summary: single numbers (cpr, cmd, m_clean, m_corrupted, …).
    notes: what the reader should know, in words.
    """

    model: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    parallel: bool
    layers: tuple[int, ...] | None
    task: str
    metric: str
    method: str
    ablation: str
    corruption: str
    prompts: int
    prompts_sha256: str
    seed: int
    definitions: str
    nodes: tuple[CircuitNode, ...]
    edges: tuple[CircuitEdge, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    summary: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ResultsError, in one line, for parts that no circuit of such a model can have."""
        self._check_shape()
        self._check_nodes()
        self._check_edges()
        self._check_curve()
        for name, value in self.summary.items():
            _check_finite(f"summary {name!r}", {"value": value})

    @cached_property
    def graph(self) -> Graph:
        """The model's graph, in which the nodes and edges lie."""
        return Graph(self.n_layers, self.n_heads, self.parallel, self.layers)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads of the head circuit, in graph order."""
        found = (head_of(node.name) for node in self.nodes if node.in_circuit)
        return tuple(head for head in found if head is not None)

    @cached_property
    def head_scores(self) -> Float[np.ndarray, "heads"]:
        """Scores of all heads in graph order, float64."""
        return np.array([node.score for node in self.nodes[: len(self.graph.heads)]], dtype=np.float64)

    def score_of(self, head: Head) -> float:
        """The score of a head, in the circuit or not. Raises ResultsError for a head that the model does not have."""
        return self.node_of(head).score

    def node_of(self, head: Head) -> CircuitNode:
        """The node of a head. Raises ResultsError for a head that the model does not have."""
        name = head_node(*head)
        if name not in self._rows:
            raise ResultsError(f"no head {name} in {self.model}, which has {self.n_layers} layers of {self.n_heads}")
        return self.nodes[self._rows[name]]

    def plot(self) -> go.Figure:
        """The circuit as a layered graph (see `plots_circuit.circuit_graph`)."""
        from probe.plots.circuit import circuit_graph

        return circuit_graph(self)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {node.name: row for row, node in enumerate(self.nodes)}

    @property
    def _where(self) -> str:
        return f"circuit of {self.task} in {self.model}"

    def _check_shape(self) -> None:
        if self.prompts < 1:
            raise ResultsError(f"{self._where}: found on {self.prompts} prompts; wanted 1 or more")
        if min(self.n_layers, self.n_heads, self.n_kv_heads) < 1 or self.n_heads % self.n_kv_heads:
            raise ResultsError(
                f"{self._where}: {self.n_layers} layers of {self.n_heads} heads on {self.n_kv_heads} key/value heads; "
                "wanted 1 or more of each, and heads that share key/value heads evenly"
            )
        if self.layers is not None and (
            any(not 0 <= layer < self.n_layers for layer in self.layers) or list(self.layers) != sorted({*self.layers})
        ):
            raise ResultsError(
                f"{self._where}: attention in layers {list(self.layers)}; wanted some of 0 to {self.n_layers - 1}, "
                "ascending"
            )
        heads = self.n_heads * (self.n_layers if self.layers is None else len(self.layers))
        if (heads + self.n_layers) * (3 * heads + self.n_layers) > _MOST_PAIRS:
            raise ResultsError(
                f"{self._where}: {self.n_layers} layers of {self.n_heads} heads are more than can be held"
            )

    def _check_nodes(self) -> None:
        names = [node.name for node in self.nodes]
        _check_once(f"{self._where}: node", names)
        for node in self.nodes:
            self.graph.source(node.name)
            where = f"{self._where}: node {node.name}"
            numbers = {key: value for key, value in node.evidence.items() if not isinstance(value, str)}
            _check_finite(where, {"score": node.score, "low": node.low, "high": node.high, **numbers})
            _check_interval(where, node.low, node.high)
        heads = self.graph.heads
        if tuple(names[: len(heads)]) != heads:
            missing = next((head for head in heads if head not in set(names)), None)
            found = f"no node {missing}" if missing else "nodes out of order"
            raise ResultsError(f"{self._where}: {found}; wanted all {len(heads)} heads first, layer by layer")

    def _check_edges(self) -> None:
        _check_once(f"{self._where}: edge", [f"{edge.source}->{edge.target}" for edge in self.edges])
        for edge in self.edges:
            where = f"{self._where}: edge {edge.source}->{edge.target}"
            if not self.graph.possible[self.graph.source(edge.source), self.graph.target(edge.target)]:
                raise ResultsError(
                    f"{where} goes against the order of the model (with the stream it makes a cycle); "
                    "wanted a source that writes before its target reads"
                )
            _check_finite(where, {"score": edge.score})

    def _check_curve(self) -> None:
        for point in self.curve:
            where = f"{self._where}: curve point {point.arm} at {point.size}"
            if point.arm not in ARMS:
                raise ResultsError(f"{where}: unknown arm; wanted one of {', '.join(ARMS)}")
            numbers = {"size": point.size, "faithfulness": point.faithfulness, "low": point.low, "high": point.high}
            _check_finite(where, numbers)
            _check_interval(where, point.low, point.high)


def _check_once(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ResultsError(f"{what} {name} is listed twice; wanted each once")
        seen.add(name)


def _check_finite(where: str, numbers: Mapping[str, float]) -> None:
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ResultsError(f"{where}: {name} is {value}; wanted a finite number (two or more prompts give one)")


def _check_interval(where: str, low: float, high: float) -> None:
    if low > high:
        raise ResultsError(f"{where}: interval from {low:g} to {high:g}; wanted low ≤ high")
