"""How much two circuits of one model share, with the odds of sharing it by chance and the noise of their discovery.

Merullo, Eickhoff and Pavlick (2024) report 25 of 32 heads shared: that is |A ∩ B| / |A|, not Jaccard, with 2.67 of
32 to be expected of random sets in 384 heads (METHODS section 10).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.analyses.overlap_chance import Measure, relabelled, shared_in_cells
from probe.analyses.overlap_measures import RANK_BIASED, SPEARMAN, WEIGHTED_JACCARD
from probe.analyses.overlap_noise import Noise, member_mask, noise
from probe.analyses.selection import edge_cells
from probe.circuits.circuit import Circuit, PromptScores
from probe.circuits.graph import Graph, head_node
from probe.errors import ResultsError
from probe.formats import plain
from probe.statistics import RESAMPLES

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.hooks.heads import Head

DRAWS = 10_000
STEADY = 0.95
"""A circuit that shares less than this of its heads with itself over resamples is noted (see `Noise`)."""


@dataclass(frozen=True)
class RoleOverlap:
    """One role in both circuits ("": heads without one).

    size_a, size_b: heads that have it in each circuit. shared: heads that have it in both. elsewhere: heads that
    have it in one and are in the other circuit with another role.
    """

    role: str
    size_a: int
    size_b: int
    shared: int
    elsewhere: int


@dataclass(frozen=True)
class EdgeOverlap:
    """The edges of two edge circuits.

    shared: their number, beside random sets with each circuit's count between every two layers. The null treats
    edges as independent, which those of a circuit are not (they come in paths, many through one part): its p-value
    is too small by an unknown factor, and is a description rather than a test.
    """

    size_a: int
    size_b: int
    shared: Measure

    @property
    def jaccard(self) -> float:
        """|A ∩ B| / |A ∪ B|."""
        return self.shared.value / (self.size_a + self.size_b - self.shared.value)


@dataclass(frozen=True)
class Overlap:
    """What circuits A and B share.

    heads_a, heads_b: their head circuits, of `n_heads` heads in the model. count: the number shared, beside random
    sets with each circuit's heads per layer. expected_plain: |A||B| / n_heads, chance where layers do not matter.
    weighted_jaccard, rank_biased, spearman: of the scores of all heads, beside relabellings inside the layers.
    roles: by role. edges: of the edge circuits; None where a circuit has none. noise: over resampled prompts; None
    where their scores are not known. draws: of the null. notes: what the reader should know.
    """

    model: str
    task_a: str
    task_b: str
    n_heads: int
    heads_a: tuple[Head, ...]
    heads_b: tuple[Head, ...]
    count: Measure
    weighted_jaccard: Measure
    rank_biased: Measure
    spearman: Measure
    roles: tuple[RoleOverlap, ...]
    edges: EdgeOverlap | None
    noise: Noise | None
    draws: int
    seed: int
    notes: tuple[str, ...]

    @property
    def shared(self) -> tuple[Head, ...]:
        """The heads in both circuits, in graph order."""
        return tuple(head for head in self.heads_a if head in set(self.heads_b))

    @property
    def share_a(self) -> float:
        """|A ∩ B| / |A|."""
        return len(self.shared) / len(self.heads_a)

    @property
    def share_b(self) -> float:
        """|A ∩ B| / |B|."""
        return len(self.shared) / len(self.heads_b)

    @property
    def jaccard(self) -> float:
        """|A ∩ B| / |A ∪ B|."""
        return len(self.shared) / (len(self.heads_a) + len(self.heads_b) - len(self.shared))

    @property
    def expected_plain(self) -> float:
        """|A||B| / n: what two random sets of these sizes share, layers left out."""
        return plain_chance(len(self.heads_a), len(self.heads_b), self.n_heads)

    @property
    def p_value(self) -> float:
        """How often random sets with the same heads per layer share as many heads or more."""
        return self.count.p_value

    @property
    def sentence(self) -> str:
        """The finding in one sentence, with both denominators, chance and its odds."""
        n, a, b = len(self.shared), len(self.heads_a), len(self.heads_b)
        less = self.count.value < self.count.expected
        odds = f"p = {self.count.p_less:.2g} for so few" if less else f"p = {self.p_value:.2g}"
        spread = "" if self.noise is None else f"; {self.noise.low:g} to {self.noise.high:g} over resampled prompts"
        return (
            f"{self.task_a} and {self.task_b} share {n} {'head' if n == 1 else 'heads'}: {self.share_a:.0%} of "
            f"{self.task_a}'s {a} and {self.share_b:.0%} of {self.task_b}'s {b}, where chance with the same heads per "
            f"layer gives {self.count.expected:.2f} ({odds}){spread}."
        )

    def plot(self) -> go.Figure:
        """Every measure of what is shared, beside chance; `probe.plots.overlap_map` draws the heads themselves."""
        from probe.plots.beside import overlap_measures

        return overlap_measures(self)

    def json(self) -> dict[str, Any]:
        """Everything as strict JSON can hold it, flat where it is most read: `p_value`, `shared`, `expected`, ….

        What is not defined is null.
        """
        return dict(plain({**self._count_document(), **self._other_document()}))

    def _count_document(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "task_a": self.task_a,
            "task_b": self.task_b,
            "n_heads": self.n_heads,
            "size_a": len(self.heads_a),
            "size_b": len(self.heads_b),
            "shared": len(self.shared),
            "shared_heads": [head_node(*head) for head in self.shared],
            "share_a": self.share_a,
            "share_b": self.share_b,
            "jaccard": self.jaccard,
            "expected": self.count.expected,
            "expected_plain": self.expected_plain,
            "null_low": self.count.low,
            "null_high": self.count.high,
            "p_value": self.count.p_value,
            "p_less": self.count.p_less,
        }

    def _other_document(self) -> dict[str, Any]:
        edges = self.edges
        return {
            "weighted_jaccard": asdict(self.weighted_jaccard),
            "rank_biased": asdict(self.rank_biased),
            "spearman": asdict(self.spearman),
            "roles": [asdict(role) for role in self.roles],
            "edges": None if edges is None else {**asdict(edges), "jaccard": edges.jaccard},
            "noise": None if self.noise is None else {**asdict(self.noise), "bias": self.noise.bias},
            "draws": self.draws,
            "seed": self.seed,
            "sentence": self.sentence,
            "notes": list(self.notes),
        }


def overlap(
    a: Circuit,
    b: Circuit,
    *,
    draws: int = DRAWS,
    resamples: int = RESAMPLES,
    seed: int = 0,
    scores_a: PromptScores | None = None,
    scores_b: PromptScores | None = None,
) -> Overlap:
    """Compare two circuits of one model.

    draws: of the null. resamples: of the prompts, where the scores of both circuits' prompts are given. Equal inputs
    give equal results. Raises ResultsError for circuits of different models or shapes, for one without a head, and
    for fewer than one draw or resample.
    """
    _check(a, b, draws, resamples, seed)
    members_a, members_b = member_mask(a), member_mask(b)
    layers = np.repeat(np.arange(len(a.graph.attention)), a.n_heads)
    measures = {"weighted": WEIGHTED_JACCARD, "ranks": RANK_BIASED, "spearman": SPEARMAN}
    scores = relabelled(a.graph, a.head_scores, b.head_scores, measures, draws=draws, seed=seed)
    found = None
    if scores_a is not None and scores_b is not None:
        found = noise(a, b, scores_a, scores_b, resamples=resamples, seed=seed)
    return Overlap(
        model=a.model,
        task_a=a.task,
        task_b=b.task,
        n_heads=len(members_a),
        heads_a=a.heads,
        heads_b=b.heads,
        count=shared_in_cells(layers, members_a, members_b, draws=draws, seed=seed),
        weighted_jaccard=scores["weighted"],
        rank_biased=scores["ranks"],
        spearman=scores["spearman"],
        roles=_roles(a, b),
        edges=_edges(a, b, draws, seed),
        noise=found,
        draws=draws,
        seed=seed,
        notes=_notes(a, b, found),
    )


def plain_chance(a: int, b: int, n: int) -> float:
    """|A||B| / n, the mean number that random sets of a and b of n heads share: 2.67 for 32 and 32 of 384."""
    return a * b / n


def _check(a: Circuit, b: Circuit, draws: int, resamples: int, seed: int) -> None:
    if (a.model, a.graph) != (b.model, b.graph):
        shapes = [f"{one.model} with {one.n_layers} layers of {one.n_heads} heads" for one in (a, b)]
        raise ResultsError(f"circuits of {shapes[0]} and of {shapes[1]}; wanted two of one model")
    for one in (a, b):
        if not one.heads:
            raise ResultsError(f"the circuit of {one.task} holds no head, so there is nothing to share; find it first")
    if min(draws, resamples) < 1 or seed < 0:
        raise ResultsError(
            f"{draws} draws, {resamples} resamples, seed {seed}; wanted 1 or more of each, seed 0 or more"
        )


def _roles(a: Circuit, b: Circuit) -> tuple[RoleOverlap, ...]:
    mine = {head: a.node_of(head).role for head in a.heads}
    theirs = {head: b.node_of(head).role for head in b.heads}
    both = [(role, theirs[head]) for head, role in mine.items() if head in theirs]
    rows = []
    for role in sorted({*mine.values(), *theirs.values()}, key=lambda role: (not role, role)):
        shared = both.count((role, role))
        touched = sum(1 for pair in both if role in pair)
        size_a, size_b = (list(roles.values()).count(role) for roles in (mine, theirs))
        rows.append(RoleOverlap(role, size_a, size_b, shared, touched - shared))
    return tuple(rows)


def _edges(a: Circuit, b: Circuit, draws: int, seed: int) -> EdgeOverlap | None:
    possible = a.graph.possible
    one, other = (_edge_mask(circuit)[possible] for circuit in (a, b))
    if not one.any() or not other.any():
        return None
    measure = shared_in_cells(edge_cells(a.graph)[possible], one, other, draws=draws, seed=seed)
    return EdgeOverlap(int(one.sum()), int(other.sum()), measure)


def _edge_mask(circuit: Circuit) -> np.ndarray:
    graph: Graph = circuit.graph
    mask = np.zeros(graph.possible.shape, dtype=bool)
    for edge in circuit.edges:
        mask[graph.source(edge.source), graph.target(edge.target)] = edge.in_circuit
    return mask


def _notes(a: Circuit, b: Circuit, found: Noise | None) -> tuple[str, ...]:
    notes = [
        f"{what} differs: {one} for {a.task}, {other} for {b.task}"
        for what, one, other in (
            ("method", a.method, b.method),
            ("ablation", a.ablation, b.ablation),
            *(() if a.task != b.task else (("corruption", a.corruption, b.corruption), ("metric", a.metric, b.metric))),
            ("definitions", a.definitions, b.definitions),
        )
        if one != other
    ]
    if found is None:
        notes.append("no interval: the scores of every prompt are not there for both circuits")
        return tuple(notes)
    sides = ((a, found.kept_a, found.self_a), (b, found.kept_b, found.self_b))
    for circuit, kept, itself in sides:
        size = len(circuit.heads)
        if kept < size:
            notes.append(
                f"picked by the mean of its prompts' scores, {circuit.task}'s circuit holds {kept} of its {size} heads"
            )
        if itself < STEADY * size:
            notes.append(
                f"over resampled prompts {circuit.task}'s circuit shares {itself:.1f} of its {size} heads with itself: "
                "with less noise more may be shared than is seen, and more than the interval holds"
            )
    return tuple(notes)
