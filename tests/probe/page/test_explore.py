"""The explorer's data say what the table says: nothing rounded away, cut, or taken from another head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from probe.circuits.circuit import Circuit
from probe.errors import ResultsError
from probe.page.explore import SHADES, explorer_data
from probe.page.thumbnails import palette, shade
from probe.table import HeadTable
from probe.text import show_token
from probe.token_file import TokenTexts
from tests.probe.page.test_packing import unpack


@pytest.fixture(scope="module")
def data(closeup_table: HeadTable, texts: TokenTexts, several_circuits: tuple[Circuit, ...]) -> dict[str, Any]:
    return explorer_data(closeup_table, texts.tokens[0], texts.strings, several_circuits)


def arrays(data: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: unpack(packed) for name, packed in data["groups"][0]["arrays"].items()}


def test_closeups_are_the_tables_row_by_row(data: dict[str, Any], closeup_table: HeadTable) -> None:
    found = arrays(data)
    for row in (0, 1, 100, 269):
        for name in ("pair_query", "pair_key", "pair_weight", "window_at", "writes", "offset_mass"):
            assert (found[name][row] == closeup_table.profile(name, row)).all()
        window = np.nan_to_num(closeup_table.profile("window", row))
        assert found["window"][row] / data["whole"] == pytest.approx(window, abs=0.5 / data["whole"])


def test_shades_are_the_reports_and_at_most_a_step_off(data: dict[str, Any], closeup_table: HeadTable) -> None:
    assert data["shades"] == [palette()[code].tolist() for code in shade(SHADES)]
    codes, weights = arrays(data)["thumbnail"][5], closeup_table.profile("thumbnail", 5)
    large = weights > 1e-2
    # Twenty steps of a tenth of a decade: half a step off at most.
    assert np.abs(np.log10(SHADES[codes[large]] / weights[large])).max() <= 0.0501
    assert (codes[weights <= 1e-4] == 0).all()


def test_received_keeps_every_peak(data: dict[str, Any], closeup_table: HeadTable) -> None:
    found, edges = arrays(data), data["groups"][0]["edges"]
    received = closeup_table.profile("received", 3)
    assert edges[0] == 0
    assert edges[-1] == len(received)
    floor, levels = data["received"]["floor"], data["received"]["levels"]
    largest = floor ** (1 - found["received"][3].astype(float) / levels)
    for bin, (first, last) in enumerate(pairwise(edges)):
        assert largest[bin] == pytest.approx(max(received[first:last].max(), floor), rel=0.03)
    best = np.argsort(-received, kind="stable")[:3]
    assert found["peak_at"][3].tolist() == best.tolist()
    assert found["peak"][3] == pytest.approx(received[best])


def test_every_position_shown_has_its_text(data: dict[str, Any], closeup_table: HeadTable, texts: TokenTexts) -> None:
    known = {first + place: text for first, run in data["texts"] for place, text in enumerate(run)}
    assert all(known[place] == show_token(texts.tokens[0][place]) for place in known)
    for row in range(0, 270, 13):
        for name, before, after in (("pair_query", 7, 2), ("pair_key", 7, 3), ("window_at", 0, 23)):
            for place in closeup_table.profile(name, row).tolist():
                wanted = range(max(0, place - before), min(place + after + 1, 4096)) if place >= 0 else ()
                assert set(wanted) <= set(known)
    assert data["strings"]["5"] == "␣word5"


def test_texts_are_only_what_is_shown(closeup_table: HeadTable, texts: TokenTexts) -> None:
    few = explorer_data(closeup_table, texts.tokens[0], heads=["L0H0"])
    assert sum(len(run) for _, run in few["texts"]) < 300


def test_circuits_by_row(data: dict[str, Any], several_circuits: tuple[Circuit, ...]) -> None:
    first, told = several_circuits[0], data["circuits"][0]
    row = 18 * 9 + 6
    score, low, high, member, role = told["nodes"][row]
    node = first.node_of((18, 6))
    assert (score, low, high) == pytest.approx((node.score, node.low, node.high), rel=1e-3)
    assert (member, role) == (1, "name_mover")
    into = [edge for edge in first.edges if edge.in_circuit and edge.target.startswith("a18.h6<")]
    strongest = max(into, key=lambda edge: abs(edge.score))
    assert told["edges"][row]["into"][0][3] == pytest.approx(strongest.score, rel=1e-3)
    assert len(told["edges"][row]["into"]) <= 4
    assert any(end[0] == "logits" and end[1] == -1 for end in told["edges"][row]["out"])


def test_it_opens_on_a_head_that_stands_for_a_behaviour(data: dict[str, Any], closeup_table: HeadTable) -> None:
    start = data["start"]
    assert start["metric"] == "induction_random"
    assert start["row"] == int(closeup_table.frame["induction_random"].idxmax())


def test_an_older_table_gives_what_it_has(head_table: HeadTable) -> None:
    data = explorer_data(head_table)
    assert set(data["groups"][0]["arrays"]) == {"thumbnail", "offset_mass", "received", "peak", "peak_at"}
    assert data["closeups"] is None
    bare = explorer_data(HeadTable(head_table.frame, {}, {}))
    assert bare["groups"][0]["arrays"] == {}


def test_stacks_are_kept_apart(closeup_table: HeadTable) -> None:
    frame = closeup_table.frame.copy()
    frame.loc[:8, "stack"] = "encoder"
    window = closeup_table.profiles["window"][:1]
    mixed = HeadTable(frame, {"window.encoder.self": window, "window": closeup_table.profiles["window"][1:]}, {})
    groups = explorer_data(mixed)["groups"]
    assert [group["label"] for group in groups] == ["encoder self", "decoder self"]
    assert [len(group["rows"]) for group in groups] == [9, 261]
    assert [unpack(group["arrays"]["window"]).shape[0] for group in groups] == [9, 261]


def test_close_ups_left_out_are_gone_and_the_table_is_untouched(closeup_table: HeadTable) -> None:
    before = closeup_table.profiles["pair_query"].copy()
    data = explorer_data(closeup_table, heads=["L2H3"])
    found = arrays(data)
    assert len(data["left_out"]) == 269
    assert 21 not in data["left_out"]
    assert (found["pair_query"][21] == closeup_table.profile("pair_query", 21)).all()
    assert (found["pair_query"][20] == -1).all()
    assert not found["window"][20].any()
    assert (closeup_table.profiles["pair_query"] == before).all()


def test_refusals(closeup_table: HeadTable, texts: TokenTexts, make_circuit: Callable[..., Circuit]) -> None:
    with pytest.raises(ResultsError, match=r"reach position 4,09\d and only 512 tokens were given"):
        explorer_data(closeup_table, texts.tokens[0][:512])
    with pytest.raises(ResultsError, match=r"head a0\.h9, which the table of 270 heads does not have"):
        explorer_data(closeup_table, circuits=[make_circuit(heads=12)])
    with pytest.raises(ResultsError, match="no head 'L99H0'"):
        explorer_data(closeup_table, heads=["L99H0"])


def test_a_circuit_whose_edges_touch_no_head_has_none(closeup_table: HeadTable, make_circuit: Any) -> None:
    circuit = replace(make_circuit(), edges=())
    assert explorer_data(closeup_table, circuits=[circuit])["circuits"][0]["edges"] == {}
