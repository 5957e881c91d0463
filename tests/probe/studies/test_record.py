"""What a study's page needs comes back from its folder, whatever was removed; and only from its own files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from probe.analyses.units import units_of
from probe.errors import ResultsError
from probe.formats import parquet, read_parquet
from probe.models import load
from probe.running import Running
from probe.studies.record import read_studies, units_in
from probe.table import HeadTable


@pytest.fixture
def folder(results_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results_home / "study", tmp_path / "study"))


def changed(folder: Path, **change: object) -> Path:
    """tasks.json with fields of its one task replaced; None takes a field away."""
    path = folder / "tasks.json"
    document = json.loads(path.read_text())
    task = {**document["tasks"][0], **change}
    document["tasks"] = [{name: value for name, value in task.items() if value is not None}]
    path.write_text(json.dumps(document))
    return folder


def test_units_are_those_of_the_model():
    running = Running(load("planted").model)
    layers = [site.layer for site in running.sites]
    table = HeadTable.of_heads(layers, running.n_heads, {}, kv_heads=running.n_kv_heads)
    for kind in ("head", "kv_group", "layer"):
        assert units_in(table, kind) == units_of(running, kind)
    with pytest.raises(ResultsError, match="unit 'set'"):
        units_in(table, "set")


def test_another_form_is_refused_by_name(folder: Path):
    table = HeadTable.load(folder)
    for change, said in (
        ({"chance": "often"}, "chance: found 'often'"), ({"question": None}, "no field 'question'"),
        ({"extra": 1}, "unknown field 'extra'"), ({"metric": "beauty"}, "metric 'beauty'"),
    ):  # fmt: skip
        whole = (folder / "tasks.json").read_bytes()
        with pytest.raises(ResultsError, match=said):
            read_studies(changed(folder, **change), table)
        (folder / "tasks.json").write_bytes(whole)
    (folder / "tasks.json").unlink()
    with pytest.raises(ResultsError, match="run the same command again"):
        read_studies(folder, table)


def test_effects_that_the_table_is_not_made_of_are_refused(folder: Path):
    table = HeadTable.load(folder)
    frame, documents = read_parquet(folder / "effects.parquet")
    (folder / "effects.parquet").write_bytes(parquet(frame.assign(ablated=frame["ablated"] + 0.5), documents))
    with pytest.raises(ResultsError, match="is not the mean of effects"):
        read_studies(folder, table)
    (folder / "effects.parquet").write_bytes(parquet(frame.assign(prompt=frame["prompt"] + 1), documents))
    with pytest.raises(ResultsError, match="prompts that the folder does not have"):
        read_studies(folder, table)
    (folder / "effects.parquet").write_bytes(parquet(frame, {"probe": {}}))
    with pytest.raises(ResultsError, match="of two runs"):
        read_studies(folder, table)


def test_a_missing_curve_is_told(folder: Path):
    (folder / "curves.parquet").unlink()
    with pytest.raises(ResultsError, match=r"curves\.parquet is missing"):
        read_studies(folder, HeadTable.load(folder))
