"""Which heads have a card, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe.circuits.circuit import Circuit
from probe.page import cards
from probe.page.material import Material
from probe.page.telling import strongest
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.token_file import TokenTexts


def table_with(profiles: dict[str, np.ndarray]) -> HeadTable:
    """Two layers of two heads with profiles of our own."""
    table = HeadTable.of_heads(range(2), 2, {"model": "m"}, kv_heads=1)
    return HeadTable(table.frame, profiles, table.metadata)


def test_every_behaviour_task_and_circuit_has_its_first_head(
    head_table: HeadTable, ablation_study: TaskStudy, make_circuit: Callable[..., Circuit]
) -> None:
    circuit = make_circuit()
    found = cards.notable(head_table, [ablation_study], [circuit])
    assert len(found) == cards.MOST == len({head.name for head in found})
    by_name = {head.name: head for head in found}
    assert "ioi breaks or gains without it" in by_name["L18H6"].why
    first = max(circuit.heads, key=lambda head: abs(circuit.score_of(head)))
    assert "circuit of ioi" in by_name[f"L{first[0]}H{first[1]}"].why
    for criterion in (one for one in cards.CRITERIA if one.role == "induction"):
        rows = [row for row in strongest(head_table, criterion) if "induction" in head_table.frame["roles"][row]]
        assert rows[0] in [head.row for head in found]


def test_heads_that_stand_for_nothing_have_no_card(head_table: HeadTable) -> None:
    found = cards.notable(head_table)
    assert found
    assert all(head.why for head in found)
    bare = HeadTable.of_heads(range(2), 3, {"model": "m"}, kv_heads=1)
    assert cards.notable(bare) == []
    below = HeadTable(bare.frame.assign(induction_random=0.3), {}, bare.metadata)
    assert cards.notable(below) == []  # no head has the role


def test_ranks_are_counted_from_the_highest() -> None:
    frame = table_with({}).frame.assign(x=[0.5, np.nan, 0.9, 0.5])
    table = HeadTable(frame, {}, {})
    assert [cards.ranked(table, "x", row) for row in range(4)] == ["2nd", "", "1st", "2nd"]
    assert [cards.ordinal(n) for n in (3, 11, 12, 13, 21, 102, 111)] == [
        "3rd", "11th", "12th", "13th", "21st", "102nd", "111th"
    ]  # fmt: skip


def test_pairs_that_are_not_there_are_not_shown() -> None:
    shape = (2, 2, 4)
    table = table_with({
        "pair_query": np.full(shape, -1, np.int32), "pair_key": np.full(shape, -1, np.int32),
        "pair_weight": np.zeros(shape, np.float32),
    })  # fmt: skip
    table.profiles["pair_query"][0, 1, :2], table.profiles["pair_key"][0, 1, :2] = (9, 12), (5, 12)
    table.profiles["pair_weight"][0, 1, :2] = 0.75, 0.5
    assert cards.pairs(table, 1) == [cards.Pair(9, 5, 0.75), cards.Pair(12, 12, 0.5)]
    assert cards.pairs(table, 0) == []
    assert cards.pairs(table_with({}), 0) is None


def test_promoted_tokens_have_their_text(texts: TokenTexts) -> None:
    writes = np.full((2, 2, 5), -1, np.int32)
    writes[0, 0] = 8, 7, 9999, -1, -1
    table = table_with({"writes": writes})
    assert cards.promoted(table, 0, texts) == [texts.strings[8], texts.strings[7], "id 9999"]
    assert cards.promoted(table, 1, texts) is None
    assert cards.promoted(table, 0, None) is None


def test_places_are_named_by_what_they_receive() -> None:
    received = np.full((2, 2, 64), 1e-3)
    received[0, 0, 0], received[0, 0, 7], received[0, 0, 63] = 0.8, 0.2, 0.9
    same = TokenTexts((), (("<s>", *["a"] * 63), ("<s>", *["b"] * 63)))
    table = table_with({"received": received})
    # The last positions are seen by few queries: their 0.9 says nothing.
    assert cards.received(table, 0, same) == [(0, "<s>", 0.8), (7, None, 0.2)]
    assert cards.received(table, 1, same) == ["No position receives 0.05 or more of what could reach it."]
    assert cards.received(table_with({}), 0, same) == []


@pytest.mark.parametrize(
    ("mass", "said"),
    [
        ([0.6, 0.4, 0, 0, 0, 0, 0, 0], "Half of its attention falls on the token itself; 0.000 of it 16 or more."),
        ([0.1, 0.5, 0.4, 0, 0, 0, 0, 0], "Half of its attention falls at most 1 token back; 0.000 of it 16 or more."),
        ([0, 0, 0, 0.4, 0.2, 0.1, 0.2, 0.1],
         "Half of its attention falls at most 15 tokens back; 0.40 of it 16 or more."),
        ([0.5, 0.5, 0, 0], "Half of its attention falls on the token itself."),
    ],
)  # fmt: skip
def test_reach_is_where_half_of_the_mass_lies(mass: list[float], said: str) -> None:
    table = table_with({"offset_mass": np.tile(np.array(mass), (2, 2, 1))})
    assert cards.reach(table, 0) == said


def test_effects_carry_interval_q_and_the_clean_score(ablation_study: TaskStudy) -> None:
    ((task, text),) = cards.effects_of([ablation_study], (18, 6))
    numbers = ablation_study.numbers[0].set_index("name").loc["L18H6"]
    assert task == "ioi"
    assert text.startswith(f"{numbers['effect']:.2f} [{numbers['effect_low']:.2f}, {numbers['effect_high']:.2f}] of ")
    assert "logits, q = " in text
    assert text.endswith("(mean ablation, measured)")
    assert cards.effects_of([ablation_study], (99, 0)) == [("ioi", "not measured for this head")]


def test_the_smallest_set_that_holds_a_head_tells_of_recall() -> None:
    rows = [(0, "clean", 0, 0, 1.0), (2, "top", 0, 0, 0.25), (2, "random", 0, 0, 0.75), (4, "top", 0, 0, 0.0)]
    sets = [{"k": k, "arm": "top", "draw": 0, "heads": [[0, n] for n in range(k)]} for k in (2, 4)]
    sets.append({"k": 1, "arm": "random", "draw": 0, "heads": [[1, 1]]})
    run: Any = SimpleNamespace(
        ablation=pd.DataFrame(rows, columns=["k", "arm", "draw", "trial", "recall"]),
        metadata={"ablation": {"sets": sets}},
    )
    said = cards.retrieval_sets(run, (0, 1))
    assert said is not None
    assert "1.00 with all heads, 0.25 without the top 2" in said
    assert "0.75 without as many random heads" in said
    assert cards.retrieval_sets(run, (1, 1)) is None
    assert cards.retrieval_sets(None, (0, 1)) is None


def test_a_circuit_is_told_with_role_score_and_edges(make_circuit: Callable[..., Circuit]) -> None:
    circuit = make_circuit()
    inside, outside = cards.memberships([circuit], (18, 6))[0], cards.memberships([circuit], (1, 1))[0]
    assert (inside.inside, inside.role) == (True, "name mover")
    assert "logits; attention END to IO 0.71, copy score 0.90" in inside.text or "copy score 0.90" in inside.text
    assert "logits" in inside.writes
    assert all(port.startswith(("its query reads", "its key reads", "its value reads")) for port in inside.reads)
    assert len(inside.writes) <= cards.EDGES
    assert not outside.inside
    assert outside.text.startswith("score ")


def test_what_is_missing_names_the_command(head_table: HeadTable, ablation_study: TaskStudy) -> None:
    page = Material(head_table, studies=[ablation_study])
    assert [command for _, command in cards.missing(page)] == ["probe circuit"]
    assert len(cards.not_kept(page)) == 2
    bare = Material(HeadTable.of_heads(range(2), 3, {}, kv_heads=1))
    assert [command for _, command in cards.missing(bare)] == ["probe scan", "probe ablate", "probe circuit"]
    assert cards.not_kept(bare) == []
