"""The report's head cards: one a notable head, each with an address of its own (`#L18H6`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from probe.page import cards, thumbnails
from probe.page.cards import MOST, Membership, Notable, Pair
from probe.page.markup import Html, el, join
from probe.page.material import Material
from probe.page.sections import section, token
from probe.text import number, show_token, with_interval

BEHAVIOUR = {
    "sink_first": "first token",
    "previous_token_random": "previous token",
    "duplicate_token_random": "earlier copy",
    "induction_random": "induction",
    "retrieval": "retrieval",
    "entropy_normalised": "evenness",
    "distance": "tokens back",
    "streaming_error": "streaming error",
}
"""The metrics of every card, each in a word or two; those that were not measured are left out."""
BARLESS = ("distance", "streaming_error")
"""Metrics without an end to their range have no bar."""
SMALL = 1e-3
"""A share below this is told as such."""
BEFORE, AFTER = 7, 3
"""Tokens of context beside a query or key."""


def cards_part(page: Material) -> Html | None:
    """The section: an index, what is missing, and the cards; None for a table in which no head stands out."""
    shown = cards.notable(page.table, page.studies, page.circuits)
    if not shown:
        return None
    index = [el("li", el("a", head.name, href=f"#{head.name}")) for head in sorted(shown, key=lambda head: head.row)]
    count = f"{len(shown)} of {len(page.table.frame)} heads"
    intro = (
        f"{count}: the first of every behaviour, task and circuit, then the second, and so on up to {MOST}. A card has "
        "an address, this page's with #L0H0 and the like."
    )
    if page.table.scanned:
        intro += " Ranks are among all heads, the highest first; patterns are those on repeated random tokens."
    return section(
        "cards", "Head cards", el("p", intro), el("ul", *index, class_="chips"), _missing(page),
        el("div", *(_card(page, head) for head in shown), class_="head-cards"),
    )  # fmt: skip


def _missing(page: Material) -> Html | None:
    """What the cards cannot say here, and how to have it said."""
    parts: list[object] = []
    for what, command in cards.missing(page):
        parts += [", " if parts else "Not in this report: ", what, " (", el("code", command), ")"]
    if parts:
        parts += [". ", el("code", "probe report FOLDER FOLDER … --out DIR"), " puts folders of one model together. "]
    parts += [f"{line} " for line in cards.not_kept(page)]
    return el("p", *parts, class_="note") if parts else None


def _card(page: Material, head: Notable) -> Html:
    table = page.table
    roles = [el("li", role.replace("_", " ")) for role in table.frame["roles"][head.row]] if table.scanned else []
    key = int(table.frame["layer"][head.row]), int(table.frame["head"][head.row])
    blocks = [
        _block("What it does", _behaviour(page, head)),
        _block("Where it looks", _places(page, head)),
        _block("What it writes", _writes(page, head)),
        _block("Without it", _without(page, key)),
        _block("In circuits", _circuits(cards.memberships(page.circuits, key))),
    ]
    return el(
        "article",
        el("header", el("h3", el("a", head.name, href=f"#{head.name}")), el("ul", *roles, class_="chips")),
        el("p", "Here for: ", ", ".join(head.why), ". ",
           el("a", "Explore it", href="#explore", data_explore=head.name), class_="quiet"),
        *(block for block in blocks if block is not None),
        id=head.name, class_="head-card",
    )  # fmt: skip


def _block(title: str, content: Sequence[Html]) -> Html | None:
    return el("section", el("h4", title), *content) if content else None


def _behaviour(page: Material, head: Notable) -> list[Html]:
    """Thumbnail beside the numbers."""
    table, frame = page.table, page.table.frame
    rows = []
    for metric, label in BEHAVIOUR.items():
        if metric not in frame or frame[metric].isna()[head.row]:
            continue
        value, barless = float(frame[metric][head.row]), metric in BARLESS
        bar = None if barless else el("i", style=f"width:{100 * min(max(value, 0.0), 1.0):.0f}%")
        told = f"< {SMALL:g}" if value < SMALL and not barless else with_interval(frame, head.row, metric)
        rows.append(
            el("tr", el("td", label, class_="v", title=metric), el("td", bar, class_="bar"), el("td", told, class_="v"),
               el("td", cards.ranked(table, metric, head.row), class_="quiet v"))
        )  # fmt: skip
    picture = None
    if table.has_profile("thumbnail", head.row):
        image = thumbnails.thumbnail(table.profile("thumbnail", head.row))
        picture = el("img", src=image, alt=f"Attention map of {head.name}", width=128, height=128, class_="pixels")
    if not rows and picture is None:
        return []
    return [el("div", picture, el("table", el("tbody", *rows)) if rows else None, class_="behaviour")]


def _places(page: Material, head: Notable) -> list[Html]:
    """The received profile in words, how far back, and the strongest pairs with their text."""
    said: list[object] = []
    for place in cards.received(page.table, head.row, page.texts):
        if isinstance(place, str):
            said.append(place + " ")
            continue
        position, text, share = place
        said += [f"Position {position:,}", *([" ", token(text)] if text is not None else []),
                 f" receives {number(share)} of what could reach it. "]  # fmt: skip
    said.append(cards.reach(page.table, head.row))
    content = [el("p", *said)] if any(said) else []
    found = cards.pairs(page.table, head.row)
    if found:
        first = page.table.metadata.get("closeups", {}).get("skipped_keys")
        note = f", the first {first} keys left out" if first is not None else ""
        marks = el("mark", "query", class_="query"), " looking at ", el("mark", "key", class_="key")
        legend = el("p", "Strongest pairs, ", *marks, f"{note}:", class_="quiet pairs")
        content += [legend, el("ol", *(_pair(page, pair) for pair in found), class_="pairs")]
    elif found is not None:
        content.append(el("p", "It looks nowhere but at the first tokens.", class_="quiet"))
    return content


def _pair(page: Material, pair: Pair) -> Html:
    """One pair: its weight and distance, query and key in their text; in one stretch where they are near."""
    back = pair.query - pair.key
    what = f"{number(pair.weight)}, {'on itself' if back == 0 else f'{back:,} back'}"
    if page.tokens is None:
        return el("li", el("span", f"{what}: from position {pair.query:,} to {pair.key:,}"))
    tokens = page.tokens[0]
    marks = {pair.query: "query", pair.key: "key" if back else "query key"}
    places = [pair.query] if back <= BEFORE - AFTER else [pair.query, pair.key]
    return el("li", el("span", what, class_="quiet"), *(el("p", _snippet(tokens, at, marks)) for at in places))


def _snippet(tokens: Sequence[str], at: int, marks: Mapping[int, str]) -> Html:
    """Tokens around a place, those of `marks` marked; every character of a token's is visible."""

    def shown(place: int) -> Html:
        text = show_token(tokens[place]).replace("␣", " ")
        return el("mark", text, class_=marks[place]) if place in marks else el("span", text)

    start, end = max(0, at - BEFORE), min(len(tokens), at + AFTER + 1)
    return el("q", "…" if start else None, *map(shown, range(start, end)), "…" if end < len(tokens) else None)


def _writes(page: Material, head: Notable) -> list[Html]:
    frame, row = page.table.frame, head.row
    content = []
    if "output_share" in frame and frame["output_share"].notna()[row]:
        same = (frame["stack"] == frame["stack"][row]) & (frame["kind"] == frame["kind"][row])
        heads = int((same & (frame["layer"] == frame["layer"][row])).sum())
        share = with_interval(frame, row, "output_share")
        content.append(el("p", f"{share} of its layer's output; an even share is {number(1 / heads)}."))
    tokens = cards.promoted(page.table, row, page.texts)
    if tokens:
        listed = join(*(join(token(text), " ") for text in tokens))
        content.append(el("p", "Copying the key of its strongest pair, it promotes most: ", listed))
    return content


def _without(page: Material, key: tuple[int, int]) -> list[Html]:
    lines = [el("li", el("strong", task), " ", text) for task, text in cards.effects_of(page.studies, key)]
    sets = cards.retrieval_sets(page.run, key)
    return [el("ul", *lines, el("li", sets) if sets else None)] if lines or sets else []


def _circuits(found: Sequence[Membership]) -> list[Html]:
    """The circuits that it is in, one by one, then the others in a line."""
    others = ", ".join(f"{one.task} ({one.text})" for one in found if not one.inside)
    return [_circuit(one) for one in found if one.inside] + ([el("p", f"Not in: {others}.")] if others else [])


def _circuit(one: Membership) -> Html:
    flow = [*one.reads, *([f"it writes to {', '.join(one.writes)}"] if one.writes else [])]
    return el(
        "div",
        el("p", el("strong", one.task), f" {one.role}" if one.role else None),
        el("p", f"{one.text[:1].upper()}{one.text[1:]}."),
        el("p", "Strongest edges there: ", "; ".join(flow), ".") if flow else None,
    )
