from __future__ import annotations

import json

import pytest

from probe.page.markup import json_script
from probe.page.table_data import table_data
from probe.table import HeadTable


def test_numbers_are_the_tables_at_six_figures(head_table: HeadTable) -> None:
    data = table_data(head_table)
    assert data["names"][:10] == [*(f"L0H{head}" for head in range(9)), "L1H0"]
    assert data["columns"]["sink_first"] == pytest.approx(head_table.frame["sink_first"].tolist(), rel=5e-6)
    assert data["columns"]["layer"] == head_table.frame["layer"].tolist()
    assert set(data["metrics"]) == set(head_table.metrics)
    assert "roles" not in data["columns"]


def test_missing_values_are_null_in_the_page(head_table: HeadTable) -> None:
    text = json_script("x", table_data(head_table)).split(">", 1)[1].rsplit("<", 1)[0]
    assert set(json.loads(text)["columns"]["sink_learned"]) == {None}


def test_effects_come_first(effect_table: HeadTable) -> None:
    assert table_data(effect_table)["key"][0] == "ablation_ioi"
