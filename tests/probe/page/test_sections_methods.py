"""Definitions of every column, and sources with what is done otherwise."""

from __future__ import annotations

from probe.page.material import Material
from probe.page.sections_methods import methods_part
from probe.table import HeadTable


def test_columns_and_sources_are_there(head_table: HeadTable) -> None:
    html = methods_part(Material(head_table))
    for name in head_table.metrics:
        assert f">{name.split('_')[0]}" in html
    assert "arXiv 2309.17453" in html
    assert "Here: sink_rate is Gu" in html
    assert "Efron and Tibshirani" in html
    assert "href" not in html


def test_a_table_without_a_scan_has_no_notation() -> None:
    bare = HeadTable.of_heads(range(2), 3, {}, kv_heads=1)
    html = methods_part(Material(bare))
    assert "residual" not in html
    assert "Efron" in html
