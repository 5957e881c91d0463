"""The report in a headless Chromium. Without one, the tests are skipped by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probe.analyses.overlap import Overlap
from probe.circuits.circuit import Circuit
from probe.page.report import write_report
from probe.page.report_circuit import write_circuit_report, write_matrix_report
from probe.table import HeadTable

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(
    tmp_path_factory: pytest.TempPathFactory,
    head_table: HeadTable,
    retrieval_result: Any,
    token_text: list[list[str]],
) -> Path:
    folder = tmp_path_factory.mktemp("a folder with # and spaces")
    return write_report(head_table, folder, retrieval=retrieval_result, tokens_text=token_text)


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    browser.size(1280, 800)
    browser.open(report)
    return browser


def test_no_complaint_and_no_request(page: Any) -> None:
    assert page.complaints() == []
    asked = [address for address in page.requests() if not address.startswith(("data:", "blob:"))]
    assert [address.rsplit("/", 1)[1] for address in asked] == ["report.html"]


def test_every_figure_is_drawn(page: Any) -> None:
    places = page.run("document.querySelectorAll('[data-figure]').length")
    assert places == 7
    assert page.run("document.querySelectorAll('[data-figure] svg.main-svg').length") >= places
    assert page.run("[...document.images].every((image) => image.naturalWidth > 0)")


def test_hostile_tokens_do_nothing_and_read_as_they_are(page: Any, token_text: list[list[str]]) -> None:
    assert page.run("document.title").startswith("Attention heads of invented-30x9 <b>")
    assert page.run("[...document.images].every((image) => image.src.startsWith('data:'))")
    shown = page.run("[...document.querySelectorAll('[data-token]')].map((e) => e.dataset.token)")
    assert token_text[0][57] in {json.loads(token) for token in shown}


def test_the_policy_stops_scripts_and_requests(page: Any) -> None:
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = 1\">')")
    assert page.run("fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'stopped')") == "stopped"
    assert page.run("window.owned === undefined")
    assert any("Content Security Policy" in line for line in page.complaints())


@pytest.mark.parametrize(
    ("width", "height", "mobile"), [(1280, 800, False), (390, 844, True), (320, 600, True)]
)
def test_the_page_never_scrolls_sideways(
    browser: Any, report: Path, width: int, height: int, mobile: bool
) -> None:
    browser.size(width, height, mobile)
    browser.open(report)
    assert browser.run("document.documentElement.scrollWidth") <= width
    outside = (
        "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, svg') && "
        "e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"
    )
    assert browser.run(outside) == 0


CHOOSE = """(() => {
  const choice = document.getElementById('map-metric');
  choice.value = 'entropy';
  choice.dispatchEvent(new Event('change'));
  return document.querySelector('[data-figure=map]').data[0].z[4][7];
})()"""
FIND = """(() => {{
  const filter = document.getElementById('filter-text');
  filter.value = '{}';
  filter.dispatchEvent(new Event('input'));
}})()"""


def test_choosing_a_metric_refills_the_map(page: Any, head_table: HeadTable) -> None:
    value = page.run(CHOOSE)
    # The page holds six significant figures.
    assert value == pytest.approx(head_table.frame["entropy"][4 * 9 + 7], rel=5e-6)
    assert "natural logarithm" in page.run("document.getElementById('map-definition').textContent")


def rows(page: Any) -> list[str]:
    found = page.run("[...document.querySelectorAll('#heads tbody th')].map((cell) => cell.textContent)")
    return [str(name) for name in found]


def test_the_table_sorts_and_filters(page: Any, head_table: HeadTable) -> None:
    assert len(rows(page)) == 270
    page.run("document.querySelector('#heads button[data-column=induction_random]').click()")
    ordered = head_table.frame.sort_values("induction_random", ascending=False)
    best, worst = (f"L{ordered['layer'].iloc[place]}H{ordered['head'].iloc[place]}" for place in (0, -1))
    assert rows(page)[0] == best
    page.run("document.querySelector('#heads button[data-column=induction_random]').click()")
    assert rows(page)[0] == worst
    page.run(FIND.format("L1"))
    assert len(rows(page)) == 9
    page.run(FIND.format("L1 idle"))
    idle = [role for role in head_table.frame["roles"][9:18] if "idle" in role]
    assert len(rows(page)) == len(idle)


def test_the_keyboard_reaches_and_sorts(page: Any) -> None:
    reached = []
    for _ in range(200):
        page.press("Tab")
        reached.append(
            page.run("document.activeElement.id || document.activeElement.textContent.slice(0, 20)")
        )
        if page.run("document.activeElement.dataset.column === 'sink_first'"):
            break
    assert {"Skip to the findings", "map-metric", "filter-text", "filter-role", "filter-columns"} <= set(
        reached
    )
    page.press("Enter")
    assert page.run("document.activeElement.dataset.column") == "sink_first"
    assert page.run("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"


def test_an_empty_report_complains_of_nothing(browser: Any, head_table: HeadTable, tmp_path: Path) -> None:
    bare = HeadTable(head_table.frame, {}, {"model": "m"})
    browser.open(write_report(bare, tmp_path))
    assert browser.complaints() == []


@pytest.fixture(scope="module")
def study_report(tmp_path_factory: pytest.TempPathFactory, effect_table: HeadTable, ablation_study: Any) -> Path:
    return write_report(effect_table, tmp_path_factory.mktemp("study"), studies=[ablation_study])


@pytest.mark.parametrize(("width", "height", "mobile"), [(1280, 800, False), (390, 844, True), (320, 600, True)])
def test_a_study_is_drawn_whole_and_never_scrolls_sideways(
    browser: Any, study_report: Path, width: int, height: int, mobile: bool
) -> None:
    browser.size(width, height, mobile)
    browser.open(study_report)
    assert browser.complaints() == []
    assert browser.run("document.title") == "Attention heads of invented-30x9"
    assert browser.run("document.querySelectorAll('[data-figure]').length") == 6
    assert browser.run("document.querySelectorAll('[data-figure] svg.main-svg').length") >= 6
    assert browser.run("document.documentElement.scrollWidth") <= width
    outside = (
        "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, svg') && "
        "e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"
    )
    assert browser.run(outside) == 0


def test_a_study_has_no_roles_to_choose_and_shows_q(browser: Any, study_report: Path, effect_table: HeadTable) -> None:
    browser.size(1280, 800)
    browser.open(study_report)
    assert browser.run("document.getElementById('filter-role').closest('label').hidden")
    assert browser.run("document.querySelectorAll('#heads thead th').length") == 3
    browser.run("document.querySelector('#heads button[data-column=ablation_ioi]').click()")
    assert rows(browser)[0] == "L18H6"
    assert " q = " in browser.run("document.querySelector('#heads tbody small').textContent")
    hover = browser.run("document.querySelector('[data-figure=map]').data[0].text[18][6]")
    assert hover.startswith("<b>L18H6</b><br>ablation_ioi 1.83 [")
    assert "q = " in hover


@pytest.fixture(scope="module")
def circuit_page(tmp_path_factory: pytest.TempPathFactory, several_circuits: tuple[Circuit, ...]) -> Path:
    return write_circuit_report(several_circuits[0], tmp_path_factory.mktemp("circuit"))


@pytest.fixture(scope="module")
def matrix_page(
    tmp_path_factory: pytest.TempPathFactory,
    several_circuits: tuple[Circuit, ...],
    several_overlaps: tuple[Overlap, ...],
    transfer_table: pd.DataFrame,
    removed: pd.DataFrame,
) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    return write_matrix_report(several_circuits, several_overlaps, folder, transfer=transfer_table, removed=removed)


@pytest.mark.parametrize(("width", "height", "mobile"), [(1280, 800, False), (390, 844, True), (320, 600, True)])
def test_circuits_are_drawn_whole_and_never_scroll_sideways(
    browser: Any, circuit_page: Path, matrix_page: Path, width: int, height: int, mobile: bool
) -> None:
    for path, figures in ((circuit_page, 4), (matrix_page, 13)):
        browser.size(width, height, mobile)
        browser.open(path)
        assert browser.complaints() == []
        assert browser.run("document.querySelectorAll('[data-figure]').length") == figures
        assert browser.run("document.querySelectorAll('[data-figure] svg.main-svg').length") >= figures
        assert browser.run("document.documentElement.scrollWidth") <= width
        outside = (
            "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, .wide, svg') && "
            "e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length"
        )
        assert browser.run(outside) == 0


PRESS = """(() => {
  const place = document.querySelector('[data-figure=circuit_graph_0]');
  place.emit('plotly_click', {points: [{customdata: 'a18.h6'}]});
  return place.layout.meta.edges.map(([trace, from, to]) => [place.data[trace].opacity, from, to]);
})()"""


def test_pressing_a_part_leaves_its_own_edges(browser: Any, circuit_page: Path) -> None:
    browser.size(1280, 800)
    browser.open(circuit_page)
    seen = browser.run(PRESS)
    assert any(edge[0] > 0.4 for edge in seen)
    assert all((edge[0] > 0.4) == ("a18.h6" in edge[1:]) for edge in seen)
    # Pressed again, all are back.
    assert all(edge[0] > 0.4 for edge in browser.run(PRESS))


def test_labels_of_parts_do_not_cover_each_other(browser: Any, circuit_page: Path) -> None:
    browser.size(1280, 800)
    browser.open(circuit_page)
    boxes = browser.run(
        "[...document.querySelectorAll('[data-figure=circuit_graph_0] .annotation .bg')].map((e) => "
        "{ const b = e.getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom]; })"
    )
    assert len(boxes) > 30
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert one[1] <= other[0] or other[1] <= one[0] or one[3] <= other[2] or other[3] <= one[2]
