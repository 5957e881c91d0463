"""Exports of a results folder: every form, where it goes, and that nothing there is lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from probe.errors import ResultsError
from probe.export import FORMS, export
from probe.results import Results, read_results
from probe.stills import BROWSERS
from probe.table import HeadTable

COLUMNS = {"latex": ["sink_first"], "markdown": ["sink_first"], "duo": ["induction"], "scores": ["induction"]}


@pytest.fixture
def folder(head_table: HeadTable, tmp_path: Path) -> Path:
    place = tmp_path / "results"
    HeadTable(head_table.frame, {}, head_table.metadata).save(place)
    return place


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_form_has_its_place(folder: Path):
    before = files(folder)
    for name in FORMS:
        if name not in ("png", "svg"):
            export(folder, name, columns=COLUMNS.get(name, []))
    assert files(folder) - before == {
        "README.md", "export/heads.parquet", "export/heads.csv", "export/heads.json", "export/heads.tex",
        "export/heads.md", "export/duo/full_attention_heads.tsv", "export/duo/config.json", "export/head_score.json",
    }  # fmt: skip
    assert read_results(folder).kind == "scan"


def test_pictures_go_into_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("probe.exports.pictures.still", lambda figure: b"png")
    monkeypatch.setattr("probe.exports.pictures.drawing", lambda figure: b"svg")
    assert [path.name for path in export(folder, "png", columns=["induction"]).paths] == [
        "map_induction.png", "ranked_induction.png",
    ]  # fmt: skip
    assert export(folder, "svg", columns=["induction"], out=folder / "s").paths[0] == folder / "s" / "map_induction.svg"


@pytest.mark.browser
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium on PATH: no picture was drawn")
def test_pictures_are_pictures(folder: Path):
    drawn = [export(folder, form, columns=["induction"]).paths[0].read_bytes() for form in ("png", "svg")]
    assert drawn[0].startswith(b"\x89PNG")
    assert len(drawn[0]) > 20_000
    assert "induction, every head of invented-30x9" in "".join(ElementTree.fromstring(drawn[1]).itertext())


def test_the_place_can_be_chosen(folder: Path, tmp_path: Path):
    assert export(folder, "csv", out=tmp_path / "deep" / "x.csv").paths == (tmp_path / "deep" / "x.csv",)
    assert export(folder, "duo", columns=["induction"], out=tmp_path / "gates").paths[0].parent == tmp_path / "gates"
    with pytest.raises(ResultsError, match="is a folder; csv writes a file"):
        export(folder, "csv", out=tmp_path)
    with pytest.raises(ResultsError, match="is a file; duo writes a folder"):
        export(folder, "duo", columns=["induction"], out=tmp_path / "deep" / "x.csv")
    with pytest.raises(ResultsError, match="cannot be written"):
        export(folder, "csv", out=tmp_path / "deep" / "x.csv" / "y")


def test_nothing_is_overwritten_but_by_equal_bytes(folder: Path):
    (path,) = export(folder, "markdown", columns=["induction"]).paths
    stamp = path.stat().st_mtime_ns
    assert export(folder, "markdown", columns=["induction"]).paths == (path,)
    assert path.stat().st_mtime_ns == stamp
    before = path.read_bytes()
    with pytest.raises(ResultsError, match=r"heads\.md holds something else; `--fresh` moves it aside"):
        export(folder, "markdown", columns=["sink_first"])
    assert path.read_bytes() == before
    export(folder, "markdown", columns=["sink_first"], fresh=True)
    assert path.read_bytes() != before
    assert path.with_name("heads.md.previous-1").read_bytes() == before


def test_of_several_files_none_is_written_where_one_is_in_the_way(folder: Path):
    place = folder / "export" / "duo"
    place.mkdir(parents=True)
    (place / "config.json").write_text("mine")
    with pytest.raises(ResultsError, match=r"config\.json holds something else"):
        export(folder, "duo", columns=["induction"])
    assert [path.name for path in place.iterdir()] == ["config.json"]


def test_options_without_a_use_are_refused(folder: Path):
    for to, given, said in (
        ("duo", {"columns": ["induction"], "top": 3}, "duo has no use for --top"),
        ("csv", {"reduce": "mean"}, "csv has no use for --reduce"),
        ("card", {"columns": ["induction"]}, "card has no use for --column"),
        ("json", {"licence": "mit"}, "json has no use for --licence"),
        ("pdf", {}, "unknown form 'pdf'; known are parquet, csv"),
        ("duo", {"columns": ["induction"], "reduce": "sum"}, "unknown reduction 'sum'"),
        ("csv", {"columns": ["x"]}, "no column 'x'"),
    ):
        with pytest.raises(ResultsError, match=said):
            export(folder, to, **given)
    assert not (folder / "export").exists()


def test_folders_of_something_else_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head_table: HeadTable):
    with pytest.raises(ResultsError, match="is not there"):
        export(tmp_path / "none", "csv")
    parts = tuple(Results(tmp_path / name, "study", head_table) for name in ("a", "b"))
    monkeypatch.setattr("probe.export.read_results", lambda folder: Results(tmp_path, "studies", parts=parts))
    with pytest.raises(ResultsError, match=r"no one head table; name one of .*/a, .*/b"):
        export(tmp_path, "csv")
