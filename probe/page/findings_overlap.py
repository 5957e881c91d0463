"""What circuits share, in plain sentences: heads and their odds, and whether sharing them means sharing the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from probe.analyses.overlap import Overlap
from probe.page.findings import Finding
from probe.plots.overlap import pair_table
from probe.plots.style import LEVEL
from probe.plots.transfer import SHARED
from probe.table import head_name
from probe.text import number, with_interval

if TYPE_CHECKING:
    from probe.analyses.repair import Repair

SHOWN = 6


def overlap_findings(
    overlaps: Sequence[Overlap], transfer: pd.DataFrame | None = None, removed: pd.DataFrame | None = None
) -> list[Finding]:
    """One pair in full, or all pairs together; then what transfers, and what removing shared heads does.

    transfer, removed: `transfer_table` and `removed_table` of `plots_transfer`.
    """
    found = [_pair(overlaps[0])] if len(overlaps) == 1 else [_more(overlaps), _several(overlaps)] if overlaps else []
    if transfer is not None and len(transfer):
        found.append(_transfer(transfer))
    if removed is not None and len(removed):
        found.append(_removed(removed))
    return found


def repair_finding(found: Repair) -> Finding:
    """Whether heads made to look where they should repair a task."""
    after = found.forced.accuracy()[1].mean
    path = " → ".join(map(number, found.searched))
    lines = (", ".join(head_name(*head) for head in found.path), f"{found.forced.metric} on the half searched: {path}")
    return Finding(f"Heads that repair {found.task}", number(after), found.sentence, lines)


def not_done_finding(reasons: Mapping[str, str]) -> Finding:
    """Tasks without a circuit, and why."""
    text = "No circuit was looked for, so that nothing here says what these share with the others:"
    return Finding("Tasks not done", str(len(reasons)), text, tuple(f"{task}: {why}" for task, why in reasons.items()))


def _pair(found: Overlap) -> Finding:
    lines = [", ".join(head_name(*head) for head in found.shared)] if found.shared else []
    title = f"What {found.task_a} and {found.task_b} share"
    text = found.sentence
    if found.noise is not None:
        text += " Resampled: circuits of these sizes, picked again from other draws of the prompts."
    return Finding(title, str(len(found.shared)), text, tuple(lines))


def _more(overlaps: Sequence[Overlap]) -> Finding:
    """Pairs that share more than chance."""
    pairs = pair_table(overlaps)
    passed = pairs[pairs["q"] < LEVEL]
    text = (
        f"{len(passed) or 'None'} of {len(pairs)} pairs of circuits share more heads than random sets with as many "
        f"heads in every layer (q < {LEVEL:g}, corrected for the pairs). By the share of the smaller circuit:"
    )
    smaller = pairs[["size_a", "size_b"]].min(axis=1)
    order = (pairs["shared"] / smaller).sort_values(ascending=False, kind="stable").index[:SHOWN]
    return Finding("Pairs of tasks that share heads", str(len(passed)), text, tuple(_line(pairs, row) for row in order))


def _line(pairs: pd.DataFrame, row: int) -> str:
    pair = pairs.to_dict("records")[row]
    return (
        f"{pair['a']}, {pair['b']}:  {pair['shared']} of {pair['size_a']} and {pair['size_b']}, by chance "
        f"{number(pair['expected'])}, q = {number(pair['q'])}"
    )


def _several(overlaps: Sequence[Overlap]) -> Finding:
    """Heads that many circuits share."""
    counts: dict[str, set[str]] = {}
    for found in overlaps:
        for task, heads in ((found.task_a, found.heads_a), (found.task_b, found.heads_b)):
            for head in heads:
                counts.setdefault(head_name(*head), set()).add(task)
    tasks = {task for found in overlaps for task in (found.task_a, found.task_b)}
    ranked = sorted(counts, key=lambda name: -len(counts[name]))
    everywhere = sum(len(where) == len(tasks) for where in counts.values())
    several = sum(len(where) > 1 for where in counts.values())
    text = (
        f"{len(counts)} heads are in some circuit, {several} of them in more than one, {everywhere} in all "
        f"{len(tasks)}." + (" In most circuits:" if several else "")
    )
    lines = [f"{name}:  {', '.join(sorted(counts[name]))}" for name in ranked[:SHOWN] if len(counts[name]) > 1]
    return Finding("Heads of several tasks", str(several), text, tuple(lines))


def _transfer(transfer: pd.DataFrame) -> Finding:
    """Circuits that do another task better than random heads of the same layers."""
    frame = transfer.reset_index(drop=True)
    other = frame[frame["circuit"] != frame["task"]]
    better = other[other["faithfulness_low"] > other["random_high"]]
    text = (
        f"{len(better) or 'None'} of {len(other)} times the heads of one task's circuit do another task better than "
        "all draws of as many random heads of the same layers (whole interval). Faithfulness on the other task, "
        "and that of random heads:"
    )
    order = other["faithfulness"].sort_values(ascending=False, kind="stable").index[:SHOWN]
    lines = [
        f"{other['circuit'][row]} on {other['task'][row]}:  {with_interval(other, row, 'faithfulness')}, random "
        f"{with_interval(other, row, 'random')}"
        for row in order
    ]
    return Finding("Heads that do another task", str(len(better)), text, tuple(lines))


def _removed(removed: pd.DataFrame) -> Finding:
    """Pairs of which removing the shared heads costs both tasks more than random heads would."""
    frame = removed[removed["part"] == SHARED].assign(above=lambda part: part["lost_low"] > part["random_high"])
    both = frame.groupby(["a", "b"], sort=False)["above"].agg(["all", "size"])
    pairs = int((both["all"] & (both["size"] == 2)).sum())
    text = (
        f"For {pairs or 'none'} of {len(both)} pairs, removing the heads they share costs both tasks more than all "
        "draws of as many random heads of the same layers (whole interval). Share of the task lost without them, and "
        "without random ones:"
    )
    frame = frame.sort_values("lost", ascending=False, kind="stable").reset_index(drop=True)[:SHOWN]
    lines = [
        f"{frame['task'][row]}, shared with {_other(frame, row)}:  {with_interval(frame, row, 'lost')}, random "
        f"{with_interval(frame, row, 'random')}"
        for row in frame.index
    ]
    return Finding("Shared heads that both tasks need", str(pairs), text, tuple(lines))


def _other(frame: pd.DataFrame, row: int) -> str:
    return str(frame["b"][row] if frame["task"][row] == frame["a"][row] else frame["a"][row])


def overlap_limits(overlaps: Sequence[Overlap]) -> list[str]:
    """What a reader must not conclude from shared heads."""
    if not overlaps:
        return []
    lines = [
        "Two circuits that share heads need not use them alike: overlap counts heads, only transfer and ablation say "
        "what sharing does.",
        "Chance means random sets with the same number of heads in every layer. Heads that serve every task (previous "
        "tokens, first-token sinks) are shared by most pairs without these being related.",
        "Overlap grows with the size of the circuits, and each one's size was a choice; a share has two denominators, "
        "both are given.",
    ]
    for found in overlaps:
        lines += [f"{found.task_a}, {found.task_b}: {note}" for note in found.notes]
    return lines


def overlap_uncertainty(overlaps: Sequence[Overlap]) -> list[str]:
    """What the p-values of overlaps are."""
    if not overlaps:
        return []
    draws = max(found.draws for found in overlaps)
    return [
        f"p-values of overlaps: how often {draws:,} pairs of random sets with each circuit's heads per layer share as "
        "many or more, one-sided, (1 + #≥) / (1 + draws)."
    ]
