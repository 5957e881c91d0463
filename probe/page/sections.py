"""The sections of the report, each a function from tables to markup."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probe.formats import plain
from probe.page import thumbnails
from probe.page.findings import Finding
from probe.page.markup import Html, el, join
from probe.page.sink_tokens import STRONG, FirstToken, SinkToken
from probe.page.telling import Telling, names
from probe.roles import RULES, explain
from probe.table import HeadTable
from probe.text import number, show_token, tokens_in_words, with_interval

ROLE_COLOURS = {
    "sink": (0, 114, 178), "previous_token": (213, 94, 0), "induction": (0, 158, 115),
    "duplicate_token": (204, 121, 167), "retrieval": (180, 120, 0), "local": (86, 140, 190),
    "idle": (85, 85, 85),
}  # fmt: skip


def figure(name: str, caption: str, *, wide: bool = False) -> Html:
    """The place of a drawn figure, with the words a reader without it gets.

    wide: it needs a screen's width to be read, and scrolls inside itself where there is less.
    """
    place = el("div", class_="plot", data_figure=name, role="img", aria_label=caption)
    shown = el("div", place, class_="wide", role="region", aria_label="Figure", tabindex="0") if wide else place
    return el("figure", shown, el("figcaption", caption))


def section(identifier: str, title: str, *content: object) -> Html:
    """A titled section that the contents list can point at."""
    return el("section", el("h2", title), *content, id=identifier)


def finding_cards(found: Sequence[Finding], uncertainty: str) -> Html:
    """Findings first: a large number, a sentence, the evidence."""
    cards = [
        el(
            "article",
            el("p", finding.figure, class_="figure-number"),
            el("h3", finding.title),
            el("p", finding.text),
            el("ul", *(el("li", head) for head in finding.heads), class_="heads") if finding.heads else None,
        )
        for finding in found
    ]
    return section("findings", "Findings", el("p", uncertainty, class_="note"), el("div", *cards, class_="cards"))


def roles_part(table: HeadTable) -> Html:
    """Which heads play which roles: a small map, the rule, and every head by name."""
    labels = np.array(names(table.frame))
    blocks = []
    for role in RULES:
        hits = np.array([role in roles for roles in table.frame["roles"]])
        listed = list(labels[hits])
        blocks.append(
            el(
                "article",
                _role_map(table, role, hits),
                el(
                    "div",
                    el("h3", role.replace("_", " "), " ", el("span", f"{len(listed)} heads", class_="count")),
                    el("p", explain(role, table.thresholds), class_="rule"),
                    _head_list(listed),
                ),
                class_="role",
            )
        )
    several = sum(len(roles) > 1 for roles in table.frame["roles"])
    none = sum(not roles for roles in table.frame["roles"])
    intro = f"A head may play several roles or none: {several} play more than one, {none} none."
    caption = "In the small maps every cell is a head: heads from left to right, layer 0 on top."
    return section("roles", "Roles", el("p", intro, " ", caption), el("div", *blocks, class_="roles"))


def _role_map(table: HeadTable, role: str, hits: np.ndarray) -> Html:
    frame = table.frame.assign(_hit=hits)
    first = frame.iloc[0]
    frame = frame[(frame["stack"] == first["stack"]) & (frame["kind"] == first["kind"])]
    grid = frame.pivot(index="layer", columns="head", values="_hit").to_numpy(dtype=bool)
    uri = thumbnails.membership(grid, ROLE_COLOURS[role])
    height, width = grid.shape
    scale = max(1, min(8, 200 // max(height, width)))
    text = f"Map of the heads with the role {role.replace('_', ' ')}"
    return el("img", src=uri, alt=text, width=width * scale, height=height * scale, class_="pixels")


def _head_list(listed: Sequence[str], most: int = 40) -> Html:
    if not listed:
        return el("p", "No head.", class_="quiet")
    items = [el("li", name) for name in listed]
    if len(listed) <= most:
        return el("ul", *items, class_="chips")
    return join(
        el("ul", *items[:most], class_="chips"),
        el("details", el("summary", f"{len(listed) - most} more"), el("ul", *items[most:], class_="chips")),
    )


def token(text: str) -> Html:
    """A token as the reader sees it; the exact string, as JSON, in `data-token` and the tooltip."""
    exact = json.dumps(text)
    return el("code", show_token(text), class_="token", data_token=exact, title=exact)


def sinks_part(first: FirstToken | None, later: Sequence[SinkToken] | None, named: bool) -> Html:
    """Sink tokens by name: what stands at position 0, and which later tokens heads rest on."""
    parts: list[object] = []
    if not named:
        parts.append(el("p", "Token strings were not given, so positions stand for tokens.", class_="note"))
    if first is None:
        parts.append(el("p", "What positions receive was not kept (no `received` profile).", class_="note"))
    else:
        parts.append(_first_token(first))
    if later is None:
        parts.append(el("p", "Where later sinks stand was not kept (no `sink_other_at` profile).", class_="note"))
    elif not later:
        parts.append(el("p", f"No head gives a later token {STRONG:g} or more of its attention on average."))
    else:
        parts.append(_later_sinks(later))
    return section("sinks", "Sink tokens", *parts)


def _first_token(first: FirstToken) -> Html:
    stands: list[object] = []
    for text, count in first.tokens or ():
        stands += [token(text), f" in {count} of the sequences" if count > 1 else " in one", ", "]
    what = join("There stands ", *stands[:-1], ". ") if stands else ""
    return el(
        "p",
        "Position 0 receives ", el("strong", number(first.mean)),
        " of the attention that could reach it, averaged over all heads; "
        f"{first.heads_above} heads give it more than {first.threshold:g}. ", what,
    )  # fmt: skip


def _later_sinks(later: Sequence[SinkToken]) -> Html:
    rows = [
        el(
            "tr",
            el("td", "?" if sink.token is None else token(sink.token)),
            el("td", _places(sink)),
            el("td", str(sink.heads), class_="n"),
            el("td", str(sink.picks), class_="n"),
            el("td", number(sink.mass), class_="n"),
            el("td", *(token(text) for text in sink.before), class_="context"),
        )
        for sink in later
    ]
    note = (
        f"After position 0: the token on which a head rests most in a sequence, for heads whose strongest "
        f"later sink receives {STRONG:g} or more on average. Mass is the mean of sink_other over those heads."
    )
    head = ("token", "positions", "heads", "times", "mass", "just before it")
    return join(el("p", note), scrolling("Later sink tokens", head, rows))


def _places(sink: SinkToken) -> str:
    shown = [f"{place} ({count} times)" if count > 1 else str(place) for place, count in sink.positions]
    return ", ".join(shown) + (", …" if sum(count for _, count in sink.positions) < sink.picks else "")


def scrolling(label: str, head: Sequence[str], rows: Sequence[Html]) -> Html:
    """A table that scrolls inside itself, never the page."""
    return el(
        "div",
        el(
            "table",
            el("thead", el("tr", *(el("th", name, scope="col") for name in head))),
            el("tbody", *rows),
        ),
        class_="scroll", role="region", aria_label=label, tabindex="0",
    )  # fmt: skip


def thumbnails_part(table: HeadTable, shown: Sequence[Telling]) -> Html:
    """Pictures of telling heads at full context."""
    cards = [_thumbnail(table, head) for head in shown if table.has_profile("thumbnail", head.row)]
    if not cards:
        return el("p", "Thumbnails were not kept in this run.", class_="note")
    length = table.metadata.get("length")
    size = "" if length is None else f", {tokens_in_words(length)} each way,"
    note = (
        f"Each picture is a whole attention map{size} in 64 × 64 cells: "
        "queries from top to bottom, keys from left to right. A cell is the attention that its queries give "
        "to its keys, so every row sums to 1. Colour is logarithmic: white is 0.0001 or less (and everything in "
        "the future), each quarter of the scale is a factor of 10."
    )
    scale = el(
        "p",
        "0.0001 ",
        el("img", src=_scale_bar(), alt="Colour scale", width=160, height=12, class_="pixels"),
        " 1", class_="scale",
    )  # fmt: skip
    return join(el("p", note), scale, el("div", *cards, class_="thumbnails"))


def _scale_bar() -> str:
    return thumbnails.data_uri(thumbnails.png(np.arange(255, dtype=np.uint8)[None, :], thumbnails.palette()))


def breakable(name: str) -> Html:
    """A column's name that may wrap after its signs."""
    return join(*(join(part, el("wbr")) for part in re.split(r"(?<=[_@.])", name)))


def _thumbnail(table: HeadTable, head: Telling) -> Html:
    frame = table.frame
    values = join(breakable(head.metric), " ", with_interval(frame, head.row, head.metric))
    why = ", ".join(head.why)
    image = thumbnails.thumbnail(table.profile("thumbnail", head.row))
    return el(
        "figure",
        el(
            "img",
            src=image,
            alt=f"Attention map of {head.name}: {why}",
            width=160,
            height=160,
            class_="pixels",
        ),
        el("figcaption", el("strong", head.name), " ", why, el("br"), el("span", values, class_="quiet")),
    )


def made_part(table: HeadTable, command: str | None) -> Html:
    """How to make it again, and everything that was recorded with the results."""
    shown = el("pre", el("code", command)) if command else el("p", "The command was not recorded.", class_="note")
    facts = [el("div", el("dt", name), el("dd", value)) for name, value in _recorded(plain(table.metadata))]
    return section(
        "made", "How it was made",
        el("h3", "To make it again"), shown,
        el("h3", "Recorded with the results"), el("dl", *facts, class_="facts"),
    )  # fmt: skip


_FIRST = (
    "model", "source", "weight_hash", "text", "bos", "n_sequences", "length", "tokens_hash", "dtype", "device",
    "backend", "seed", "parameters",
)  # fmt: skip
"""What is printed first; the rest follows by name, so that a table reads the same before and after it was saved."""
_LISTED = 8
"""Entries of a recorded list that the page prints."""


def _recorded(metadata: Mapping[str, Any], of: str = "") -> list[tuple[str, str]]:
    """Names and values in words; a retrieval run's own record is spread out; long lists stay in the files."""
    found = []
    for name in sorted(metadata, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)):
        value, label = metadata[name], of + name.replace("_", " ")
        if name in ("retrieval", "ablation") and isinstance(value, dict):
            found += _recorded(value, f"{label}: ")
        elif name not in ("tokens", "definitions", "sets", "effects", "circuits"):
            found.append((label, _fact(value)))
    return found


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_fact(item)}" for key, item in sorted(value.items()))
    if isinstance(value, list):
        listed = ", ".join(_fact(item) for item in value[:_LISTED])
        return listed + (f" … ({len(value)} in all, in the files)" if len(value) > _LISTED else "")
    if value is None or isinstance(value, bool):
        return {None: "not recorded", True: "yes", False: "no"}[value]
    return str(value)


def limits_part(lines: Sequence[str]) -> Html:
    """What not to conclude."""
    return section("limits", "Limits", el("ul", *(el("li", line) for line in lines)))
