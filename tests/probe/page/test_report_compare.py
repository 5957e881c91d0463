from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe.comparisons.compare import compare
from probe.comparisons.comparison import Comparison
from probe.page.report_compare import compare_chapter, write_compare_report
from probe.table import HeadTable


def words(text: str) -> str:
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def data_of(text: str) -> Any:
    block = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, flags=re.S)
    assert block is not None
    return json.loads(block[1], parse_constant=pytest.fail)


def test_a_comparison_is_one_page(comparison: Comparison, tmp_path: Path) -> None:
    path = write_compare_report(comparison, tmp_path / "out", command="probe compare a b")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    text = path.read_text()
    said, data = words(text), data_of(text)
    assert "270 pairs of heads, matched by name, compared in 19 metrics. Every change is B − A." in said
    assert "probe compare a b" in said
    assert "<img src=x" not in text
    assert "other &lt;/script&gt;&lt;img" in text
    places = set(re.findall(r'data-figure="([^"]*)"', text))
    assert places == set(data["figures"])
    assert {"map", "likeness", "against_0"} <= places
    assert data["key"][0] == "difference_sink_first"
    assert data["metrics"]["difference_sink_first"]["title"] == "Change in: Attention on the first token"
    assert sum("changed" in roles for roles in data["roles"]) == 2
    assert "metric that changed" not in said
    for name in ("Metrics", "A against B", "Changed heads", "Roles", "Which head is which", "What differs"):
        assert re.search(rf'<a href="#[\w-]+">{name}</a>', text), name


def test_equal_comparisons_give_equal_pages(comparison: Comparison, tmp_path: Path) -> None:
    one, other = (write_compare_report(comparison, tmp_path / name) for name in "ab")
    assert one.read_bytes() == other.read_bytes()


def test_matches_by_behaviour_are_listed(
    head_table: HeadTable, make_table: Callable[..., HeadTable], tmp_path: Path
) -> None:
    found = compare(head_table, make_table(seed=1), match_by="behaviour", metrics=["sink_first"])
    text = write_compare_report(found, tmp_path).read_text()
    said = words(text)
    assert f"The 40 nearest of {len(found.matching.rows)} pairs" in said
    assert f"{len(found.matching.alone_b)} heads of B without a partner" in said
    assert "↔" in said
    assert "compared in 1 metric." in said


def test_effects_alone_make_a_page_too(effect_table: HeadTable) -> None:
    chapter = compare_chapter(compare(effect_table, effect_table))
    assert set(chapter.figures) == {"against_0", "against_1"}
    assert "No metric of a scan describes every head" in words(chapter.sections["matching"][1])
    assert "No head changed beyond what chance gives." in words(chapter.sections["changed"][1])
    assert "No head has a role that could be compared." in words(chapter.sections["role-changes"][1])
