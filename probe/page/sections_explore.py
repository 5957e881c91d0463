"""The report's section in which a reader picks any head and looks at everything that was kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from probe.circuits.circuit import Circuit
from probe.page.explore import explorer_data
from probe.page.markup import Html, el, json_script
from probe.page.sections import section
from probe.table import HeadTable


def explore_part(
    table: HeadTable,
    tokens: Sequence[str] | None = None,
    strings: Mapping[int, str] | None = None,
    circuits: Sequence[Circuit] = (),
) -> Html:
    """The place of the explorer and its data; the page's script draws it there with the table's own numbers.

    tokens, strings, circuits: as `explorer_data` takes them, which says what it raises.
    """
    notes = []
    if "pair_query" not in table.profiles and table.scanned:
        notes.append("This table holds no strongest pairs and no windows: it was made before scans kept them.")
    elif tokens is None and table.scanned:
        notes.append("Token strings were not given, so positions stand for tokens.")
    return section(
        "explore", "Explore",
        el("p", f"Pick any head: {_what(table, circuits)}."),
        *(el("p", note, class_="note") for note in notes),
        el("div", el("p", "The explorer is drawn by a script.", class_="quiet"), id="explorer"),
        json_script("explorer-data", explorer_data(table, tokens, strings, circuits)),
    )  # fmt: skip


def _what(table: HeadTable, circuits: Sequence[Circuit]) -> str:
    """What the explorer shows of a head, in words."""
    parts = {
        "where it looks": "thumbnail" in table.profiles,
        "on what": "pair_query" in table.profiles,
        "what it writes": "writes" in table.profiles,
        "what breaks without it": any(name.startswith(("ablation_", "attribution_")) for name in table.metrics),
        "its part in circuits": bool(circuits),
        "its numbers among all others": True,
    }
    return ", ".join(part for part, shown in parts.items() if shown)
