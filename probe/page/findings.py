"""Findings in plain sentences: what a table says, with figures and intervals, and what it cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from probe.page.telling import Criterion, names, strongest
from probe.plots.retrieval import Retrieval, curve, recalls
from probe.table import HeadTable
from probe.text import number, with_interval

FEW_SEQUENCES, FEW_TRIALS = 8, 10


@dataclass(frozen=True)
class Finding:
    """One finding. figure: the number in large type; text: one or two sentences; heads: the evidence."""

    title: str
    figure: str
    text: str
    heads: tuple[str, ...] = ()


_SINK = Criterion("", "sink_first", "sink", 3)
_PATTERNS = (
    ("Previous-token heads", "previous_token", "the token just before"),
    ("Induction heads", "induction", "what followed the same token before"),
    ("Duplicate-token heads", "duplicate_token", "earlier copies of the same token"),
)
_LOCAL = Criterion("", "streaming_error", "local", 3, highest=False)
_IDLE = Criterion("", "output_share", "idle", 3, highest=False)


def findings(table: HeadTable, retrieval: Retrieval | None) -> list[Finding]:
    """What the page says first, one finding a behaviour."""
    look = "put more than {limit} of their attention on "
    found = [
        _role(table, "First-token sinks", _SINK, look + "the first token", "sink_first"),
        _elsewhere(table),
    ]
    for title, role, target in _PATTERNS:
        criterion = Criterion("", f"{role}_random", role, 3)
        rule = look + target + ", on repeated random tokens"
        found.append(_role(table, title, criterion, rule, "pattern_random"))
    local = "lose less than {limit} of their output (interval included) when they may see only "
    local += kept(table) + ", and are no sinks"
    idle = "write less than {limit} of an even share of their layer's output"
    return [
        *found,
        _role(table, "Local heads", _LOCAL, local, "streaming_error_high"),
        _role(table, "Idle heads", _IDLE, idle, "idle_share_times_heads"),
        retrieval_finding(table, retrieval),
    ]


def _elsewhere(table: HeadTable) -> Finding:
    """Sinks after the first token: no role of METRICS, so counted against the sink threshold."""
    title, frame, limit = "Sinks after the first token", table.frame, table.thresholds["sink_first"]
    if "sink_other" not in frame or frame["sink_other"].isna().all():
        return Finding(title, "–", "Not measured: sink_other is empty in this table.")
    count = int((frame["sink_other"] > limit).sum())
    shown = _evidence(frame, strongest(table, Criterion("", "sink_other", None, 3)), "sink_other")
    text = (
        f"{count} of {len(frame)} heads give one later token more than {limit:g} of the attention that could "
        "reach it. Which tokens: see Sink tokens. Strongest by sink_other:"
    )
    return Finding(title, str(count), text, shown)


def _evidence(frame: pd.DataFrame, rows: Sequence[int], metric: str) -> tuple[str, ...]:
    labels = names(frame)
    return tuple(f"{labels[row]}  {with_interval(frame, row, metric)}" for row in rows)


def kept(table: HeadTable) -> str:
    """The keys a streaming head keeps, in words."""
    parameters = table.metadata.get("parameters", {})
    sinks, window = parameters.get("sinks", "s"), parameters.get("window", "w")
    return f"the first {sinks} tokens and the last {window}"


def uncertainty(table: HeadTable) -> str:
    """What the brackets are, and how far to trust them."""
    n = table.metadata.get("n_sequences")
    if n is None:
        return "Brackets are 95 % bootstrap intervals over sequences; their number was not recorded."
    if n < 2:
        return "Only one sequence was read: there are no intervals."
    text = f"Brackets are 95 % bootstrap intervals over {n} sequences"
    if n < FEW_SEQUENCES:
        return text + f": few. With fewer than {FEW_SEQUENCES}, take the intervals as rough."
    return text + "; they do not cover other kinds of text."


def _role(table: HeadTable, title: str, criterion: Criterion, rule: str, limit: str) -> Finding:
    """How many heads have a role, and the strongest of them (or of all, where none has it)."""
    frame, metric = table.frame, criterion.metric
    if metric not in frame or frame[metric].isna().all():
        return Finding(title, "–", f"Not measured: {metric} is empty in this table.")
    if criterion.role == "local" and frame["streaming_error_high"].isna().all():
        return Finding(title, "–", "Not decided: the rule needs an interval, so two sequences or more.")
    count = sum(criterion.role in roles for roles in frame["roles"])
    threshold = format(table.thresholds[limit], "g")
    if count:
        share = f"{100 * count / len(frame):.0f} %"
        text = f"{count} of {len(frame)} heads ({share}) {rule.format(limit=threshold)}."
    else:
        text = f"None of {len(frame)} heads: the rule asks for heads that {rule.format(limit=threshold)}."
    rows = strongest(table, criterion)
    shown = _evidence(frame, rows, metric)
    if shown:
        text += f" {'Strongest' if criterion.highest else 'Lowest'} by {metric}:"
    return Finding(title, str(count), text, shown)


def retrieval_finding(table: HeadTable, run: Retrieval | None) -> Finding:
    """Retrieval heads, or why there is no list of them."""
    title = "Retrieval heads"
    if run is None:
        return Finding(title, "–", "Not measured: no retrieval run is part of this report.")
    usable = sum(bool(trial["usable"]) for trial in run.trials)
    of = f"{usable} of {len(run.trials)} trials were usable (the model repeated at least half of the answer)"
    if usable == 0:
        return Finding(title, "none", f"NO TRIAL WAS USABLE: {of}. The scores are not defined; "
                       "the model does not find needles in these prompts.")  # fmt: skip
    if usable < FEW_TRIALS:
        return Finding(title, "–", f"Not enough: {of}; fewer than {FEW_TRIALS} do not carry a ranking.")
    criterion = Criterion("", "retrieval", "retrieval", 3)
    frame = table.frame
    count = sum("retrieval" in roles for roles in frame["roles"])
    rows = strongest(table, criterion)
    shown = _evidence(frame, rows, "retrieval")
    limit = table.thresholds["retrieval_low"]
    text = (
        f"{count} of {len(frame)} heads copy the answer out of a long text: lower end of the score at least "
        f"{limit:g} and above the control. {of}.{_causal(run)} Strongest by retrieval:"
    )
    return Finding(title, str(count), text, shown)


def _causal(run: Retrieval) -> str:
    """The ablation in one sentence, at the largest k."""
    if not len(run.ablation):
        return " What removing them does was not measured."
    frame = recalls(run)
    k = int(frame["k"].max())
    means: dict[str, str] = {}
    for arm in ("clean", "top", "random"):
        part = frame[(frame["arm"] == arm) & ((frame["k"] == k) | (arm == "clean"))]
        if len(part):
            means[arm] = with_interval(curve(part.assign(k=k), "k"), 0, "recall")
    if set(means) != {"clean", "top", "random"}:
        return ""
    return (
        f" Removing the top {k} takes recall from {means['clean']} to {means['top']}; removing {k} random "
        f"heads of the same layers leaves {means['random']} (range of the draws)."
    )


def limits(table: HeadTable, tokens: Sequence[Sequence[str]] | None, run: Retrieval | None) -> list[str]:
    """What a reader must not conclude, from what was and was not measured."""
    lines = [
        "Attention weights say where a head looks, not what the model would lose without it. Only what was measured "
        "with heads removed is causal.",
        "The figures belong to the text that was read. Intervals cover the choice of sequences from that "
        "text, not other kinds of text, and nothing but q-values is corrected for looking at many heads at once.",
        "Roles are thresholds on a continuous scale: a head just below one is not a different kind of head.",
    ]
    empty = [name for name in table.metrics if table.frame[name].isna().all()]
    if empty:
        lines.append(f"Not measured or not defined here, so left empty: {', '.join(empty)}.")
    n = table.metadata.get("n_sequences")
    if n is not None and n < FEW_SEQUENCES:
        lines.append(f"{number(float(n))} sequences are few: intervals are rough." if n > 1 else
                     "One sequence: no interval could be made.")  # fmt: skip
    if tokens is None:
        lines.append("Token strings were not given: sinks are named by position only.")
    if run is None:
        lines.append("No retrieval run: nothing here says which heads the model needs to find a fact.")
    if table.metadata.get("rows_without_key"):
        lines.append(f"{table.metadata['rows_without_key']} queries saw no key and were left out.")
    return lines
