"""A folder belongs to one study; every other is refused with what differs, and nothing of it is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from probe.analyses.pieces import Piece
from probe.errors import ResultsError
from probe.studies.folder import check_folder, differences, study_folder, write_run
from probe.studies.ledger import Ledger

ASKED = {"study": {"prompts": 64, "tasks": ["ioi"]}, "weight_hash": "a" * 64, "versions": {"torch": "2.13.0"}}
FILES = {"study.toml": b"models = []\n", "prompts.jsonl": b"{}\n"}
PIECE = Piece("ioi", "mean", "clean", (), (0, 2), {})


def changed(**changes):
    return {**ASKED, **changes}


def begun(folder, asked=ASKED):
    with study_folder(folder, asked, FILES) as ledger:
        ledger.put(PIECE, np.array([1.0, 2.0]))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_folder_gets_its_files_and_is_gone_on_with(tmp_path):
    begun(tmp_path / "deep" / "out")
    out = tmp_path / "deep" / "out"
    assert set(contents(out)) == {"run.json", "study.toml", "prompts.jsonl", "effects.jsonl"}
    run = json.loads((out / "run.json").read_text())
    assert run["asked"] == ASKED
    assert run["state"] == "begun"
    (out / "prompts.jsonl").write_bytes(b"edited by hand")
    with study_folder(out, ASKED, FILES) as ledger:
        assert ledger.get(PIECE).tolist() == [1.0, 2.0]
    assert (out / "prompts.jsonl").read_bytes() == b"{}\n"
    write_run(out, ASKED, {"state": "finished"})
    begun(out)
    assert json.loads((out / "run.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (changed(study={"prompts": 32, "tasks": ["ioi"]}), "study.prompts is 64 there and 32 here"),
        (changed(study={**ASKED["study"], "unit": "layer"}), "study.unit is absent there and layer here"),
        (changed(weight_hash="b" * 64), "weight_hash is aaaaaaaaaaaa… there and bbbbbbbbbbbb… here"),
        (changed(versions={"torch": "2.14.0"}), r"versions.torch is 2\.13\.0 there and 2\.14\.0 here"),
    ],
)
def test_another_study_model_or_library_is_refused_by_name(tmp_path, other, words):
    begun(tmp_path)
    before = contents(tmp_path)
    for refusal in (lambda: check_folder(tmp_path, other), lambda: begun(tmp_path, other)):
        with pytest.raises(ResultsError, match=f"holds another study: {words}; `--fresh`"):
            refusal()
    assert contents(tmp_path) == before


def test_many_differences_are_counted():
    other = {"study": {}, "weight_hash": "b", "versions": {}}
    assert len(differences(other, ASKED)) == 4
    assert differences(ASKED, ASKED) == []


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("notes.txt", "mine", r"holds files of no study \(notes.txt\)"),
        ("effects.jsonl", "mine\nnot a ledger", r"holds files of no study \(effects.jsonl\)"),
        ("run.json", "{", "run.json that cannot be read"),
        ("run.json", '{"asked": {"command": "scan"}}', "another kind of run"),
        ("run.json", "[]", "another kind of run"),
    ],
)
def test_folders_of_others_are_left_as_they_are(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ResultsError, match=words):
        begun(tmp_path)
    assert contents(tmp_path) == {name: text.encode()}


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for fresh in (False, True):
        with pytest.raises(ResultsError, match="is not a folder"):
            check_folder(tmp_path / "file", ASKED, fresh=fresh)


def test_fresh_moves_another_study_aside_and_keeps_its_own(tmp_path):
    out, other = tmp_path / "out", changed(weight_hash="b")
    begun(out)
    before = contents(out)
    with study_folder(out, ASKED, FILES, fresh=True) as ledger:
        assert len(ledger) == 1
    with study_folder(out, other, FILES, fresh=True) as ledger:
        assert len(ledger) == 0
    assert contents(tmp_path / "out.previous-1") == before


def test_fresh_does_not_take_a_folder_from_under_a_writer(tmp_path):
    with (
        Ledger(tmp_path / "out"),
        pytest.raises(ResultsError, match="is being written by process"),
        study_folder(tmp_path / "out", ASKED, FILES, fresh=True),
    ):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from probe import store
from probe.studies import folder as study_folder
point = sys.argv[2]
real = os.replace
def replace(a, b):
    if point == "before run.json" and str(b).endswith("run.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    real(a, b)
    if point == "after run.json":
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
asked = {"study": {"prompts": 64, "tasks": ["ioi"]}, "weight_hash": "a" * 64, "versions": {"torch": "2.13.0"}}
with study_folder.study_folder(Path(sys.argv[1]), asked, {"study.toml": b"models = []\\n", "prompts.jsonl": b"{}\\n"}):
    pass
"""


@pytest.mark.parametrize("point", ["before run.json", "after run.json"])
def test_killed_at_the_beginning_it_begins_again(tmp_path, point):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out"), point], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / "lock").exists()
    begun(tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {"run.json", "study.toml", "prompts.jsonl", "effects.jsonl"}


def test_a_link_is_followed_to_the_folder_it_names(tmp_path):
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    begun(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "run.json").exists()
