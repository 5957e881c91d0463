"""Every kind of folder is known by its files, read whole, and refused in one line where it is not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe.analyses.overlap import Overlap
from probe.circuits.circuit import Circuit
from probe.errors import ResultsError
from probe.results import read_results
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.token_file import TokenTexts, save_tokens

KINDS = {
    "scan": "scan", "report": "report", "retrieval": "retrieval", "study": "study", "ioi": "circuit",
    "matrix": "matrix", "overlap": "overlap",
}  # fmt: skip


@pytest.fixture
def copied(results_home: Path, tmp_path: Path):
    return lambda name: Path(shutil.copytree(results_home / name, tmp_path / name))


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_is_known_by_its_files(results_home: Path, name: str):
    found = read_results(results_home / name)
    assert found.kind == KINDS[name]
    assert found.model == "invented"
    assert found.weight_hash == (None if name == "overlap" else "a" * 64)
    assert (found.command is None) == (name in ("retrieval", "overlap"))


def test_a_scan_has_its_table_and_its_text(results_home: Path, closeup_table: HeadTable, texts: TokenTexts):
    found = read_results(results_home / "scan")
    assert found.table is not None
    pd.testing.assert_frame_equal(found.table.frame, closeup_table.frame)
    assert found.tokens == texts
    assert found.retrieval is None


def test_a_retrieval_run_is_the_same_alone_and_joined_to_a_scan(results_home: Path):
    alone, joined = (read_results(results_home / name).retrieval for name in ("retrieval", "report"))
    assert alone is not None
    assert joined is not None
    pd.testing.assert_frame_equal(alone.heads, joined.heads)
    pd.testing.assert_frame_equal(alone.per_trial, joined.per_trial)
    assert alone.trials == joined.trials
    assert alone.metadata == joined.metadata
    assert alone.ranked() == joined.ranked() != []


def test_a_study_comes_back_as_it_was(results_home: Path, ablation_study: TaskStudy):
    (study,) = read_results(results_home / "study").studies
    assert study.task == ablation_study.task
    assert (study.question, study.answers, study.wrongs) == (
        ablation_study.question, ablation_study.answers, ablation_study.wrongs
    )  # fmt: skip
    for found, made in zip(study.effects, ablation_study.effects, strict=True):
        assert (found.units, found.notes, found.layer_forwards) == (made.units, made.notes, made.layer_forwards)
        np.testing.assert_array_equal(found.ablated, made.ablated)
        np.testing.assert_array_equal(found.clean, made.clean)
    assert study.baseline is not None
    assert ablation_study.baseline is not None
    assert study.baseline.sentence == ablation_study.baseline.sentence
    assert study.curve is not None
    assert ablation_study.curve is not None
    pd.testing.assert_frame_equal(study.curve.frame, ablation_study.curve.frame)


def test_circuits_and_overlaps_come_back_as_they_were(
    results_home: Path, several_circuits: tuple[Circuit, ...], several_overlaps: tuple[Overlap, ...]
):
    found = read_results(results_home / "matrix")
    assert found.circuits == several_circuits
    assert [one.json() for one in found.overlaps] == [one.json() for one in several_overlaps]
    assert [part.kind for part in found.parts] == ["circuit"] * 3
    assert found.not_done == {"mcq": "it guesses"}
    complete, minimal = read_results(results_home / "ioi").tests
    assert complete[0].removed == several_circuits[0].heads[:2]
    assert [one.loss.low for one in minimal] == [-0.25, -0.25]
    pair = read_results(results_home / "overlap")
    assert pair.overlaps[0].json() == several_overlaps[0].json()


def test_what_is_no_folder_of_ours_is_refused(tmp_path: Path, results_home: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    for place, said in (
        ("absent", "is not there"), ("empty", "empty"), ("other", r"holds no results \(notes.txt\)"),
        ("other/notes.txt", "is a file"),
    ):  # fmt: skip
        with pytest.raises(ResultsError, match=said) as refused:
            read_results(tmp_path / place)
        assert "\n" not in str(refused.value)


def test_a_run_that_has_not_finished_is_refused(copied):
    study = copied("study")
    (study / "run.json").write_text(json.dumps({"state": "begun"}))
    with pytest.raises(ResultsError, match="has not finished"):
        read_results(study)
    for path in study.iterdir():
        if path.name not in ("run.json", "effects.jsonl"):
            path.unlink()
    with pytest.raises(ResultsError, match="has not finished"):
        read_results(study)


def test_a_comparison_and_a_run_of_something_else_are_not_called_unfinished(tmp_path: Path):
    (tmp_path / "run.json").write_text(json.dumps({"asked": {}}))
    with pytest.raises(ResultsError, match=r"holds no results \(run\.json\)"):
        read_results(tmp_path)
    (tmp_path / "compare.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"a comparison; give the two folders .* to `probe compare` again"):
        read_results(tmp_path)


@pytest.mark.parametrize("task", [".", "..", "", "/tmp", "a/../b", "a\\b", "a\0b", "ioi"])
def test_a_matrix_names_the_folders_beside_it_once_each(copied, task: str):
    matrix = copied("matrix")
    document = json.loads((matrix / "matrix.json").read_text())
    document["tasks"] = ["ioi", task, "induction"]
    (matrix / "matrix.json").write_text(json.dumps(document))
    with pytest.raises(ResultsError, match=r"matrix\.json: task .*; wanted (the plain name|each once)") as refused:
        read_results(matrix)
    assert "\n" not in str(refused.value)


def test_json_nested_too_deep_is_refused_in_every_file(copied):
    for name, file in (("scan", "tokens.json"), ("report", "trials.jsonl"), ("study", "prompts.jsonl"),
                       ("matrix", "matrix.json")):  # fmt: skip
        place = copied(name) / file
        place.write_text("[" * 200_000)
        with pytest.raises(ResultsError, match=file) as refused:
            read_results(place.parent)
        assert "\n" not in str(refused.value)


DAMAGES = {
    "heads.parquet": ("scan", "heads.parquet"),
    "tokens.json": ("scan", "tokens.json"),
    "trials.jsonl": ("report", "trials.jsonl"),
    "retrieval.parquet": ("report", "retrieval.parquet"),
    "effects.parquet": ("study", "effects.parquet"),
    "prompts.jsonl": ("study", "prompts.jsonl"),
    "tasks.json": ("study", "tasks.json"),
    "circuit.json": ("ioi", "circuit.json"),
    "tests.json": ("ioi", "tests.json"),
    "matrix.json": ("matrix", "matrix.json"),
    "overlap.json": ("overlap", "overlap.json"),
    "run.json": ("overlap", "run.json"),
}


@pytest.mark.parametrize("file", DAMAGES)
def test_a_file_cut_short_is_named(copied, file: str):
    name, said = DAMAGES[file]
    place = copied(name) / file
    data = place.read_bytes()
    place.write_bytes(data[: len(data) // 2])
    with pytest.raises(ResultsError, match=said) as refused:
        read_results(place.parent)
    assert "\n" not in str(refused.value)


def test_files_of_two_runs_are_not_mixed(copied, texts: TokenTexts, results_home: Path):
    scan = copied("scan")
    save_tokens(scan, TokenTexts(tuple((9, *ids[1:]) for ids in texts.ids), texts.tokens, texts.strings))
    with pytest.raises(ResultsError, match="other tokens"):
        read_results(scan)
    circuit = copied("ioi")
    shutil.copy(results_home / "matrix" / "greater_than" / "circuit.json", circuit / "circuit.json")
    with pytest.raises(ResultsError, match=r"other scores than circuit\.json"):
        read_results(circuit)
    report = copied("report")
    (report / "run.json").write_text(json.dumps({"asked": {"weight_hash": "b" * 64}}))
    with pytest.raises(ResultsError, match="different weights"):
        read_results(report)
    matrix = copied("matrix")
    shutil.rmtree(matrix / "induction")
    shutil.copytree(matrix / "ioi", matrix / "induction")
    with pytest.raises(ResultsError, match="not the circuit of induction"):
        read_results(matrix)


def test_a_study_of_several_wants_every_folder(results_home: Path, tmp_path: Path):
    text = (results_home / "study" / "study.toml").read_text().replace("seeds = [0]", "seeds = [0, 1]")
    (tmp_path / "study.toml").write_text(text)
    for seed in (0, 1):
        with pytest.raises(ResultsError, match=f"no folder invented.seed{seed}"):
            read_results(tmp_path)
        shutil.copytree(results_home / "study", tmp_path / f"invented.seed{seed}")
    found = read_results(tmp_path)
    assert found.kind == "studies"
    assert [part.folder.name for part in found.parts] == ["invented.seed0", "invented.seed1"]
