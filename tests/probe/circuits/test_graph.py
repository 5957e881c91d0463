"""Names, order and possible edges of a model's graph, against a count by hand and the published one."""

from __future__ import annotations

import numpy as np
import pytest

from probe.circuits.graph import Graph, head_node, head_of, layer_of
from probe.errors import ResultsError


def test_gpt2_small_has_the_published_number_of_edges():
    graph = Graph(12, 12)
    assert (len(graph.sources), len(graph.targets), graph.n_edges) == (157, 445, 32_491)


def test_edges_of_two_small_layers_by_hand():
    graph = Graph(2, 1)
    assert graph.sources == ("input", "a0.h0", "m0", "a1.h0", "m1")
    assert graph.targets == (
        "a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "a1.h0<q>", "a1.h0<k>", "a1.h0<v>", "m1", "logits",
    )  # fmt: skip
    before = [1, 1, 1, 2, 3, 3, 3, 4, 5]
    for column, count in enumerate(before):
        assert graph.possible[:, column].tolist() == [row < count for row in range(5)]


def test_attention_and_mlp_of_a_parallel_block_have_no_edge():
    graph = Graph(2, 2, parallel=True)
    assert not graph.possible[graph.source("a0.h1"), graph.target("m0")]
    assert not graph.possible[graph.source("m0"), graph.target("m0")]
    assert graph.possible[graph.source("a0.h1"), graph.target("a1.h0<k>")]
    assert graph.possible[graph.source("m1"), graph.target("logits")]
    # layer 0: 6 ports and an MLP read `input`; layer 1: 7 read 4 sources; logits read 7
    assert graph.n_edges == 7 + 7 * 4 + 7


def test_layers_without_attention_have_no_heads():
    graph = Graph(3, 2, layers=(1,))
    assert graph.heads == ("a1.h0", "a1.h1")
    assert graph.sources == ("input", "m0", "a1.h0", "a1.h1", "m1", "m2")


def test_inputs_of_a_source_are_its_own_ports():
    graph = Graph(2, 2)
    assert [graph.targets[column] for column in graph.inputs_of("a1.h1")] == ["a1.h1<q>", "a1.h1<k>", "a1.h1<v>"]
    assert [graph.targets[column] for column in graph.inputs_of("m0")] == ["m0"]
    assert graph.inputs_of("input") == ()


def test_names_are_read_back():
    assert (layer_of("a12.h3<k>"), layer_of("m7"), head_of("a12.h3<k>"), head_of("m7")) == (12, 7, (12, 3), None)
    assert head_of(head_node(4, 5)) == (4, 5)
    for name in ("logits", "input"):
        assert head_of(name) is None


@pytest.mark.parametrize("name", ["a1.h2<x>", "a01.h2", "A1.h2", "a1.h2<q> ", "m", ""])
def test_other_names_are_refused(name):
    graph = Graph(2, 3)
    with pytest.raises(ResultsError, match="node name"):
        layer_of(name)
    with pytest.raises(ResultsError, match="no source"):
        graph.source(name)


def test_a_head_beyond_the_model_is_refused():
    with pytest.raises(ResultsError, match=r"no target 'a2\.h0<q>' in a graph of 2 layers of 3 heads"):
        Graph(2, 3).target("a2.h0<q>")
    assert Graph(2, 3).possible.dtype == np.bool_
