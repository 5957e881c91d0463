"""MIB's graph files: read, written byte for byte, and refused where they do not fit their graph."""

from __future__ import annotations

import json

import numpy as np
import pytest

from probe.circuits.graph import Graph
from probe.circuits.mib import MibGraph, load_mib, save_mib
from probe.errors import ResultsError


@pytest.fixture
def small():
    """Two layers of two heads with a score on every edge, some of them marked."""
    graph, rng = Graph(2, 2), np.random.default_rng(0)
    scores = np.where(graph.possible, rng.normal(size=graph.possible.shape), 0.0)
    return MibGraph(graph, 8, scores, graph.possible & (scores > 0.5), ("input", "a0.h1", "logits"))


def test_a_graph_comes_back_from_its_file(small, tmp_path):
    save_mib(small, tmp_path / "g.json")
    again = load_mib(tmp_path / "g.json")
    assert (again.graph, again.d_model, again.kept_nodes) == (small.graph, 8, small.kept_nodes)
    assert np.array_equal(again.scores, small.scores)
    assert np.array_equal(again.kept, small.kept)
    save_mib(again, tmp_path / "h.json")
    assert (tmp_path / "h.json").read_bytes() == (tmp_path / "g.json").read_bytes()


def test_the_file_has_the_other_sign(small, tmp_path):
    save_mib(small, tmp_path / "g.json")
    edge = json.loads((tmp_path / "g.json").read_text())["edges"]["a0.h1->a1.h0<k>"]
    place = small.graph.source("a0.h1"), small.graph.target("a1.h0<k>")
    assert edge["score"] == -small.scores[place]
    assert np.array_equal(load_mib(tmp_path / "g.json", sign=1).scores, -small.scores)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: d.pop("cfg"), "no object 'cfg'"),
        (lambda d: d["cfg"].pop("n_heads"), r"cfg\.n_heads: found None"),
        (lambda d: d["cfg"].update(n_layers=0), r"cfg\.n_layers: found 0"),
        (lambda d: d["cfg"].update(d_model=True), r"cfg\.d_model: found True"),
        (lambda d: d["cfg"].update(parallel_attn_mlp="no"), "found 'no'; wanted true or false"),
        (lambda d: d["cfg"].update(n_layers=10**6), "8 nodes for 1000000 layers"),
        (lambda d: d["nodes"].pop("m1"), "7 nodes for 2 layers of 2 heads"),
        (lambda d: d["nodes"].update(x=d["nodes"].pop("m1")), "no source 'x'"),
        (lambda d: d["nodes"].update(m1={}), "m1: in_graph None"),
        (lambda d: d["edges"].pop("m0->m1"), "edges; wanted each of"),
        (lambda d: d["edges"].update({"m1->m0": d["edges"].pop("m0->m1")}), "m1->m0 goes against the order .* cycle"),
        (lambda d: d["edges"].update({"m0>m1": d["edges"].pop("m0->m1")}), "wanted source->target"),
        (lambda d: d["edges"].update({"m0->m7": d["edges"].pop("m0->m1")}), "no target 'm7'"),
        (lambda d: d["edges"].update({"m0->m1": 1.0}), "m0->m1: score None"),
        (lambda d: d["edges"]["m0->m1"].update(score=True), "score True; wanted a finite number"),
        (lambda d: d["edges"]["m0->m1"].update(in_graph=1), "in_graph 1; wanted true or false"),
    ],
)
def test_files_that_do_not_fit_their_graph(small, tmp_path, spoil, words):
    path = tmp_path / "g.json"
    save_mib(small, path)
    found = json.loads(path.read_text())
    spoil(found)
    path.write_text(json.dumps(found))
    with pytest.raises(ResultsError, match=words) as told:
        load_mib(path)
    assert str(told.value).startswith(f"{path}: ")
    assert "\n" not in str(told.value)


def test_an_infinite_score_is_refused(small, tmp_path):
    save_mib(small, tmp_path / "g.json")
    text = (tmp_path / "g.json").read_text()
    first = json.loads(text)["edges"]["input->a0.h0<q>"]["score"]
    (tmp_path / "g.json").write_text(text.replace(str(first), "1e999", 1))
    with pytest.raises(ResultsError, match="score inf"):
        load_mib(tmp_path / "g.json")


def test_the_published_graph(published, tmp_path):
    path = published / "mib" / "ioi-eap-ig.json"
    mib = load_mib(path)
    assert (mib.graph, mib.d_model) == (Graph(12, 12), 768)
    assert mib.graph.n_edges == 32_491
    assert mib.kept.sum() == 756
    save_mib(mib, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    # METHODS 12.2: name movers write what helps, negative name movers what hurts.
    column = mib.graph.target("logits")
    score = {name: mib.scores[mib.graph.source(name), column] for name in ("a9.h9", "a9.h6", "a10.h7", "a11.h10")}
    wanted = {"a9.h9": 0.2815, "a9.h6": 0.130, "a10.h7": -0.1964, "a11.h10": -0.0915}
    assert score == pytest.approx(wanted, abs=5e-4), "the page gives three digits"
    # A node is marked where a marked edge touches it.
    touched = {mib.graph.sources[row] for row in np.nonzero(mib.kept.any(1))[0]} | {"logits"}
    assert set(mib.kept_nodes) == touched
