"""`probe.explore` on tables, results and folders."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

import probe
from probe.circuits.circuit import Circuit
from probe.errors import ResultsError
from probe.results import Results
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.token_file import TokenTexts, save_tokens
from probe.tokens import tokens_hash


def data(explorer: probe.Explorer) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="widget-data">(.*?)</script>', explorer.page, re.DOTALL)
    assert found is not None
    read: dict[str, Any] = json.loads(found[1])
    return read


def test_it_is_one_frame_under_two_megabytes(closeup_table: HeadTable, texts: TokenTexts) -> None:
    explorer = probe.explore(closeup_table, texts)
    shown = explorer._repr_html_()
    assert len(shown.encode()) < 2_000_000
    assert shown.count("<") == 2
    assert html.unescape(shown.split('srcdoc="')[1].split('" sandbox')[0]) == explorer.page
    assert explorer.title == "Attention heads of invented-30x9 <b>not a model</b>"
    assert "270 heads in 30 layers, read on 8 sequences of 4,096 tokens." in explorer.page
    assert repr(explorer).startswith("Explorer(Attention heads of invented-30x9")


def test_equal_inputs_give_equal_pages(closeup_table: HeadTable, texts: TokenTexts) -> None:
    assert probe.explore(closeup_table, texts).page == probe.explore(closeup_table, texts).page


def test_chosen_heads_make_a_small_page(closeup_table: HeadTable, texts: TokenTexts) -> None:
    few = probe.explore(closeup_table, texts, heads=["L0H0", "L18H6"])
    assert len(few.page) < 300_000
    assert len(few.page) < len(probe.explore(closeup_table, texts).page) / 2
    assert len(data(few)["shown"]["left_out"]) == 268


def test_studies_and_circuits_are_joined(
    closeup_table: HeadTable, texts: TokenTexts, ablation_study: TaskStudy, several_circuits: tuple[Circuit, ...]
) -> None:
    found = data(probe.explore(closeup_table, texts, [ablation_study], several_circuits))
    assert {"ablation_ioi", "ablation_ioi_low", "ablation_ioi_q", "attribution_ioi"} <= set(found["table"]["columns"])
    assert [circuit["task"] for circuit in found["shown"]["circuits"]] == ["ioi", "greater_than", "induction"]


def test_columns_that_are_there_are_not_made_again(effect_table: HeadTable, ablation_study: TaskStudy) -> None:
    assert data(probe.explore(effect_table, studies=[ablation_study])) == data(probe.explore(effect_table))


def test_results_bring_what_they_hold(
    closeup_table: HeadTable, texts: TokenTexts, retrieval_result: Any, several_circuits: tuple[Circuit, ...]
) -> None:
    results = Results(Path("x"), "report", closeup_table, retrieval_result, (), several_circuits[:1], tokens=texts)
    found = data(probe.explore(results))
    assert found["shown"]["texts"]
    assert "retrieval" in found["table"]["metrics"]
    assert [circuit["task"] for circuit in found["shown"]["circuits"]] == ["ioi"]
    with pytest.raises(ResultsError, match="x: holds no head table to explore"):
        probe.explore(Results(Path("x"), "overlap"))


def test_a_folder_shows_what_its_table_shows(closeup_table: HeadTable, texts: TokenTexts, tmp_path: Path) -> None:
    table = closeup_table.with_profiles({}, {"tokens_hash": tokens_hash(texts.ids)})
    table.save(tmp_path)
    save_tokens(tmp_path, texts)
    made = probe.explore(tmp_path)
    assert made.page == probe.explore(table, texts).page
    page = made.save(tmp_path / "explore.html").read_text(encoding="utf-8")
    assert page == made.page
    with pytest.raises(ResultsError, match="cannot be written"):
        made.save(tmp_path / "absent" / "explore.html")


def test_lists_of_tokens_do_too(closeup_table: HeadTable, texts: TokenTexts) -> None:
    found = data(probe.explore(closeup_table, [list(one) for one in texts.tokens]))["shown"]
    assert found["texts"] == data(probe.explore(closeup_table, texts))["shown"]["texts"]
    assert found["strings"] == {}
