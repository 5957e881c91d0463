"""The command as a user runs it: what it prints, where it prints it, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from probe.cli import main, ours, visible
from probe.errors import ModelError, TokensError
from probe.hooks.errors import HookError

SMALL = ["--lengths", "48", "--depths", "50", "--trials", "1"]


@dataclass
class Done:
    returncode: object
    stdout: str
    stderr: str


@pytest.fixture
def probe(monkeypatch, capsys, tmp_path):
    """The command in this process (a new one takes seconds to import its libraries), in a folder of its own."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["probe", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Done(left.value.code, out, err)

    yield run
    signal.signal(signal.SIGTERM, before)


def started(*arguments, **options):
    """The command in its own process, on one thread, without a network."""
    return subprocess.Popen(
        [sys.executable, "-m", "probe", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        **options,
    )


def refused(done, *words):
    """Exit code 2, nothing on standard output, one line on standard error with these words."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("probe: ")
    for word in words:
        assert word in done.stderr


def test_what_the_system_refuses_is_one_line(probe):
    refused(probe("report", "a" * 300), "File name too long")


def test_help_lists_the_commands(probe):
    done = probe("--help")
    assert done.returncode == 0
    for command in ("report", "scan", "retrieval", "models"):
        assert command in done.stdout
    assert probe().stdout == done.stdout


def test_models_are_listed_in_words_and_json(probe):
    done = probe("models")
    assert done.returncode == 0
    assert "planted-gpt2" in done.stdout
    rows = json.loads(probe("models", "--json").stdout)
    assert {"planted", "planted-gpt2", "planted-shuffled", "smollm2-135m"} <= {row["name"] for row in rows}


def test_retrieval_writes_its_folder_and_a_summary(probe, tmp_path):
    out = tmp_path / "with space #1"
    done = probe("retrieval", "planted", "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    files = {"ablation.parquet", "heads.parquet", "retrieval.parquet", "run.json", "trials.jsonl"}
    assert {path.name for path in out.iterdir()} == files
    assert "1 of 1 trials usable" in done.stdout
    assert "not enough usable trials for a ranking: 1, wanted 10" in done.stdout
    assert str(out) in done.stdout
    # What it will cost is said beforehand, on standard error, and no progress is drawn where nobody looks.
    assert done.stderr.startswith("planted: 1 needles")
    assert "about" in done.stderr
    assert done.stderr.count("\n") == 1
    trial = json.loads((out / "trials.jsonl").read_text())
    assert trial["length"] == len(trial["prompt_ids"]) == 48


def test_scan_takes_ids_as_they_are_and_prints_json(probe, tmp_path):
    file = tmp_path / "ids.json"
    file.write_text(json.dumps([[0, *range(100, 180)], [0, *range(200, 280)]]))
    done = probe("scan", "planted", "--tokens", file, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["roles"]["previous_token"]["heads"] == 2
    assert found["roles"]["previous_token"]["top"][0]["head"] == "L0H0"
    names = {"heads.parquet", "heads.csv", "heads.json", "profiles.safetensors", "run.json", "tokens.json"}
    assert set(found["files"]) == names == {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], ["No such command"]),
        (["scan", "planted"], ["--out"]),
        (["scan", "planted", "--out", "o", "--windw", "3"], ["No such option", "--windw"]),
        (["scan", "planted", "--out", "o", "--window", "0"], ["--window", "found 0"]),
        (["scan", "planted", "--out", "o", "--context", "many"], ["--context"]),
        (["scan", "planted", "--out", "o", "--tokens", "f", "--bos"], ["--tokens", "--bos"]),
        (["retrieval", "planted", "--out", "o", "--lengths", "1,x"], ["--lengths", "whole numbers"]),
    ],
)
def test_slips_are_told_before_anything_is_loaded(probe, arguments, words, tmp_path):
    refused(probe(*arguments), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scan", "no such model", "--out", "o"], ["unknown model"]),
        (["scan", "planted", "--out", "o", "--text", "absent.txt"], ["absent.txt"]),
        (["scan", "planted", "--out", "o", "--text", "empty.txt"], ["found no text"]),
        (["scan", "planted", "--out", "o", "--context", "999999"], ["999,999", "4,096"]),
        (["scan", "planted", "--out", "o", "--dtype", "int4"], ["int4", "float32"]),
        (["retrieval", "planted", "--out", "o", "--depths", "101"], ["101", "0 to 100"]),
        (["retrieval", "planted", "--out", "o", "--lengths", "10"], ["10 tokens"]),
        (["retrieval", "planted", "--out", "taken"], ["taken", "--fresh"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(probe, arguments, words, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("keep me")
    before = sorted(tmp_path.rglob("*"))
    refused(probe(*arguments), *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_debug_lets_the_error_through(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["probe", "scan", "no such model", "--out", str(tmp_path / "o"), "--debug"])
    with pytest.raises(ModelError, match="unknown model"):
        main()


def test_the_same_run_replaces_its_folder_and_another_is_refused(probe, tmp_path):
    out = tmp_path / "out"
    assert probe("retrieval", "planted", "--out", out, *SMALL).returncode == 0
    first = (out / "retrieval.parquet").read_bytes()
    assert probe("retrieval", "planted", "--out", out, *SMALL).returncode == 0
    assert (out / "retrieval.parquet").read_bytes() == first
    refused(probe("retrieval", "planted", "--out", out, *SMALL, "--seed", "1"), "another run", "--fresh")
    assert (out / "retrieval.parquet").read_bytes() == first
    assert probe("retrieval", "planted", "--out", out, *SMALL, "--seed", "1", "--fresh").returncode == 0
    assert (tmp_path / "out.previous-1" / "retrieval.parquet").read_bytes() == first


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_runs_leave_nothing_behind(sent, code, tmp_path):
    long = ["--lengths", "2000", "--trials", "20"]
    process = started(
        "retrieval", "planted", "--out", tmp_path / "out", *long, stdout=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.readline()  # the cost: from here on it measures
    assert said.startswith("planted: 100 needles")
    process.send_signal(sent)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert output == ""
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    process = started("--help", stdout=write)
    _, errors = process.communicate(timeout=120)
    os.close(write)
    assert errors == ""
    assert process.returncode == 1


def test_control_characters_are_shown_not_obeyed():
    assert visible("a\x1b[31m\nb\u202e") == "a\\x1b[31m\\nb\\u202e"
    assert visible("é 漢 L10H7") == "é 漢 L10H7"


def test_only_our_own_errors_are_bad_input():
    assert ours(TokensError("x"))
    assert ours(HookError("x"))
    assert not ours(ValueError("x"))
    assert not ours(json.JSONDecodeError("x", "y", 0))
