from __future__ import annotations

from typing import Any

from probe.page.sections_explore import explore_part
from probe.table import HeadTable
from probe.token_file import TokenTexts


def test_the_section_holds_place_and_data(closeup_table: HeadTable, texts: TokenTexts) -> None:
    part = explore_part(closeup_table, texts.tokens[0], texts.strings)
    assert part.startswith('<section id="explore">')
    assert 'id="explorer"' in part
    assert 'id="explorer-data"' in part
    assert "class=\"note\"" not in part
    assert "<img" not in part


def test_what_is_missing_is_said(head_table: HeadTable, closeup_table: HeadTable, effect_table: HeadTable) -> None:
    assert "holds no strongest pairs" in explore_part(head_table)
    assert "positions stand for tokens" in explore_part(closeup_table)
    # A study alone has nothing to say about where heads look.
    assert "class=\"note\"" not in explore_part(effect_table)


def test_it_promises_what_it_has(closeup_table: HeadTable, effect_table: HeadTable, several_circuits: Any) -> None:
    whole = "where it looks, on what, what it writes, its part in circuits, its numbers among all others."
    assert whole in explore_part(closeup_table, circuits=several_circuits)
    assert "Pick any head: what breaks without it, its numbers among all others." in explore_part(effect_table)
