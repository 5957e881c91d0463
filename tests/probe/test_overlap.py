"""What two circuits share: the published arithmetic, sets counted by hand, roles, edges, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from probe.analyses.edge_attribution import attribute
from probe.analyses.overlap import overlap, plain_chance
from probe.analyses.selection import top_edges
from probe.circuits.circuit import Circuit, CircuitEdge, CircuitNode, PromptScores
from probe.circuits.graph import head_node, head_of
from probe.errors import ResultsError
from probe.models import load
from probe.planted.circuits import planted_circuits, planted_task, planted_truth
from probe.tasks.build import build

A, B = [(0, 1), (1, 0), (1, 1), (2, 3)], [(0, 1), (1, 1), (2, 0)]


@pytest.fixture
def pair(make_small_circuit):
    """Two circuits of 12 heads that share two: one of the same role, one of another."""
    roles = {(0, 1): "induction", (1, 1): "mover", (1, 0): "mover"}
    other = {(0, 1): "induction", (1, 1): "inhibition"}
    edges = [("input", "a0.h1<v>"), ("a0.h1", "a1.h1<k>"), ("a1.h1", "logits")]
    a = make_small_circuit(A, roles=roles, edges=edges)
    b = make_small_circuit(B, roles=other, edges=[*edges[:1], ("m0", "logits")], task="greater_than")
    return a, b


def test_sets_are_counted(pair):
    found = overlap(*pair, draws=500)
    assert found.shared == ((0, 1), (1, 1))
    assert (found.share_a, found.share_b, found.jaccard) == (2 / 4, 2 / 3, 2 / 5)
    # Per layer of four: 1·1, 2·1, 1·1.
    assert found.count.expected == (1 + 2 + 1) / 4
    assert found.expected_plain == 4 * 3 / 12
    assert (found.count.value, found.p_value) == (2, found.count.p_value)
    other = overlap(pair[1], pair[0], draws=500)
    assert (other.shared, other.share_a, other.share_b) == (found.shared, found.share_b, found.share_a)
    # Weights 1/4 and 1/3 each: common 2 · 1/4; the rest 2 · 1/4 + 2 · 1/3 + 1/3.
    assert found.weighted_jaccard.value == pytest.approx((2 / 4) / (2 / 4 + 3 / 3))


def test_the_published_overlap_is_arithmetic(make_small_circuit):
    # Merullo et al. (2024): 25 shared of 32, in 24 layers of 16 heads; random sets of 32 share 2.67 (8.3 %).
    heads = [(layer, head) for layer in range(8, 24) for head in range(4)]
    a = make_small_circuit(heads[:32], n_layers=24, n_heads=16)
    b = make_small_circuit(heads[7:39], n_layers=24, n_heads=16, task="colored_objects")
    found = overlap(a, b, draws=2_000)
    assert (len(found.shared), found.n_heads) == (25, 384)
    assert f"{found.share_a:.0%} {found.share_b:.0%}" == "78% 78%"
    assert found.expected_plain == plain_chance(32, 32, 384) == pytest.approx(2.6667, abs=1e-4)
    assert round(found.expected_plain / 32, 3) == 0.083
    # Six layers with four each of 16 heads and one with four and one: kept per layer, chance is more than twice that.
    assert found.count.expected == (6 * 4 * 4 + 4 * 1) / 16
    assert found.p_value == 1 / 2_001
    assert found.sentence == (
        "ioi and colored_objects share 25 heads: 78% of ioi's 32 and 78% of colored_objects's 32, where chance with "
        "the same heads per layer gives 6.25 (p = 0.0005)."
    )


def test_nothing_shared_is_nothing_found(make_small_circuit):
    a = make_small_circuit([(0, 0), (1, 0)])
    b = make_small_circuit([(0, 1), (1, 2)], task="greater_than")
    found = overlap(a, b, draws=999)
    assert (found.shared, found.share_a, found.jaccard, found.weighted_jaccard.value) == ((), 0, 0, 0)
    assert found.p_value == 1
    # Both layers miss: (3/4)².
    assert found.count.p_less == pytest.approx(9 / 16, abs=4 * np.sqrt(9 / 16 * 7 / 16 / 999))
    assert "share 0 heads: 0%" in found.sentence
    assert "for so few" in found.sentence


def test_roles_are_compared_head_by_head(pair):
    rows = {row.role: row for row in overlap(*pair, draws=9).roles}
    assert list(rows) == ["induction", "inhibition", "mover", ""]
    told = {role: (row.size_a, row.size_b, row.shared, row.elsewhere) for role, row in rows.items()}
    assert told == {"induction": (1, 1, 1, 0), "inhibition": (0, 1, 0, 1), "mover": (2, 0, 0, 1), "": (1, 1, 0, 0)}


def test_edges_are_compared_where_both_have_some(pair):
    a, b = pair
    edges = overlap(a, b, draws=2_000).edges
    assert (edges.size_a, edges.size_b, edges.shared.value) == (3, 2, 1)
    assert edges.jaccard == 1 / 4
    # Only the cell input → layer 0 holds edges of both: one of its 13 edges in each.
    assert edges.shared.expected == pytest.approx(1 / 13)
    assert overlap(a, replace(b, edges=()), draws=9).edges is None
    context = tuple(replace(edge, in_circuit=False) for edge in b.edges)
    assert overlap(a, replace(b, edges=context), draws=9).edges is None
    more = (*b.edges, CircuitEdge("a1.h1", "logits", 9.0, False))
    assert overlap(a, replace(b, edges=more), draws=2_000).edges == edges


def strong(circuit, prompts: int, seed: int) -> PromptScores:
    """Members far above the others for every prompt."""
    values = np.random.default_rng(seed).normal(size=(len(circuit.graph.sources), prompts))
    for row, name in enumerate(circuit.graph.sources):
        values[row] += 9 * (head_of(name) in circuit.heads)
    return PromptScores(values)


def test_prompts_give_an_interval(pair):
    a, b = pair
    found = overlap(a, b, draws=9, scores_a=strong(a, 5, 0), scores_b=strong(b, 5, 1))
    assert (found.noise.low, found.noise.high, found.noise.kept_a) == (2, 2, 4)
    assert found.sentence.endswith("; 2 to 2 over resampled prompts.")
    assert found.notes == ()
    alone = overlap(a, b, draws=9, scores_a=strong(a, 5, 0))
    assert alone.noise is None
    assert alone.notes == ("no interval: the scores of every prompt are not there for both circuits",)


def test_what_the_reader_should_know_is_noted(pair):
    a, b = pair
    scores = PromptScores(np.random.default_rng(0).normal(size=(16, 5)))
    found = overlap(a, replace(b, method="eap-ig"), draws=9, scores_a=scores, scores_b=strong(b, 5, 0))
    assert found.notes[0] == "method differs: eap for ioi, eap-ig for greater_than"
    assert any(
        note.startswith("picked by the mean of its prompts' scores, ioi's circuit holds") for note in found.notes
    )
    assert not any("greater_than's circuit" in note for note in found.notes)
    (note,) = (note for note in found.notes if note.startswith("over resampled prompts"))
    assert f"ioi's circuit shares {found.noise.self_a:.1f} of its 4 heads" in note
    assert found.noise.self_b == 3


def test_the_document_is_strict_and_repeats_itself(pair):
    a, b = pair
    scores = {"scores_a": strong(a, 5, 0), "scores_b": strong(b, 5, 1)}
    text = json.dumps(overlap(a, b, draws=200, seed=4, **scores).json(), allow_nan=False)
    assert text == json.dumps(overlap(a, b, draws=200, seed=4, **scores).json(), allow_nan=False)
    found = json.loads(text)
    assert (found["shared"], found["size_a"], found["size_b"], found["expected"]) == (2, 4, 3, 1.0)
    assert found["shared_heads"] == ["a0.h1", "a1.h1"]
    assert 0 < found["p_value"] <= 1
    assert found["edges"]["jaccard"] == 0.25
    assert found["noise"]["bias"] == 0
    flat = replace(a, nodes=tuple(replace(node, score=-1.0, low=-1.0, high=-1.0) for node in a.nodes))
    undefined = json.loads(json.dumps(overlap(flat, b, draws=9).json(), allow_nan=False))
    assert undefined["weighted_jaccard"]["value"] is None
    assert undefined["spearman"]["p_value"] is None
    assert undefined["p_value"] is not None


def test_circuits_that_cannot_be_compared(pair, make_small_circuit):
    a, b = pair
    wrong = [
        (replace(b, model="other"), "circuits of small with 3 layers of 4 heads and of other with 3 layers"),
        (make_small_circuit([(0, 0)], n_layers=4), "and of small with 4 layers of 4 heads; wanted two of one model"),
        (make_small_circuit([(0, 0)], n_heads=6), "3 layers of 6 heads"),
        (replace(b, parallel=True), "wanted two of one model"),
        (make_small_circuit([], task="mcq"), "the circuit of mcq holds no head"),
    ]
    for circuit, words in wrong:
        with pytest.raises(ResultsError, match=words):
            overlap(a, circuit, draws=9)
    with pytest.raises(ResultsError, match="0 draws, 2000 resamples, seed 0; wanted 1 or more"):
        overlap(a, b, draws=0)
    with pytest.raises(ResultsError, match="seed -1"):
        overlap(a, b, seed=-1)
    with pytest.raises(ResultsError, match="scores of greater_than have shape"):
        overlap(a, b, draws=9, scores_a=strong(a, 5, 0), scores_b=strong(b, 6, 0))


def found_circuit(name: str, loaded, task, size: int, *, absolute: bool = False, steps: int = 5):
    """The `size` best heads, and 100 best edges, of a task by attribution, with each prompt's scores."""
    scores = attribute(loaded, task, method="eap-ig", steps=steps)
    graph = scores.graph
    values = scores.nodes[[graph.source(name) for name in graph.heads]].mean(1)
    best = set(np.argsort(-(np.abs(values) if absolute else values), kind="stable")[:size].tolist())
    nodes = tuple(
        CircuitNode(name, value, value, value, row in best)
        for row, (name, value) in enumerate(zip(graph.heads, values.tolist(), strict=True))
    )
    edges = tuple(
        CircuitEdge(graph.sources[row], graph.targets[column], float(scores.edges[row, column]), True)
        for row, column in np.argwhere(top_edges(graph, scores.edges, 100))
    )
    circuit = Circuit(
        model=name, n_layers=graph.n_layers, n_heads=graph.n_heads, n_kv_heads=1, parallel=graph.parallel,
        layers=graph.layers, task=task.name, metric=task.metric, method="eap-ig", ablation="resample", corruption="own",
        prompts=len(task.prompts), prompts_sha256=task.name, seed=0, definitions="1", nodes=nodes, edges=edges,
    )  # fmt: skip
    return circuit, PromptScores(scores.nodes, task.groups)


@pytest.mark.parametrize("shared", range(5))
def test_planted_circuits_share_what_was_planted(shared):
    loaded = load(planted_circuits(shared))
    found, truths = [], [planted_truth(name, shared=shared) for name in ("recall", "translate")]
    for truth in truths:
        found.append(found_circuit("planted", loaded, planted_task(truth.task, prompts=16), len(truth.carriers)))
        assert found[-1][0].heads == truth.carriers
    (a, scores_a), (b, scores_b) = found
    told = overlap(a, b, scores_a=scores_a, scores_b=scores_b)
    both = set(truths[0].carriers) & set(truths[1].carriers)
    assert set(told.shared) == both
    assert told.noise.low <= len(both) <= told.noise.high
    # One head of eight in each of three layers: n shared have chance Σ_{k ≥ n} C(3, k) 7^(3−k) / 8³.
    chance = {0: 1.0, 1: 169 / 512, 2: 22 / 512, 3: 1 / 512}[len(both)]
    assert told.count.expected == 3 / 8
    assert abs(told.p_value - chance) < 4 * np.sqrt(chance * (1 - chance) / told.draws) + 1 / told.draws
    assert told.edges.shared.p_value < 0.05


@pytest.mark.parametrize("shared", [0, 2, 4])
def test_planted_heads_that_hurt_are_shared_too(shared):
    loaded = load(planted_circuits(shared))
    truths = [planted_truth(name, shared=shared) for name in ("recall", "translate")]
    found = [found_circuit("planted", loaded, planted_task(one.task, prompts=16), 4, absolute=True) for one in truths]
    assert [set(circuit.heads) for circuit, _ in found] == [set(truth.heads) for truth in truths]
    told = overlap(found[0][0], found[1][0], scores_a=found[0][1], scores_b=found[1][1], draws=99)
    assert (len(told.shared), told.noise.low, told.noise.high) == (shared,) * 3


@pytest.mark.real
def test_circuits_of_the_real_model():
    loaded = load("smollm2-135m")
    found = {
        name: found_circuit("smollm2", loaded, build(name, loaded, prompts=8, seed=0), 20, absolute=True, steps=1)
        for name in ("ioi", "greater_than")
    }
    (a, scores_a), (b, scores_b) = found.values()
    told = overlap(a, b, scores_a=scores_a, scores_b=scores_b)
    assert told.n_heads == 270
    assert (told.noise.kept_a, told.noise.kept_b) == (20, 20)
    assert told.noise.low <= told.noise.again <= 20
    again = overlap(a, a, scores_a=scores_a, scores_b=scores_a)
    assert (len(again.shared), again.noise.low, again.p_value) == (20, 20, 1 / 10_001)
    assert [head_node(*head) for head in a.heads] == [node.name for node in a.nodes if node.in_circuit]
