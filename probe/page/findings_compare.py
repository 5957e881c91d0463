"""What changed between two head tables, in plain sentences: how much, where, and how much of it could be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from probe.columns import SCAN_COLUMNS
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
    """How many heads changed notably, how many beyond rounding at all, and the largest changes."""
    title, certain, pairs = "Heads that changed", comparison.found, len(comparison.matching.rows)
    tested = int(comparison.heads["p"].notna().sum())
    if not tested:
        text = ("Not tested: a difference has an interval only from 4 sequences on in both tables (or trials, or "
                "prompts), each with an interval of its own.")  # fmt: skip
        return Finding(title, "–", text)
    heads = certain["name_a"].nunique()
    large = certain["name_a"][certain["size"].abs() > NOTABLE].nunique()
    text = (
        f"{large} of {pairs} heads differ between the two by more than {NOTABLE:g} standard deviations of a metric "
        f"over the heads; {heads} differ by more than float32 rounding (q < {LEVEL:g} over all {tested:,} differences "
        "tested: of the differences called, about 5 % or fewer are chance)."
    )
    if len(untested := comparison.metrics[comparison.metrics["tested"] == 0]):
        text += f" {len(comparison.metrics) - len(untested)} of {len(comparison.metrics)} metrics were tested."
    if _lengths(comparison)[0] != _lengths(comparison)[1]:
        text += " What depends on the length of the text by its definition changes with it: see Limits."
    lines = [
        f"{pair_name(row['name_a'], row['name_b'])}  {row['metric']} {told(row)}"
        for row in certain.drop_duplicates("name_a").head(SHOWN).to_dict("records")
    ]
    return Finding(title, str(large), text + (" Largest:" if lines else ""), tuple(lines))


def told(row: Mapping[Any, Any]) -> str:
    """`0.20 → 0.35, +0.15 [0.11, 0.19]` of a row of `Comparison.heads`."""
    difference = with_interval(pd.DataFrame([row]), 0, "difference")
    return f"{number(row['a'])} → {number(row['b'])}, {'+' if row['difference'] > 0 else ''}{difference}"


def _lengths(comparison: Comparison) -> tuple[Any, Any]:
    return comparison.a.metadata.get("length"), comparison.b.metadata.get("length")


def _metrics(comparison: Comparison) -> Finding:
    """Which behaviours changed, against the number that chance would give."""
    rows = comparison.metrics
    moved, tested = rows[rows["found"] > 0], rows[rows["tested"] > 0]
    left = "".join(f" Not tested: {line}." for line in not_tested(comparison))
    if not len(tested):
        return Finding("What changed in them", "–", f"None of the {len(rows)} metrics could be tested.{left}")
    text = (
        f"{len(moved)} of {len(tested)} metrics tested differ in some head (q < {LEVEL:g} over the heads of the "
        f"metric).{left} Beside each: heads whose interval leaves out 0, and how many of those chance gives where "
        "nothing changed."
    )
    lines = [
        f"{row['metric']}  {row['found']} heads; {row['changed']} intervals, {row['by_chance']:.0f} by chance; largest "
        f"{row['largest']} {'+' if row['largest_difference'] > 0 else ''}{number(row['largest_difference'])}"
        for row in rows.head(SHOWN).to_dict("records")
        if row["tested"] and row["largest"]
    ]
    return Finding("What changed in them", str(len(moved)), text, tuple(lines))


def not_tested(comparison: Comparison) -> list[str]:
    """The metrics in which no head was tested, those of one reason together: `entropy, distance (the reason)`."""
    rows = comparison.metrics[comparison.metrics["tested"] == 0]
    return [f"{', '.join(part['metric'])} ({why})" for why, part in rows.groupby("untested", sort=False)]


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
    lines = [
        "Changes are B − A. Brackets are 95 % intervals of the difference (MOVER, Zou and Donner 2008, from both "
        "tables' bootstrap intervals, at the t that few sequences ask for): 5 % of the heads that did not change fall "
        "outside."
    ]
    lines += _pairing(comparison)
    if comparison.heads["equal"].any():
        lines.append("Differences that float32 rounding gives, up to 0.00001 of the values or of the metric's spread "
                     "over the heads, count as equal: they are tested with p = 1.")  # fmt: skip
    few = min(table.metadata.get("n_sequences") or FEW_SEQUENCES for table in (comparison.a, comparison.b))
    if few < FEW_SEQUENCES:
        lines.append(f"{few} sequences are few: the intervals lean on means that are about normal.")
    return lines


def _pairing(comparison: Comparison) -> list[str]:
    """Which metrics are compared sequence by sequence, and which as independent although they may not be."""
    lines, rows = [], comparison.metrics
    if rows["paired"].any():
        lines.append(f"Both read the same tokens: {rows['paired'].sum()} metrics are compared sequence by sequence, so "
                     "what all sequences share drops out.")  # fmt: skip
    facts = (comparison.a.metadata, comparison.b.metadata)
    same, drawn = ([made.get(name) for made in facts] for name in ("tokens_hash", "random_tokens"))
    apart = [str(name) for name in rows["metric"][~rows["paired"] & (rows["tested"] > 0)]]
    random = [name for name in apart if name in SCAN_COLUMNS and name.endswith("_random")]
    text = [name for name in apart if name in SCAN_COLUMNS and name not in random]
    other = [name for name in apart if name not in SCAN_COLUMNS]
    wide = "as independent, with intervals that are too wide: fewer than 5 % fall outside, small changes stay unseen"
    if text and same[0] is not None and same[0] == same[1]:
        lines.append(f"Both read the same tokens, but one keeps no values by sequence of {', '.join(text)}: compared "
                     f"{wide}.")  # fmt: skip
    if random and drawn[0] is not None and drawn[0] == drawn[1]:
        lines.append(f"The random tokens were drawn alike, but {', '.join(random)} could not be paired by sequence: "
                     f"compared {wide}.")  # fmt: skip
    elif random:
        lines.append(f"Not known to have read the same random tokens: {', '.join(random)}, compared as independent.")
    if other:
        lines.append(f"Where both read the same prompts or needles, {', '.join(other)} are still compared {wide}.")
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
    lines += [f"Given and not tested: {line}." for line in not_tested(comparison)]
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

