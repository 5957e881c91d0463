"""`probe compare` as a user runs it."""

from __future__ import annotations

import json

import pytest

from probe.table import HeadTable


@pytest.fixture
def folders(comparison, tmp_path):
    for name, table in (("A", comparison.a), ("B", comparison.b)):
        HeadTable(table.frame, {}, table.metadata).save(tmp_path / name)
    return tmp_path


@pytest.mark.usefixtures("folders")
def test_a_comparison_in_words(command):
    code, out, err = command("compare", "A", "B", "--metric", "sink_first", "--metric", "entropy")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("A: invented-30x9")
    assert lines[1].startswith("Heads that changed: 2 of 270 heads differ")
    assert any(line.startswith("  sink_first  2 heads; 2 intervals, 14 by chance") for line in lines)
    assert any(line == "  length: 4,096 → 8,192" for line in lines)


def test_a_folder_and_json(command, folders):
    code, out, err = command("compare", "A", "B", "--out", "o", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out, parse_constant=pytest.fail)
    assert len(document["found"]) == 2
    assert sorted(path.name for path in (folders / "o").iterdir()) == [
        "compare.csv", "compare.json", "compare.parquet", "report.html", "run.json",
    ]  # fmt: skip
    assert json.loads((folders / "o" / "compare.json").read_text()) == document
    assert "probe compare A B --out o --json" in (folders / "o" / "report.html").read_text()
    code, _, err = command("compare", "B", "A", "--out", "o")
    assert code == 2
    assert "holds another run" in err


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("A", "absent"), "absent"),
        (("A", "B", "--metric", "nothing"), "nothing cannot be compared"),
        (("A", "B", "--match", "likeness"), "wanted auto, name or behaviour"),
    ],
)
def test_what_cannot_be_done_is_one_line(command, arguments, why):
    code, out, err = command("compare", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert why in err


def test_other_definitions_are_refused(command, folders, comparison):
    for name, version in (("A", "1"), ("B", "2")):
        table = comparison.a
        HeadTable(table.frame, {}, {**table.metadata, "definitions": version}).save(folders / name)
    code, _, err = command("compare", "A", "B")
    assert code == 2
    assert "definitions of version 1 and 2" in err
