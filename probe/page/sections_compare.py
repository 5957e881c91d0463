"""The page's sections on two head tables: every metric, A against B, roles, matches, and what else differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.columns import describe
from probe.comparisons.comparison import Comparison
from probe.page.findings_compare import not_tested, told
from probe.page.markup import Html, el, join
from probe.page.sections import figure, scrolling, section
from probe.page.telling import names
from probe.plots.compare import certainty, likeness, pair_name, scatter
from probe.plots.style import LEVEL
from probe.text import number, with_interval

LISTED = 40
"""Rows of a table that the page prints; the files hold all."""
DRAWN = 4
"""Metrics that get a scatter of their own."""


def compare_sections(comparison: Comparison) -> dict[str, tuple[str, Html]]:
    """What the page has between findings and maps; by identifier."""
    return {
        "changes": ("Metrics", _metrics(comparison)),
        "against": ("A against B", _against(comparison)),
        "changed": ("Changed heads", _changed(comparison)),
        "role-changes": ("Roles", _roles(comparison)),
        "matching": ("Which head is which", _matching(comparison)),
        "different": ("What differs", _different(comparison)),
    }


def compare_figures(comparison: Comparison) -> dict[str, go.Figure]:
    """The figures that `compare_sections` has places for."""
    drawn = {f"against_{index}": scatter(comparison, metric) for index, metric in enumerate(_drawn(comparison))}
    return drawn | ({"likeness": likeness(comparison)} if comparison.matching.metrics else {})


def _drawn(comparison: Comparison) -> list[str]:
    return [str(metric) for metric in comparison.metrics["metric"][:DRAWN]]


def _metrics(comparison: Comparison) -> Html:
    """One row a metric: changes, chance, what could be seen, rank agreement."""
    frame = comparison.metrics
    rows = [_metric(row, with_interval(frame, place, "spearman")) for place, row in enumerate(frame.to_dict("records"))]
    note = (
        f"Changed: heads with q < {LEVEL:g}, corrected over all heads of the metric. Without 0: intervals that leave "
        "it out, before that correction; by chance: how many of those there are where nothing changed (5 % of the "
        "pairs tested). Half width: of the middle interval; a change smaller than that stays unseen in half of the "
        "heads. Size: root mean square change in standard deviations of the metric over the heads, unchanged heads "
        "counting as 0. Rank correlation: Spearman's, of A and B over the heads, with 95 % interval."
    )
    head = ("metric", "changed", "without 0", "by chance", "tested", "half width", "size", "largest change",
            "rank correlation")  # fmt: skip
    return section("changes", "What changed, metric by metric", el("p", note), scrolling("Metrics", head, rows))


def _metric(row: Mapping[Any, Any], ranks: str) -> Html:
    counts = [str(row["found"]), str(row["changed"]), f"{row['by_chance']:.1f}"] if row["tested"] else ["–"] * 3
    largest = "–"
    if row["largest"]:
        largest = f"{row['largest']} {'+' if row['largest_difference'] > 0 else ''}{number(row['largest_difference'])}"
    cells = [*counts, str(row["tested"]), number(row["sees"]), number(row["moved"])]
    return el(
        "tr", el("th", el("code", row["metric"]), scope="row"), *(el("td", cell, class_="n v") for cell in cells),
        el("td", largest, class_="v"), el("td", ranks, class_="v"),
    )  # fmt: skip


def _against(comparison: Comparison) -> Html:
    places = []
    for index, metric in enumerate(_drawn(comparison)):
        about = describe(metric, comparison.a.metadata)
        places.append(figure(f"against_{index}", f"{about.title} ({metric}, {about.unit}): A across, B up. On the "
                             "dotted line nothing changed."))  # fmt: skip
    more = len(comparison.metrics) - len(places)
    note = "The metrics that changed most." + (f" {more} more are in the maps below." if more > 0 else "")
    return section("against", "A against B", el("p", note), el("div", *places, class_="pair"))


def _changed(comparison: Comparison) -> Html:
    """One row a head: its largest change."""
    found = comparison.found
    if not len(found):
        return section("changed", "Changed heads", el("p", _unchanged(comparison), class_="quiet"))
    times, first = found["name_a"].value_counts(), found.drop_duplicates("name_a")
    rows = [
        el("tr", el("th", pair_name(row["name_a"], row["name_b"]), scope="row"), el("td", str(times[row["name_a"]])),
           el("td", el("code", row["metric"])), el("td", told(row), class_="v"),
           el("td", f"{row['size']:+.2f}", class_="v"), el("td", certainty(row["q_all"]), class_="v"))
        for row in first.head(LISTED).to_dict("records")
    ]  # fmt: skip
    note = (
        f"Metrics that changed in the head (q < {LEVEL:g} over all heads and metrics), and the largest of its changes "
        "in standard deviations of the metric over the heads."
    )
    if len(first) > LISTED:
        note += f" {LISTED} of {len(first):,} heads; all {len(found):,} changes are in compare.csv."
    head = ("head", "metrics", "largest in", "A → B, change and its interval", "size", "q")
    return section("changed", "Changed heads", el("p", note), scrolling("Changed heads", head, rows))


def _unchanged(comparison: Comparison) -> str:
    """That no head changed, as far as that was looked at."""
    metrics, left = comparison.metrics, not_tested(comparison)
    tested = int((metrics["tested"] > 0).sum())
    reasons = f" Not tested: {'; '.join(left)}." if left else ""
    if not tested:
        return f"Nothing can be said: none of the {len(metrics)} metrics could be tested.{reasons}"
    where = f" in the {tested} of {len(metrics)} metrics that were tested" if left else ""
    return f"No head changed beyond what chance gives{where}.{reasons}"


def _roles(comparison: Comparison) -> Html:
    frame = comparison.roles
    if not len(frame):
        return section("role-changes", "Roles gained and lost", el("p", "No head has a role that could be compared."))
    rows = []
    for role, part in frame.groupby("role", sort=False):
        counts = part["change"].value_counts()
        rows.append(el(
            "tr", el("th", str(role).replace("_", " "), scope="row"), el("td", str(counts.get("kept", 0))),
            *(el("td", _chips(part[part["change"] == change])) for change in ("gained", "lost")),
        ))  # fmt: skip
    note = (
        "Gained: B's head has the role and A's has not. Bold: what decides the role changed too (q < "
        f"{LEVEL:g}); the others may stand near the threshold."
    )
    head = ("role", "kept", "gained", "lost")
    return section("role-changes", "Roles gained and lost", el("p", note), scrolling("Roles", head, rows))


def _chips(part: pd.DataFrame) -> Html:
    """Heads by name, clear changes first and bold."""
    if not len(part):
        return el("span", "none", class_="quiet")
    ordered = part.sort_values("clear", ascending=False, kind="stable")
    items = [
        el("li", el("strong", name) if clear else name)
        for name, clear in zip(map(pair_name, ordered["name_a"], ordered["name_b"]), ordered["clear"], strict=True)
    ]
    listed = el("ul", *items[:LISTED], class_="chips")
    if len(items) <= LISTED:
        return listed
    rest = el("details", el("summary", f"{len(items) - LISTED} more"), el("ul", *items[LISTED:], class_="chips"))
    return join(listed, rest)


def _matching(comparison: Comparison) -> Html:
    matching = comparison.matching
    parts: list[object] = []
    if matching.metrics:
        how = "their names" if matching.how == "name" else "what they do: each is the other's nearest in its table"
        parts.append(el("p", f"Heads were paired by {how}. Distance: root mean square difference over "
                        f"{len(matching.metrics)} metrics, each in standard deviations of both tables' heads together "
                        f"({', '.join(matching.metrics)})."))  # fmt: skip
        parts.append(figure("likeness", "How near the two heads of a pair are, beside pairs that mean nothing."))
    else:
        parts.append(el("p", "Heads were paired by their names. No metric of a scan describes every head of both, so "
                        "how alike the two of a pair are cannot be said."))  # fmt: skip
    if matching.how == "behaviour":
        parts += [_pairs(comparison), _alone(comparison)]
    return section("matching", "Which head is which", *parts)


def _pairs(comparison: Comparison) -> Html:
    matching, mine, theirs = comparison.matching, names(comparison.a.frame), names(comparison.b.frame)
    order = np.argsort(matching.distance, kind="stable")
    rows = [
        el("tr", el("th", mine[matching.rows[place, 0]], scope="row"), el("td", theirs[matching.rows[place, 1]]),
           el("td", number(matching.distance[place]), class_="n"), el("td", number(matching.chance[place]), class_="n"))
        for place in order[:LISTED]
    ]  # fmt: skip
    note = f"The {LISTED} nearest of {len(order)} pairs; all are in compare.json." if len(order) > LISTED else ""
    head = ("A", "B", "distance", "share of shuffled pairs as near")
    return join(el("p", note) if note else None, scrolling("Pairs of heads", head, rows))


def _alone(comparison: Comparison) -> Html:
    lists = []
    for letter, table, rows in (("A", comparison.a, comparison.matching.alone_a),
                                ("B", comparison.b, comparison.matching.alone_b)):  # fmt: skip
        known = names(table.frame)
        items = el("ul", *(el("li", known[row]) for row in rows), class_="chips")
        lists.append(el("details", el("summary", f"{len(rows)} heads of {letter} without a partner"), items))
    return join(*lists)


def _different(comparison: Comparison) -> Html:
    """What was recorded as different, and what is not compared for it."""
    rows = [
        el("tr", el("th", what, scope="row"), el("td", mine), el("td", theirs))
        for what, mine, theirs in comparison.differs
    ]
    labels = f"A is {comparison.label_a}; B is {comparison.label_b}."
    table = scrolling("What differs", ("what", "A", "B"), rows) if rows else None
    said = "Any of these may be why a head changed:" if rows else "Nothing else that was recorded differs."
    reasons = {**comparison.left_out, **{f"role {name}": why for name, why in comparison.roles_left_out.items()}}
    left = [el("li", el("code", name), f": {why}") for name, why in reasons.items()]
    ends = join(el("h3", "Not compared"), el("ul", *left)) if left else None
    return section("different", "What differs in how they were made", el("p", labels, " ", said), table, ends)
