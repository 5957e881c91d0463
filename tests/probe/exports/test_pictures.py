"""Which figures a folder has, and what their files are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from probe.circuits.circuit import Circuit
from probe.columns import KEYS
from probe.errors import ResultsError
from probe.exports import pictures
from probe.exports.pictures import figures_of, png_pictures, svg_pictures
from probe.exports.request import Asked
from probe.results import Results
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable

HERE = Path("somewhere")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[go.Figure]:
    """Stands in for Chromium: the figures that it was given."""
    seen: list[go.Figure] = []

    def draw(figure: go.Figure) -> bytes:
        seen.append(figure)
        return b"picture"

    monkeypatch.setattr(pictures, "still", draw)
    monkeypatch.setattr(pictures, "drawing", draw)
    return seen


def test_a_scan_has_a_map_of_every_measured_metric_and_its_profiles(head_table: HeadTable):
    kept = ["sink_first", "sink_learned", "induction_random"]
    frame = head_table.frame[[*KEYS, *kept, "induction_random_low", "induction_random_high", "roles"]]
    found = figures_of(Results(HERE, "scan", HeadTable(frame, head_table.profiles, head_table.metadata)))
    assert list(found) == ["map_sink_first", "map_induction_random", "received", "offset_mass", "thumbnails"]
    assert all(isinstance(figure, go.Figure) for figure in found.values())


def test_a_chosen_column_has_a_map_and_a_ranking(small: HeadTable):
    assert list(figures_of(Results(HERE, "scan", small), ("retrieval",))) == ["map_retrieval", "ranked_retrieval"]
    with pytest.raises(ResultsError, match="no metric 'x'"):
        figures_of(Results(HERE, "scan", small), ("x",))
    with pytest.raises(ResultsError, match="no head table, so no --column"):
        figures_of(Results(HERE, "studies"), ("retrieval",))


def test_a_column_without_an_interval_is_ranked_without_one(small: HeadTable):
    bare = HeadTable(small.frame.assign(mine=0.5), {}, small.metadata)
    figures = figures_of(Results(HERE, "scan", bare), ("mine", "retrieval"))
    assert figures["ranked_mine"].layout.xaxis.title.text == "value"
    assert set(figures["ranked_mine"].data[0].error_x.array) == {0.0}
    assert figures["ranked_retrieval"].layout.xaxis.title.text == "share of the answer (95 % interval)"


def test_studies_and_circuits_have_their_pages_figures(
    ablation_study: TaskStudy,
    effect_table: HeadTable,
    several_circuits: tuple[Circuit, ...],
    several_overlaps: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    found = figures_of(Results(HERE, "study", effect_table, studies=(ablation_study,)))
    assert {"map_ablation_ioi", "effects_ranked_0", "removal_0"} <= set(found)
    found = figures_of(Results(HERE, "circuit", circuits=several_circuits[:1]))
    assert list(found) == ["circuit_graph_0", "head_curve_0", "edge_curve_0"]
    # A graph takes a second; its own tests draw it.
    monkeypatch.setattr(pictures, "circuit_figures", lambda circuit, index: {f"circuit_graph_{index}": go.Figure()})
    found = figures_of(Results(HERE, "matrix", circuits=several_circuits, overlaps=several_overlaps))
    assert {"circuit_graph_2", "overlap_matrix"} <= set(found)
    found = figures_of(Results(HERE, "overlap", circuits=several_circuits[:2], overlaps=several_overlaps[:1]))
    assert {"overlap_map_0", "score_scatter_0"} <= set(found)


def test_parts_of_a_study_are_told_apart(effect_table: HeadTable):
    parts = tuple(Results(HERE / name, "study", effect_table) for name in ("a", "b"))
    found = figures_of(Results(HERE, "studies", parts=parts))
    assert {"a_map_ablation_ioi", "b_map_ablation_ioi"} <= set(found)


def test_file_names_stay_in_their_folder_and_apart(small: HeadTable, drawn: list[go.Figure]):
    hostile = HeadTable(
        small.frame.assign(**{"../../a/b": 0.5, "../../a_b": 0.25, ".x" * 200: 1.0}), {}, small.metadata
    )
    made = png_pictures(Results(HERE, "scan", hostile), Asked(("../../a/b", "../../a_b", ".x" * 200)))
    names = list(made.files)
    assert len(names) == len(set(names)) == len(drawn) == 6
    assert not [name for name in names if "/" in name or name.startswith(".") or len(name) > 110]
    assert names[0] == "map_.._.._a_b.png"
    assert names[2] == "map_.._.._a_b_2.png"
    assert next(iter(svg_pictures(Results(HERE, "scan", small), Asked(("retrieval",))).files)) == "map_retrieval.svg"


def test_a_folder_without_figures_is_refused(small: HeadTable, drawn: list[go.Figure]):
    empty = HeadTable(small.frame[["stack", "kind", "layer", "head", "kv_head", "roles"]], {}, {})
    with pytest.raises(ResultsError, match="nothing to draw"):
        png_pictures(Results(HERE, "table", empty), Asked())
    undefined = HeadTable(small.frame.assign(retrieval=np.nan)[[*empty.frame, "retrieval"]], {}, {})
    with pytest.raises(ResultsError, match="nothing to draw"):
        svg_pictures(Results(HERE, "table", undefined), Asked())
