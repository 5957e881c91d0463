"""Cards as markup: addresses that are there, text that stays text."""

from __future__ import annotations

import re
from collections.abc import Callable

from probe.circuits.circuit import Circuit
from probe.page.material import Material
from probe.page.sections_cards import cards_part
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.token_file import TokenTexts


def test_cards_are_linked_and_complete(
    closeup_table: HeadTable, texts: TokenTexts, ablation_study: TaskStudy, make_circuit: Callable[..., Circuit]
) -> None:
    html = cards_part(Material(closeup_table, None, texts, None, [ablation_study], [make_circuit()]))
    assert html is not None
    made = re.findall(r'<article id="(L\d+H\d+)"', html)
    assert len(made) == 16 == len(set(made))
    assert set(re.findall(r'href="#(\S+?)"', html)) == {*made, "explore"}
    card = html[html.index('<article id="L18H6"') :].partition("</article>")[0]
    for title in ("What it does", "Where it looks", "What it writes", "Without it", "In circuits"):
        assert f"<h4>{title}</h4>" in card
    assert "Not in this report" not in html


def test_hostile_tokens_stay_text(closeup_table: HeadTable, texts: TokenTexts) -> None:
    frame = closeup_table.frame.copy()
    frame.loc[0, "induction_random"] = 1.0  # L0H0 looks at the hostile token; give it a card
    frame["roles"] = [["induction"] if row == 0 else [] for row in range(len(frame))]
    html = cards_part(Material(HeadTable(frame, closeup_table.profiles, closeup_table.metadata), None, texts))
    assert html is not None
    assert 'id="L0H0"' in html
    assert "&lt;img" in html
    assert "<img src=x" not in html
    assert "</script" not in html


def test_near_pairs_share_one_stretch_and_far_ones_do_not(closeup_table: HeadTable, texts: TokenTexts) -> None:
    profiles = {name: values.copy() for name, values in closeup_table.profiles.items()}
    profiles["pair_query"][...], profiles["pair_key"][...] = -1, -1
    profiles["pair_query"][..., 0], profiles["pair_key"][..., 0] = 60, 58
    profiles["pair_query"][..., 1], profiles["pair_key"][..., 1] = 90, 90
    profiles["pair_query"][..., 2], profiles["pair_key"][..., 2] = 400, 60
    html = cards_part(Material(HeadTable(closeup_table.frame, profiles, closeup_table.metadata), None, texts))
    assert html is not None
    near, same, far = re.findall(r"<ol.*?</ol>", html, flags=re.S)[0].split("</li>")[:3]
    assert (near.count("<q>"), same.count("<q>"), far.count("<q>")) == (1, 1, 2)
    assert (near.count('class="query"'), near.count('class="key"')) == (1, 1)
    assert "on itself" in same
    assert 'class="query key"' in same
    assert "340 back" in far


def test_without_text_positions_stand_for_tokens(closeup_table: HeadTable) -> None:
    html = cards_part(Material(closeup_table))
    assert html is not None
    assert "positions stand for tokens" in html
    assert re.search(r"from position [\d,]+ to [\d,]+", html)


def test_no_card_no_section() -> None:
    assert cards_part(Material(HeadTable.of_heads(range(2), 3, {}, kv_heads=1))) is None
