"""Pages from files alone: the same as the run wrote, and one page of several folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from probe.commands.job import Job
from probe.commands.pipeline import run
from probe.commands.report_again import holds_results, report_again, write_page
from probe.errors import ResultsError
from probe.page.report import write_report
from probe.page.report_circuit import write_circuit_report, write_matrix_report
from probe.results import read_results, together
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.token_file import TokenTexts


@pytest.fixture
def copied(results_home: Path, tmp_path: Path):
    return lambda name: Path(shutil.copytree(results_home / name, tmp_path / name))


def page_of(folder: Path) -> bytes:
    return (folder / "report.html").read_bytes()


def test_a_report_run_and_its_files_give_equal_pages(tmp_path: Path):
    out = tmp_path / "out"
    run(Job("report", "planted", out, context=64, sequences=2, lengths=(48,), depths=(50.0,), trials=2), say=print)
    first, card = page_of(out), (out / "README.md").read_bytes()
    (out / "report.html").unlink()
    assert report_again([out]) == [out / "report.html"]
    assert page_of(out) == first
    assert (out / "README.md").read_bytes() == card
    assert b"probe report planted" in first


def test_a_study_in_memory_and_its_files_give_equal_pages(
    copied, tmp_path: Path, ablation_study: TaskStudy, effect_table: HeadTable
):
    folder = copied("study")
    found = read_results(folder)
    assert found.table is not None
    # The metadata in the order in which a run has them, which is not that of the file.
    metadata = {**effect_table.metadata, **{name: found.table.metadata[name] for name in ("model", "weight_hash")}}
    table = HeadTable(effect_table.frame, {}, {**metadata, "definitions": "1"})
    write_report(table, tmp_path / "memory", studies=[ablation_study], command=found.command)
    report_again([folder])
    assert page_of(folder) == page_of(tmp_path / "memory")


def test_circuits_in_memory_and_their_files_give_equal_pages(
    copied, tmp_path: Path, several_circuits, several_overlaps, transfer_table, removed
):
    folder = copied("ioi")
    found = read_results(folder)
    write_circuit_report(
        several_circuits[0], tmp_path / "memory", completeness=found.tests[0], minimality=found.tests[1],
        command="probe circuit ioi",
    )  # fmt: skip
    report_again([folder])
    assert page_of(folder) == page_of(tmp_path / "memory")
    matrix = copied("matrix")
    pages = report_again([matrix])
    assert [path.relative_to(matrix).as_posix() for path in pages if path.name == "report.html"] == [
        "report.html", "ioi/report.html", "greater_than/report.html", "induction/report.html",
    ]  # fmt: skip
    write_matrix_report(
        several_circuits, several_overlaps, tmp_path / "pair", transfer=transfer_table, removed=removed,
        not_done={"mcq": "it guesses"}, command="probe matrix invented",
    )  # fmt: skip
    assert page_of(matrix) == page_of(tmp_path / "pair")


def test_a_retrieval_run_and_an_overlap_have_pages_too(copied):
    retrieval = copied("retrieval")
    report_again([retrieval])
    text = page_of(retrieval).decode()
    assert "34 of 40 trials were usable" in text
    assert "Where telling heads look" not in text  # nothing was scanned
    overlap = copied("overlap")
    report_again([overlap])
    assert "What ioi and greater_than share in invented" in page_of(overlap).decode()


def test_several_folders_give_one_page(results_home: Path, tmp_path: Path):
    folders = [results_home / name for name in ("report", "study", "ioi")]
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}
    assert report_again(folders, tmp_path / "all") == [tmp_path / "all" / "report.html"]
    text = page_of(tmp_path / "all").decode()
    for part in ('id="L18H6"', 'id="ablation-0"', 'id="retrieval"', "Not in:", "probe run study.toml"):
        assert part in text
    assert {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")} == before


def test_places_that_hold_something_else_are_refused(results_home: Path, tmp_path: Path, copied):
    with pytest.raises(ResultsError, match="2 folders and no place"):
        report_again([results_home / "scan", results_home / "study"])
    study = copied("study")
    with pytest.raises(ResultsError, match="which the page is not about"):
        report_again([results_home / "scan"], study)
    assert not (study / "report.html").exists()


def test_a_card_that_is_there_is_left_alone(copied):
    folder = copied("ioi")
    (folder / "README.md").write_text("mine")
    report_again([folder])
    assert (folder / "README.md").read_text() == "mine"


def test_two_tested_circuits_do_not_hide_each_other(results_home: Path, tmp_path: Path):
    ioi, other = (read_results(results_home / "matrix" / name) for name in ("ioi", "induction"))
    with pytest.raises(ResultsError, match="both hold tests of a circuit"):
        write_page(together([ioi, other]), tmp_path)


def test_a_model_stays_a_model(tmp_path: Path, results_home: Path, monkeypatch: pytest.MonkeyPatch):
    assert holds_results(str(results_home / "scan"))
    assert not holds_results("planted")
    assert not holds_results(str(tmp_path))
    mixed = tmp_path / "planted"
    shutil.copytree(results_home / "ioi", mixed)
    monkeypatch.chdir(tmp_path)
    assert not holds_results("planted")
    assert holds_results("./planted")
    (mixed / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert not holds_results("./planted")


def test_tokens_reach_the_page(copied, texts: TokenTexts):
    folder = copied("scan")
    report_again([folder])
    assert "onerror" not in page_of(folder).decode().replace("&lt;", "<").split("<img src=x ")[0]
    assert texts.strings[8] in page_of(folder).decode().replace("\\u2423", "␣")
