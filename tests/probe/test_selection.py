"""Choosing, pruning and drawing edges, against definitions written out; the areas' known answers."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.analyses.selection import (
    SHARES,
    area,
    distance_area,
    edge_cells,
    edge_count,
    greedy_edges,
    prune,
    random_edges,
    random_heads,
    roc_auc,
    top_edges,
)
from probe.circuits.graph import INPUT, LOGITS, Graph, layer_of
from probe.circuits.mib import load_mib
from probe.errors import ResultsError

SMALL = Graph(2, 2)


def owner(target: str) -> str:
    """The part that a port belongs to."""
    return target.split("<")[0]


def pruned_by_hand(graph: Graph, keep: np.ndarray) -> np.ndarray:
    """Each edge tried alone: is there a walk from the input to its source, and from its target to the logits?"""
    edges = [(graph.sources[row], owner(graph.targets[column])) for row, column in np.argwhere(keep)]

    def walk(start: str, end: str) -> bool:
        seen, waiting = {start}, [start]
        while waiting:
            here = waiting.pop()
            for source, target in edges:
                if source == here and target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return end in seen

    found = np.zeros_like(keep)
    for row, column in np.argwhere(keep):
        target = owner(graph.targets[column])
        found[row, column] = walk(INPUT, graph.sources[row]) and walk(target, LOGITS)
    return found


def drawn(graph: Graph, share: float, seed: int) -> np.ndarray:
    return graph.possible & (np.random.default_rng(seed).random(graph.possible.shape) < share)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([0.02, 0.1, 0.3, 1.0]), st.booleans())
def test_pruning_keeps_the_edges_on_a_path(seed, share, parallel):
    graph = Graph(2, 2, parallel)
    keep = drawn(graph, share, seed)
    found = prune(graph, keep)
    assert np.array_equal(found, pruned_by_hand(graph, keep))
    assert np.array_equal(prune(graph, found), found)


def test_pruning_by_name():
    keep = np.zeros_like(SMALL.possible)

    def put(source: str, target: str) -> None:
        keep[SMALL.source(source), SMALL.target(target)] = True

    put("input", "a0.h0<v>")
    put("a0.h0", "a1.h1<q>")
    put("a1.h1", "m1")
    assert not prune(SMALL, keep).any(), "nothing reaches the logits"
    put("m1", "logits")
    assert prune(SMALL, keep).sum() == 4
    put("m0", "logits")  # m0 is not reached from the input
    put("input", "a1.h0<k>")  # a1.h0 is not seen by the logits
    assert prune(SMALL, keep).sum() == 4
    put("input", "logits")
    assert prune(SMALL, keep).sum() == 5


def test_all_edges_are_kept_and_layers_without_attention_are_passed():
    graph = Graph(3, 2, layers=(1,))
    assert np.array_equal(prune(graph, graph.possible), graph.possible)
    assert len(graph.heads) == 2


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(0, SMALL.n_edges), st.booleans())
def test_top_edges_are_the_highest(seed, count, absolute):
    # Few distinct values, so that ties are common.
    scores = np.random.default_rng(seed).integers(-3, 4, SMALL.possible.shape).astype(float)
    found = top_edges(SMALL, scores, count, absolute=absolute)
    places = [tuple(place) for place in np.argwhere(SMALL.possible)]
    value = {place: abs(scores[place]) if absolute else scores[place] for place in places}
    wanted = sorted(places, key=lambda place: (-value[place], place))[:count]
    assert sorted(map(tuple, np.argwhere(found))) == sorted(wanted)


def greedy_by_hand(graph: Graph, value: dict[tuple[str, str], float], count: int) -> set[tuple[str, str]]:
    """The best remaining edge into what is there, `count` times."""
    there, kept = {LOGITS}, set()
    for _ in range(count):
        open_edges = [edge for edge in value if owner(edge[1]) in there and edge not in kept]
        if not open_edges:
            break
        best = max(open_edges, key=lambda edge: value[edge])
        kept.add(best)
        there.add(best[0])
    return kept


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_greedy_edges_grow_from_the_logits(seed, absolute):
    scores = np.random.default_rng(seed).normal(size=SMALL.possible.shape)
    value = {
        (SMALL.sources[row], SMALL.targets[column]): abs(scores[row, column]) if absolute else scores[row, column]
        for row, column in np.argwhere(SMALL.possible)
    }
    for count in (0, 1, 3, 10, SMALL.n_edges):
        found = greedy_edges(SMALL, scores, count, absolute=absolute)
        names = {(SMALL.sources[row], SMALL.targets[column]) for row, column in np.argwhere(found)}
        assert names == greedy_by_hand(SMALL, value, count)
    assert np.array_equal(found, SMALL.possible)


def test_top_edges_may_be_cut_off_where_greedy_ones_are_not():
    scores = np.zeros(SMALL.possible.shape)
    scores[SMALL.source("input"), SMALL.target("a0.h0<q>")] = 2.0
    scores[SMALL.source("input"), SMALL.target("logits")] = 1.0
    assert prune(SMALL, top_edges(SMALL, scores, 1)).sum() == 0
    assert prune(SMALL, greedy_edges(SMALL, scores, 1)).sum() == 1


def test_the_published_circuit_is_its_800_strongest_edges_pruned(published):
    mib = load_mib(published / "mib" / "ioi-eap-ig.json")
    strongest = top_edges(mib.graph, mib.scores, 800, absolute=True)
    assert strongest.sum() == 800
    assert np.array_equal(prune(mib.graph, strongest), mib.kept)
    # Its edges are all on a path; a signed ranking of the same scores is another circuit.
    assert np.array_equal(prune(mib.graph, mib.kept), mib.kept)
    assert not np.array_equal(prune(mib.graph, top_edges(mib.graph, mib.scores, 800)), mib.kept)
    assert [edge_count(mib.graph, share) for share in SHARES] == [32, 64, 162, 324, 649, 1624, 3249, 6498, 16245, 32491]


def test_cells_are_pairs_of_layers():
    graph = Graph(3, 2)
    cells = edge_cells(graph)
    assert np.array_equal(cells >= 0, graph.possible)
    pair = {}
    for row, column in np.argwhere(graph.possible):
        source, target = graph.sources[row], graph.targets[column]
        layers = (
            -1 if source == INPUT else layer_of(source),
            graph.n_layers if target == LOGITS else layer_of(target),
        )
        assert pair.setdefault(cells[row, column], layers) == layers
    assert len(set(pair.values())) == len(pair)


def test_random_edges_have_as_many_in_every_cell_and_are_drawn_evenly():
    graph = Graph(3, 2)
    keep, cells = drawn(graph, 0.3, 1), edge_cells(graph)
    draws = [random_edges(graph, keep, seed) for seed in range(400)]
    for one in draws:
        assert not (one & ~graph.possible).any()
        assert Counter(cells[one].tolist()) == Counter(cells[keep].tolist())
    assert np.array_equal(draws[3], random_edges(graph, keep, 3))
    assert not np.array_equal(draws[3], draws[4])
    # Each edge of a cell of N with k kept is drawn with chance k/N: binomial over 400 draws, six standard errors
    # (a few hundred edges are looked at).
    often = np.mean(draws, axis=0)
    for cell in np.unique(cells[graph.possible]):
        inside = cells == cell
        chance = keep[inside].mean()
        assert (np.abs(often[inside] - chance) <= 6 * np.sqrt(chance * (1 - chance) / 400) + 1e-12).all()
    assert np.array_equal(random_edges(graph, graph.possible, 0), graph.possible)
    assert not random_edges(graph, np.zeros_like(keep), 0).any()


def test_random_heads_have_as_many_in_every_layer_and_are_drawn_evenly():
    graph = Graph(4, 5, layers=(0, 2, 3))
    heads = [(2, 1), (0, 4), (2, 0), (3, 3)]
    draws = [random_heads(graph, heads, seed) for seed in range(400)]
    for one in draws:
        assert Counter(layer for layer, _ in one) == Counter(layer for layer, _ in heads)
        assert list(one) == sorted(set(one))
    assert random_heads(graph, heads, 7) == draws[7]
    often = Counter(head for one in draws for head in one)
    for layer, chance in ((0, 0.2), (2, 0.4), (3, 0.2)):
        for head in range(5):
            assert abs(often[layer, head] / 400 - chance) < 6 * np.sqrt(chance * (1 - chance) / 400)
    assert random_heads(graph, [(0, head) for head in range(5)], 0) == tuple((0, head) for head in range(5))
    for wrong in ([(1, 0)], [(0, 5)], [(0, 1), (0, 1)]):
        with pytest.raises(ResultsError, match=r"is not in the graph, or listed twice"):
            random_heads(graph, wrong, 0)


def test_areas_have_their_known_answers():
    # METHODS section 0.
    assert area(SHARES, [1.0] * 10) == pytest.approx(0.999, abs=1e-15)
    assert distance_area(SHARES, [1.0] * 10) == 0
    assert area(SHARES, SHARES) == pytest.approx(0.4999995, abs=1e-15)
    assert distance_area(SHARES, SHARES) == pytest.approx(0.4990005, abs=1e-15)
    weights = [area(SHARES, row) for row in np.eye(10)]
    wanted = [0.0005, 0.002, 0.004, 0.0075, 0.02, 0.04, 0.075, 0.2, 0.4, 0.25]
    assert weights == pytest.approx(wanted, abs=1e-15)
    # A circuit better than its model counts above 1 for CPR and as a distance for CMD.
    assert area(SHARES, [1.5] * 10) > 1
    assert distance_area(SHARES, [1.5] * 10) == pytest.approx(distance_area(SHARES, [0.5] * 10))
    for sizes, values in (([0.1, 0.1], [1, 1]), ([0.2, 0.1], [1, 1]), ([0.1], [1]), ([0.1, 0.2], [1])):
        with pytest.raises(ResultsError, match="two or more rising sizes"):
            area(sizes, values)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_roc_area_is_the_share_of_pairs_in_order(rows):
    scores, members = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
    if members.all() or not members.any():
        with pytest.raises(ResultsError, match="wanted some and not all"):
            roc_auc(scores, members)
        return
    pairs = list(itertools.product(scores[members], scores[~members]))
    by_hand = sum((first > second) + (first == second) / 2 for first, second in pairs) / len(pairs)
    assert roc_auc(scores, members) == pytest.approx(by_hand, abs=1e-12)
    assert roc_auc(-scores, members) == pytest.approx(1 - by_hand, abs=1e-12)


def test_bad_input_is_refused():
    scores = np.zeros(SMALL.possible.shape)
    with pytest.raises(ResultsError, match="10000 edges of"):
        top_edges(SMALL, scores, 10_000)
    with pytest.raises(ResultsError, match=r"scores of shape \[2, 3\]"):
        greedy_edges(SMALL, np.zeros((2, 3)), 1)
    with pytest.raises(ResultsError, match="not finite"):
        top_edges(SMALL, np.where(SMALL.possible, np.nan, 0), 1)
    with pytest.raises(ResultsError, match="edges that the graph does not have"):
        prune(SMALL, np.ones_like(SMALL.possible))
    with pytest.raises(ResultsError, match="edges that the graph does not have"):
        random_edges(SMALL, SMALL.possible[:2], 0)
    with pytest.raises(ResultsError, match=r"share of 1\.2"):
        edge_count(SMALL, 1.2)
    with pytest.raises(ResultsError, match="not a number"):
        roc_auc(np.array([np.nan, 1.0]), np.array([True, False]))
    with pytest.raises(ResultsError, match="wanted one list of each"):
        roc_auc(np.zeros(3), np.array([True, False]))
