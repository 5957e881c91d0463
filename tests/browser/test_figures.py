"""The report's figures in a headless Chromium: marks follow the metric, and a figure keeps its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probe.analyses.effect_columns import with_effects
from probe.page.report import write_report
from probe.plots.cells import told_from_zero
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable

pytestmark = pytest.mark.browser
MAP = "document.querySelector('[data-figure=map]')"


@pytest.fixture(scope="module")
def table(head_table: HeadTable, ablation_study: TaskStudy) -> HeadTable:
    return with_effects(head_table, ablation_study.effects, {"ioi": ablation_study.task})


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, table: HeadTable) -> Path:
    return write_report(table, tmp_path_factory.mktemp("report"))


def choose(browser: Any, metric: str) -> None:
    browser.run(f"(s => {{ s.value = '{metric}'; s.dispatchEvent(new Event('change')); }})"
                "(document.getElementById('map-metric'))")  # fmt: skip


def test_marks_are_made_anew_with_the_metric(browser: Any, report: Path, table: HeadTable) -> None:
    browser.size(1280, 800)
    browser.open(report)
    for metric in ("ablation_ioi", "sink_first", "attribution_ioi"):
        choose(browser, metric)
        signs, corrected = told_from_zero(table.frame, metric)
        found = browser.run(f"(t => [t.y.map((y, i) => [y, t.x[i], t.marker.symbol[i]]), t.showlegend])({MAP}.data[1])")
        wanted = [
            [layer, head, "triangle-up" if sign > 0 else "triangle-down"]
            for layer, head, sign in zip(table.frame["layer"], table.frame["head"], signs, strict=True) if sign
        ]  # fmt: skip
        assert sorted(found[0]) == sorted(wanted)
        assert found[1] == bool(wanted)
        assert corrected == (metric != "sink_first")
    assert len(wanted) > 3
    assert browser.complaints() == []


def test_titles_are_left_to_the_page(browser: Any, report: Path) -> None:
    browser.open(report)
    titles = browser.run("[...document.querySelectorAll('[data-figure]')].map((e) => e.layout.title?.text ?? '')")
    assert len(titles) > 2
    assert set(titles) == {""}


@pytest.mark.parametrize("width", [1000, 390])
def test_a_figure_keeps_its_height_when_the_window_changes(browser: Any, report: Path, width: int) -> None:
    browser.size(1280, 800)
    browser.open(report)
    heights = "[...document.querySelectorAll('[data-figure]')].map((e) => e.clientHeight)"
    before = browser.run(heights)
    browser.size(width, 900)
    browser.run("new Promise((done) => setTimeout(done, 400))")
    assert browser.run(f"{MAP}.clientWidth") < width
    assert browser.run(heights) == before
    assert min(before) > 200
