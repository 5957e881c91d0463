"""From a name to a folder: what is written, that it is whole, and that bad jobs end before any work."""

from __future__ import annotations

import json

import pytest

from probe.analyses.retrieval_result import RetrievalResult
from probe.commands.job import Job
from probe.commands.pipeline import run
from probe.errors import ResultsError, TokensError
from probe.formats import read_parquet
from probe.planted.prompts import planted_text
from probe.table import HeadTable

SMALL = {"context": 160, "sequences": 2, "lengths": (48,), "depths": (50.0,), "trials": 2}
FILES = {
    "README.md",
    "ablation.parquet",
    "heads.csv",
    "heads.json",
    "heads.parquet",
    "profiles.safetensors",
    "report.html",
    "retrieval.parquet",
    "run.json",
    "tokens.json",
    "trials.jsonl",
}


def report(out, said=None, **changes):
    asked = {**SMALL, **changes}
    lines = said if said is not None else []
    return run(Job("report", "planted", out, **asked), say=lines.append)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    said = []
    out = tmp_path_factory.mktemp("run") / "report"
    return out, report(out, said), said


def test_report_is_whole(made):
    out, outcome, _ = made
    assert {path.name for path in out.iterdir()} == set(outcome.files) == FILES


def test_cost_is_said_first(made):
    _, _, said = made
    assert len(said) == 1
    assert said[0].startswith("planted: 2 sequences, 320 tokens, 2 needles of up to 48 tokens; about")


def test_head_table_holds_scan_and_retrieval(made):
    out, _, _ = made
    table = HeadTable.load(out)
    assert len(table.frame) == 24
    assert {"sink_first", "induction_random", "retrieval", "retrieval_control_high"} <= set(table.frame)
    assert table.metadata["retrieval"]["n_trials"] == 2
    assert table.metadata["bos"] == "0 before each"
    assert table.metadata["text"] == "planted text"
    per_trial, documents = read_parquet(out / "retrieval.parquet")
    assert len(per_trial) == 2 * 24
    assert documents["probe"]["bos"] == "added"


def test_run_says_what_was_asked_and_how_long_it_took(made):
    out, _, _ = made
    found = json.loads((out / "run.json").read_text())
    assert found["asked"]["command"] == "report"
    assert found["asked"]["context"] == 160
    assert set(found["seconds"]) == {"load", "scan", "close-ups", "retrieval", "write"}
    assert found["machine"]["threads"] >= 1
    # Two runs are the same run wherever they are written.
    assert "out" not in found["asked"]


def test_run_again_gives_equal_tables(made, tmp_path):
    out, _, _ = made
    report(tmp_path / "again")
    for name in FILES - {"run.json"}:
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name


def test_another_run_is_refused_and_the_folder_kept(made):
    out, _, _ = made
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ResultsError, match="another run"):
        report(out, seed=1)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (101.0,)}, "depth 101"),
        ({"lengths": (5_000,)}, "reads 4096"),
        ({"lengths": (8,)}, "ask for longer prompts"),
        ({"context": 5_000}, "4,096"),
    ],
)
def test_bad_jobs_end_before_any_work(changes, message, tmp_path):
    said = []
    with pytest.raises(TokensError, match=message):
        report(tmp_path / "out", said, **changes)
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_failure_half_way_leaves_the_earlier_folder(made, monkeypatch):
    out, _, _ = made
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(self, folder):
        raise ResultsError("no space left")

    monkeypatch.setattr(RetrievalResult, "save_evidence", full)
    with pytest.raises(ResultsError, match="no space left"):
        report(out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_scan_of_ids_says_that_nothing_was_added(tmp_path):
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps([list(range(50, 130)), list(range(300, 380))]))
    outcome = run(Job("scan", "planted", tmp_path / "out", tokens=ids), say=lambda line: None)
    assert outcome.retrieval is None
    table = HeadTable.load(tmp_path / "out")
    assert table.metadata["bos"] == "none added"
    assert "retrieval" not in table.metrics


def test_text_of_the_user_is_read(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text(planted_text(400, seed=5))
    job = Job("scan", "planted", tmp_path / "out", text=file, context=100, sequences=2)
    run(job, say=lambda line: None)
    assert HeadTable.load(tmp_path / "out").metadata["text"] == "mine.txt"
