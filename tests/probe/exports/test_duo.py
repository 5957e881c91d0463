"""DuoAttention's list: read, written and read again; the published ones come out as they went in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from probe.errors import ResultsError
from probe.exports.duo import CONFIG_FILE, GATES_FILE, duo_list, read_duo, tsv
from probe.exports.gates import as_column, gates
from probe.exports.request import Asked
from probe.table import HeadTable

MODELS = {
    "Llama-2-7B-32K-Instruct": (32, 32), "Llama-3-8B-Instruct-Gradient-1048k": (32, 8),
    "Llama-3-8B-Instruct-Gradient-4194k": (32, 8), "Meta-Llama-3.1-8B-Instruct": (32, 8),
    "Mistral-7B-Instruct-v0.2": (32, 8), "Mistral-7B-Instruct-v0.3": (32, 8),
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_published_list_goes_round(published: Path, tmp_path: Path, model: str):
    folder = published / "duo_attention" / model
    values = read_duo(folder)
    assert values.shape == MODELS[model]
    raw = np.loadtxt(folder / GATES_FILE, delimiter="\t")
    np.testing.assert_array_equal(values, np.clip(raw, 0, 1))
    (tmp_path / GATES_FILE).write_bytes(tsv(values))
    np.testing.assert_array_equal(read_duo(tmp_path), values)
    assert tsv(raw) == (folder / GATES_FILE).read_bytes()


def test_a_published_list_joins_a_table_and_leaves_it_again(published: Path):
    values = read_duo(published / "duo_attention" / "Meta-Llama-3.1-8B-Instruct")
    table = HeadTable.of_heads(range(32), 32, {"model": "llama"}, kv_heads=8).with_columns(as_column(values, 32))
    np.testing.assert_array_equal(gates(table, "duo_gate").values, values)
    np.testing.assert_allclose(gates(table, "duo_gate", "mean").values, values)
    assert duo_list(table, Asked(("duo_gate",))).files[GATES_FILE] == tsv(values)


def test_a_table_becomes_a_list_that_its_loader_takes(small: HeadTable, tmp_path: Path):
    made = duo_list(small, Asked(("retrieval",)))
    for name, data in made.files.items():
        (tmp_path / name).write_bytes(data)
    np.testing.assert_array_equal(read_duo(tmp_path), [[0.05, 0.15], [0.25, 0.35], [0.45, 0.55]])
    assert made.files[GATES_FILE].startswith(b"5.000000000000000278e-02\t1.4999")
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (config["sink_size"], config["recent_size"], config["model_name"]) == (4, 32, "small")
    assert config["headprobe"]["reduced_over_query_heads"] == "max"
    assert config["headprobe"]["trained"] is False
    assert "not trained ones" in made.notes[-1]


def test_a_table_without_a_window_takes_the_papers(small: HeadTable):
    bare = HeadTable(small.frame, {}, {"model": "small"})
    config = json.loads(duo_list(bare, Asked(("retrieval",))).files[CONFIG_FILE])
    assert (config["sink_size"], config["recent_size"]) == (64, 256)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.1\t0.2\n0.3\n", "line 2: 1 gates, 2 in the first"),
        ("0.1\thead\n", "line 1: .*wanted numbers between tabs"),
        ("0.1 0.2\n", "line 1: .*wanted numbers between tabs"),
        ("0.1\n\n", "line 2: .*wanted numbers between tabs"),
        ("", "gates from 0 to 1 are wanted, found none"),
        ("nan\t1\n", "gates from 0 to 1 are wanted"),
        ("0.5\t1.5\n", "found 0.5 to 1.5; not a DuoAttention list"),
        ("-3\t1\n", "found -3 to 1; not a DuoAttention list"),
        ("inf\t1\n", "gates from 0 to 1 are wanted"),
    ],
)
def test_other_files_are_refused_by_line(tmp_path: Path, text: str, said: str):
    path = tmp_path / "list.tsv"
    path.write_text(text)
    with pytest.raises(ResultsError, match=said) as caught:
        read_duo(path)
    assert str(path) in str(caught.value)


def test_a_missing_list_is_named(tmp_path: Path):
    with pytest.raises(ResultsError, match=f"{GATES_FILE}: cannot be read"):
        read_duo(tmp_path)
    (tmp_path / "x.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(ResultsError, match=r"x\.tsv: cannot be read"):
        read_duo(tmp_path / "x.tsv")
