"""Circuit files: what is written is read back, equal circuits are equal bytes, and nothing else is taken."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe import strict
from probe.circuits import files as circuit_files
from probe.circuits.circuit import CircuitEdge, CircuitNode, CurvePoint, PromptScores
from probe.circuits.files import document, load, load_scores, save, scores_path
from probe.errors import ResultsError
from probe.formats import parquet, read_parquet


@pytest.fixture
def full(make_small_circuit):
    """A circuit with something in every field, texts that are hard to write among them."""
    circuit = make_small_circuit(roles={(0, 1): "induction"}, layers=(0, 1, 2))
    node = CircuitNode("m1", 1 / 3, -1e-300, 1e300, False, "</script>\u2028é", {"copy score": 0.5, "seen": "\x00 “x”"})
    return replace(
        circuit,
        nodes=(*circuit.nodes, node),
        edges=(CircuitEdge("input", "a1.h2<k>", -0.1, True), CircuitEdge("m0", "logits", 0.2, False)),
        curve=(CurvePoint("edges", 0.001, 3, 0.25, 0.0, 0.5), CurvePoint("random_heads", 2, 2, 0.1, 0.1, 0.1)),
        summary={"cpr": 0.9, "m_clean": 4.5},
        notes=("one", "two\n"),
    )


@pytest.fixture
def written(full, tmp_path):
    """Where it lies, and what its JSON says."""
    path = tmp_path / "circuit.json"
    save(full, path)
    return path, json.loads(path.read_text())


def test_what_is_saved_is_loaded_and_saved_again_byte_for_byte(full, written, tmp_path):
    path, _ = written
    again = load(path)
    assert again == full
    save(again, tmp_path / "again" / "circuit.json")
    assert (tmp_path / "again" / "circuit.json").read_bytes() == path.read_bytes()
    assert sorted(part.name for part in tmp_path.iterdir()) == ["again", "circuit.json"], "a temporary file is left"


def test_equal_circuits_are_equal_bytes_whatever_holds_their_numbers(full, written, tmp_path):
    path, _ = written
    edges = (replace(full.edges[0], score=np.float64(-0.1)), full.edges[1])
    curve = (replace(full.curve[0], low=-0.0, count=np.int64(3)), replace(full.curve[1], size=2.0))
    summary = dict(reversed(full.summary.items()))
    other = replace(full, prompts=np.int64(5), edges=edges, curve=curve, summary=summary)
    assert other == full
    save(other, tmp_path / "other.json")
    assert (tmp_path / "other.json").read_bytes() == path.read_bytes()


def test_names_are_those_of_the_contract(written):
    _, found = written
    assert {"model", "n_layers", "n_heads", "n_kv_heads", "task", "method", "ablation", "corruption", "prompts_sha256",
            "seed", "definitions", "nodes", "edges", "curve"} <= set(found)  # fmt: skip
    assert set(found["nodes"][0]) == {"name", "score", "low", "high", "in_circuit", "role", "evidence"}
    assert set(found["edges"][0]) == {"source", "target", "score", "in_circuit"}
    assert {"size", "faithfulness", "low", "high"} <= set(found["curve"][0])


def put(found, *keys_and_value):
    """Set a value deep inside."""
    *keys, last, value = keys_and_value
    for key in keys:
        found = found[key]
    found[last] = value


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: d.pop("seed"), "circuit: no field 'seed'"),
        (lambda d: d["nodes"][3].pop("low"), r"nodes\[3\]: no field 'low'"),
        (lambda d: put(d, "sede", 1), "circuit: unknown field 'sede'"),
        (lambda d: put(d, "edges", 1, "port", "q"), r"edges\[1\]: unknown field 'port'"),
        (lambda d: put(d, "nodes", 0, "name", "a7.h0"), r"no source 'a7\.h0'"),
        (lambda d: put(d, "nodes", 0, "name", 7), r"nodes\[0\]: name: found 7; wanted a text"),
        (lambda d: put(d, "nodes", 0, "score", True), "score: found True; wanted a finite number"),
        (lambda d: put(d, "nodes", 0, "score", "1"), "score: found '1'"),
        (lambda d: put(d, "nodes", 0, "score", None), "score: found None"),
        (lambda d: put(d, "nodes", 0, "score", 10**400), "score: found 1000"),
        (lambda d: put(d, "nodes", 0, "in_circuit", 1), "in_circuit: found 1; wanted true or false"),
        (lambda d: put(d, "nodes", 0, "evidence", "x\n", [1]), r"evidence 'x\\n': found \[1\]"),
        (lambda d: put(d, "nodes", 0, "evidence", []), "evidence: found .*; wanted an object"),
        (lambda d: put(d, "nodes", {}), "nodes: found {}; wanted a list"),
        (lambda d: put(d, "nodes", 0, 5), r"nodes\[0\]: found 5; wanted an object"),
        (lambda d: put(d, "nodes", 1, d["nodes"][0]), r"node a0\.h0 is listed twice"),
        (lambda d: put(d, "edges", 1, d["edges"][0]), "listed twice"),
        (lambda d: put(d, "edges", 0, "source", "m2"), "against the order .* a cycle"),
        (lambda d: put(d, "prompts", 5.0), "prompts: found 5.0; wanted a whole number"),
        (lambda d: put(d, "n_layers", True), "n_layers: found True"),
        (lambda d: put(d, "layers", "all"), "layers: found 'all'; wanted a list"),
        (lambda d: put(d, "layers", [0.5]), "layers: found 0.5; wanted a whole number"),
        (lambda d: put(d, "parallel", None), "parallel: found None"),
        (lambda d: put(d, "task", "\ud800"), "task: found .* wanted a text that UTF-8 can hold"),
        (lambda d: put(d, "notes", [1]), "notes: found 1; wanted a text"),
        (lambda d: put(d, "summary", "cpr", "high"), "summary 'cpr': found 'high'; wanted a finite number"),
        (lambda d: put(d, "curve", 0, "arm", "top"), "unknown arm"),
    ],
)
def test_other_values_are_refused_by_name_in_one_line(written, spoil, words):
    path, found = written
    spoil(found)
    path.write_text(json.dumps(found))
    with pytest.raises(ResultsError, match=words) as told:
        load(path)
    assert str(told.value).startswith(f"{path}: ")
    assert "\n" not in str(told.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=ANYTHING)
def test_whatever_stands_in_a_field_is_taken_or_refused(written, data, value):
    path, found = written
    found = json.loads(json.dumps(found))
    place = found
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        inside = place[key]
        if not isinstance(inside, dict | list) or not inside or data.draw(st.booleans()):
            break
        place = inside
    place[key] = value
    spoiled = path.with_name("spoiled.json")
    spoiled.write_text(json.dumps(found))
    try:
        circuit, refused = load(spoiled), ""
    except ResultsError as error:
        circuit, refused = None, str(error)
    if circuit is None:
        assert refused.startswith(f"{spoiled}: ")
        assert len(refused.splitlines()) == 1
    else:
        save(circuit, spoiled)
        assert load(spoiled) == circuit


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a JSON file"),
        (b"[]", "holds a list; wanted one object"),
        (b'{"a": 1', "not a JSON file"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"seed": 1, "seed": 2}', "field 'seed' is there twice"),
        (b"\xff\xfe", "not a JSON file"),
        (b"[" * 100_000, "not a JSON file"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not a JSON file"),
    ],
)
def test_files_that_are_no_circuit(tmp_path, data, words):
    path = tmp_path / "c.json"
    path.write_bytes(data)
    with pytest.raises(ResultsError, match=words) as told:
        load(path)
    assert str(told.value).count(str(path)) == 1
    assert "\n" not in str(told.value)


def test_absent_too_large_and_unwritable_files(full, written, tmp_path, monkeypatch):
    path, _ = written
    with pytest.raises(ResultsError, match=r"absent\.json: cannot be read \(No such file"):
        load(tmp_path / "absent.json")
    with pytest.raises(ResultsError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(ResultsError, match="cannot be written"):
        save(full, path / "below_a_file.json")
    before = path.read_bytes()
    for module in (circuit_files, strict):
        monkeypatch.setattr(module, "MOST_BYTES", len(before) - 1)
    with pytest.raises(ResultsError, match="wanted at most"):
        load(path)
    with pytest.raises(ResultsError, match=r"more than the .* that can be read again"):
        save(replace(full, task="longer"), path)
    assert path.read_bytes() == before


def some_scores(circuit, groups=None):
    shape = (len(circuit.graph.sources), circuit.prompts)
    return PromptScores(np.random.default_rng(0).normal(size=shape), groups)


@pytest.mark.parametrize("groups", [None, ("a", "a", "b", "c", "c")])
def test_scores_of_prompts_come_back_from_beside(full, tmp_path, groups):
    path, scores = tmp_path / "circuit.json", some_scores(full, groups)
    save(full, path, scores)
    assert scores_path(path) == tmp_path / "nodes.parquet"
    again = load_scores(path, load(path))
    assert again.values.tolist() == scores.values.tolist()
    assert again.groups == groups
    frame, _ = read_parquet(tmp_path / "nodes.parquet")
    assert list(frame)[:3] == ["node", "prompt", "score"]
    row = frame[(frame["node"] == "a1.h2") & (frame["prompt"] == 3)]
    assert row["score"].item() == scores.values[full.graph.source("a1.h2"), 3]


def test_scores_lie_by_their_circuits_name_and_go_with_it(full, tmp_path):
    save(full, tmp_path / "A.json", some_scores(full))
    save(full, tmp_path / "B.json")
    assert scores_path(tmp_path / "A.json") == tmp_path / "A.nodes.parquet"
    assert load_scores(tmp_path / "B.json", full) is None
    save(full, tmp_path / "A.json")
    assert load_scores(tmp_path / "A.json", full) is None


def test_scores_of_another_circuit_or_shape_are_refused(full, tmp_path):
    path = tmp_path / "circuit.json"
    save(full, path, some_scores(full))
    with pytest.raises(ResultsError, match=r"scores of another circuit than circuit\.json"):
        load_scores(path, replace(full, task="greater_than"))
    frame, documents = read_parquet(scores_path(path))
    for spoiled in (frame.iloc[:-1], frame.iloc[::-1], frame.drop(columns="score"), frame.assign(more=1)):
        scores_path(path).write_bytes(parquet(spoiled, documents))
        with pytest.raises(ResultsError, match="not one score for each of 16 nodes and 5 prompts"):
            load_scores(path, full)
    scores_path(path).write_bytes(parquet(frame.assign(score=np.nan), documents))
    with pytest.raises(ResultsError, match="not finite"):
        load_scores(path, full)
    scores_path(path).write_bytes(b"PAR1 no table")
    with pytest.raises(ResultsError, match="damaged or not a table"):
        load_scores(path, full)
    wrong = [
        (PromptScores(np.zeros((3, 5))), r"shape \[3, 5\]; wanted \[16, 5\]"),
        (PromptScores(np.full((16, 5), np.inf)), "not finite"),
        (PromptScores(np.zeros((16, 5)), ("a",)), "1 groups for 5 prompts"),
    ]
    for scores, words in wrong:
        with pytest.raises(ResultsError, match=words):
            save(full, tmp_path / "new.json", scores)
    assert not (tmp_path / "new.json").exists()


def test_the_document_is_strict_json(full):
    text = json.dumps(document(full), allow_nan=False)
    assert json.loads(text) == document(full)
