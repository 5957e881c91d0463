"""`probe export`: paths on standard output, notes on standard error, one line and exit code 2 for what cannot be."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from probe.export import FORMS
from probe.table import HeadTable


@pytest.fixture
def command(command, head_table):
    """`probe export`, in a folder that has `results`: exit code, output, errors."""
    HeadTable(head_table.frame, {}, head_table.metadata).save("results")
    return partial(command, "export")


def test_it_says_what_it_wrote(command):
    code, out, err = command("results", "--to", "markdown", "--column", "induction_random, roles", "--top", 3)
    assert (code, out, err) == (0, "results/export/heads.md\n", "")
    text = Path("results/export/heads.md").read_text()
    assert text.count("\n| L") == 3
    assert "| `head` | `induction_random` | `roles` |" in text


def test_notes_go_to_standard_error_or_into_the_json(command):
    code, out, err = command("results", "--to", "duo", "--column", "induction_random", "--reduce", "mean", "--out", "d")
    assert code == 0
    assert out.splitlines() == ["d/full_attention_heads.tsv", "d/config.json"]
    assert err.splitlines()[0] == "3 query heads read one key/value head; its gate is the mean of theirs"
    code, out, err = command("results", "--to", "duo", "--column", "streaming_error", "--out", "e", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["files"] == ["e/full_attention_heads.tsv", "e/config.json"]
    assert "compare ranks" in document["notes"][-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("results", "--to", "duo", "--column", "sink_first"), "sink_first cannot be a gate"),
        (("results", "--to", "scores"), "a list of head scores holds one metric, 0 columns were given"),
        (("results", "--to", "latex"), "choose with --column"),
        (("results", "--to", "csv", "--column", "nothing"), "no column 'nothing' in this table"),
        (("results", "--to", "word"), "unknown form 'word'; known are parquet"),
        (("nowhere", "--to", "csv"), "nowhere: is not there"),
        (("results",), "Missing option '--to'"),
        (("results", "--to", "card", "--licence", "mit\nx"), "wanted an identifier"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(command, arguments, said):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("probe: ")
    assert err.count("\n") == 1


def test_a_missing_kaleido_or_chromium_is_one_line(command, monkeypatch, tmp_path):
    monkeypatch.setattr("probe.stills.find_spec", lambda name: None)
    code, _, err = command("results", "--to", "png", "--column", "induction")
    assert (code, err.count("\n")) == (2, 1)
    assert "pip install 'headprobe[figures]'" in err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = command("results", "--to", "svg", "--column", "induction")
    assert (code, err.count("\n")) == (2, 1)
    assert "apt-get install chromium" in err
    assert not Path("results/export").exists()


def test_the_help_names_every_form(command):
    code, out, _ = command("--help")
    assert code == 0
    words = out.replace(",", " ").split()
    assert not [name for name in FORMS if name not in words and f"{name}." not in words]
