"""What changed between two head tables, in plain sentences: how much, where, and how much of it could be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from probe.comparisons.compare import COARSE
from probe.comparisons.comparison import Comparison
from probe.page.findings import FEW_SEQUENCES, Finding
from probe.plots.compare import pair_name
from probe.plots.style import LEVEL
from probe.text import number, with_interval

SHOWN = 6
"""Heads, metrics and roles that a finding lists."""
_MATCHED = 0.05
NOTABLE = 0.2
"""A small effect in standard deviations (Cohen, Statistical power analysis, 1988, section 2.2)."""


def compare_findings(comparison: Comparison) -> list[Finding]:
    """What the page and the command say first."""
    found = [_changed(comparison), _metrics(comparison), *_roles(comparison), _ranks(comparison), _match(comparison)]
    if comparison.differs:
        found.append(_differs(comparison))
    return found


def _changed(comparison: Comparison) -> Finding:
    """How many heads changed at all, and the largest changes in units of what could be seen."""
    title, certain, pairs = "Heads that changed", comparison.found, len(comparison.matching.rows)
    tested = int(comparison.heads["p"].notna().sum())
    if not tested:
        return Finding(title, "–", "Not tested: a difference has an interval only from 4 sequences on in both tables "
                       "(or trials, or prompts), each with an interval of its own.")  # fmt: skip
    heads = certain["name_a"].nunique()
    large = certain["name_a"][certain["size"].abs() > NOTABLE].nunique()
    text = (
        f"{heads} of {pairs} heads differ between the two in one metric or more (q < {LEVEL:g} over all "
        f"{tested:,} differences tested: of the differences called, about 5 % or fewer are chance); {large} of them by "
        f"more than {NOTABLE:g} standard deviations of the metric over the heads."
    )
    if _lengths(comparison)[0] != _lengths(comparison)[1]:
        text += " What depends on the length of the text by its definition changes with it: see Limits."
    lines = [
        f"{pair_name(row['name_a'], row['name_b'])}  {row['metric']} {told(row)}"
        for row in certain.drop_duplicates("name_a").head(SHOWN).to_dict("records")
    ]
    return Finding(title, str(heads), text + (" Largest:" if lines else ""), tuple(lines))


def told(row: Mapping[Any, Any]) -> str:
    """`0.20 → 0.35, +0.15 [0.11, 0.19]` of a row of `Comparison.heads`."""
    difference = with_interval(pd.DataFrame([row]), 0, "difference")
    return f"{number(row['a'])} → {number(row['b'])}, {'+' if row['difference'] > 0 else ''}{difference}"


def _lengths(comparison: Comparison) -> tuple[Any, Any]:
    return comparison.a.metadata.get("length"), comparison.b.metadata.get("length")


def _metrics(comparison: Comparison) -> Finding:
    """Which behaviours changed, against the number that chance would give."""
    rows = comparison.metrics
    moved = rows[rows["found"] > 0]
    text = (
        f"{len(moved)} of {len(rows)} metrics differ in some head (q < {LEVEL:g} over the heads of the metric). Beside "
        "each: heads whose interval leaves out 0, and how many of those chance gives where nothing changed."
    )
    lines = [
        f"{row['metric']}  {row['found']} heads; {row['changed']} intervals, {row['by_chance']:.0f} by chance; largest "
        f"{row['largest']} {'+' if row['largest_difference'] > 0 else ''}{number(row['largest_difference'])}"
        for row in rows.head(SHOWN).to_dict("records")
        if row["tested"] and row["largest"]
    ]
    return Finding("What changed in them", str(len(moved)), text, tuple(lines))


def _roles(comparison: Comparison) -> list[Finding]:
    """Roles gained and lost; how many of them by more than a step over the threshold."""
    if not len(comparison.roles):
        return []
    frame = comparison.roles
    turned = frame[frame["change"] != "kept"]
    clear = turned[turned["clear"]]
    kept = int((frame["change"] == "kept").sum())
    if not len(turned):
        return [Finding("Roles gained and lost", "0", f"No head gained or lost a role; one was kept {_times(kept)}.")]
    text = (
        f"Heads gained or lost a role {_times(len(turned))} and kept one {_times(kept)}. Clear: {len(clear)} of the "
        f"changes, where what decides the role changed too (q < {LEVEL:g}); the others may be heads near a threshold."
    )
    lines = []
    for role, part in frame.groupby("role", sort=False):
        gained, lost = (list(part["name_a"][part["change"] == change]) for change in ("gained", "lost"))
        if gained or lost:
            lines.append(f"{str(role).replace('_', ' ')}  gained {_some(gained)}, lost {_some(lost)}")
    return [Finding("Roles gained and lost", str(len(turned)), text, tuple(lines))]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _some(heads: Sequence[str], most: int = 4) -> str:
    listed = ", ".join(heads[:most]) + (", …" if len(heads) > most else "")
    return f"{len(heads)} ({listed})" if heads else "0"


def _ranks(comparison: Comparison) -> Finding:
    """Whether the same heads are still the ones with most of each behaviour."""
    rows = comparison.metrics.dropna(subset=["spearman"]).sort_values("spearman", kind="stable")
    if not len(rows):
        return Finding("The order of the heads", "–", "Not defined: no metric has four pairs with different values.")
    middle = float(rows["spearman"].median())
    text = (
        f"The middle rank correlation of A and B over {len(rows)} metrics: {number(middle)} (1: the same heads come "
        "first). Noise in either lowers it. Lowest:"
    )
    lowest = rows.head(3).reset_index(drop=True)
    lines = tuple(f"{lowest['metric'][place]}  {with_interval(lowest, place, 'spearman')}" for place in lowest.index)
    return Finding("The order of the heads", number(middle), text, lines)


def _match(comparison: Comparison) -> Finding:
    """How heads were paired, and whether that means anything."""
    matching, pairs = comparison.matching, len(comparison.matching.rows)
    near = pd.Series(matching.distance)
    if not matching.metrics:
        text = "Paired by name. How alike the two of a pair are cannot be said: no scan metric describes all heads."
        return Finding("Which head is which", str(pairs), text)
    better = int((matching.chance < _MATCHED).sum())
    if matching.how == "name":
        text = (
            f"Heads of the same name stand side by side. {better} of {pairs} are nearer to each other than 95 % of "
            f"heads of different names are (median distance {number(float(near.median()))}, of others "
            f"{number(matching.middle)} standard deviations)."
        )
        if better < pairs / 4:
            text += " That is few: names may mean nothing between these two; match by behaviour."
        return Finding("Which head is which", str(pairs), text)
    text = (
        f"{pairs} pairs are each other's nearest in what they do ({len(matching.metrics)} metrics), {better} of them "
        f"nearer than 95 % of the pairs found when every metric of B is shuffled (median distance "
        f"{number(float(near.median()))}, shuffled {number(matching.middle)}). {len(matching.alone_a)} heads of A and "
        f"{len(matching.alone_b)} of B have no partner and are not compared."
    )
    return Finding("Which head is which", str(pairs), text)


def _differs(comparison: Comparison) -> Finding:
    """What else tells the two apart: every change may be due to any of it."""
    text = "Recorded as different between the two; a change cannot say to which of these it is due:"
    lines = tuple(f"{what}: {mine} → {theirs}" for what, mine, theirs in comparison.differs)
    return Finding("What differs in how they were made", str(len(lines)), text, lines)


def compare_uncertainty(comparison: Comparison) -> list[str]:
    """What the intervals of differences are, how far to trust them, and how many heads change by chance."""
    frame = comparison.heads
    lines = [
        "Changes are B − A. Brackets are 95 % intervals of the difference (MOVER, Zou and Donner 2008, from both "
        "tables' bootstrap intervals, at the t that few sequences ask for): 5 % of the heads that did not change fall "
        "outside."
    ]
    pairs = frame["paired"]
    same = [table.metadata.get("tokens_hash") for table in (comparison.a, comparison.b)]
    if pairs.any():
        lines.append(f"Both read the same tokens: {comparison.metrics['paired'].sum()} metrics are compared sequence "
                     "by sequence, so what all sequences share drops out.")  # fmt: skip
    elif same[0] is not None and same[0] == same[1]:
        lines.append("Both read the same tokens, but a table keeps no values by sequence: the intervals take the two "
                     "as independent and are too wide: fewer than 5 % fall outside, and small changes stay unseen.")
    few = min(table.metadata.get("n_sequences") or FEW_SEQUENCES for table in (comparison.a, comparison.b))
    if few < FEW_SEQUENCES:
        lines.append(f"{few} sequences are few: the intervals lean on means that are about normal.")
    return lines


def compare_limits(comparison: Comparison) -> list[str]:
    """What a reader must not conclude."""
    lines = [
        "A head that is not marked was not shown to be unchanged: the table of metrics says how large a change could "
        "be seen.",
        "q is valid for metrics and heads that move together; for ones that move against each other it can be too "
        "small (Benjamini and Yekutieli 2001).",
        "Intervals assume means that are about normal. For values as skewed as an exponential distribution 7 % fall "
        "outside instead of 5 %, with 8 sequences.",
    ]
    coarse = [name for name in COARSE if name in set(comparison.metrics["metric"])]
    lines += [f"{name} moves in steps of one sequence, so its changes are given and not tested." for name in coarse]
    if comparison.matching.how == "behaviour":
        lines.append(
            "Heads were paired for being alike, in the same metrics that are compared: the differences left are "
            "smaller than between heads paired without looking, and a match says that two heads behave alike, not "
            "that they are the same head. Two unrelated models have first-token sinks that match."
        )
    if _lengths(comparison)[0] != _lengths(comparison)[1]:
        lines.append(
            "The two read texts of different length. Attention spreads over more keys in a longer one, so entropy, "
            "distance, the largest weight, attention on the first token and what sinks and window keep change with "
            "length even where the head does the same."
        )
    lines += [f"{name} is not compared: {why}." for name, why in comparison.left_out.items()]
    lines += [f"The role {name.replace('_', ' ')} is not compared: {why}."
              for name, why in comparison.roles_left_out.items()]  # fmt: skip
    return lines

