"""Which heads to show first: the strongest of every behaviour, whether or not they pass its threshold."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from probe.table import HeadTable, head_name


@dataclass(frozen=True)
class Criterion:
    """A behaviour worth a picture: the metric that ranks it, the role that names it (None: no role does)."""

    label: str
    metric: str
    role: str | None
    count: int
    highest: bool = True


CRITERIA: tuple[Criterion, ...] = (
    Criterion("retrieval", "retrieval", "retrieval", 3),
    Criterion("induction", "induction_random", "induction", 3),
    Criterion("duplicate token", "duplicate_token_random", "duplicate_token", 2),
    Criterion("previous token", "previous_token_random", "previous_token", 2),
    Criterion("first-token sink", "sink_first", "sink", 2),
    Criterion("sink elsewhere", "sink_other", None, 2),
    Criterion("local", "streaming_error", "local", 2, highest=False),
    Criterion("looks furthest back", "distance", None, 1),
    Criterion("most even", "entropy_normalised", None, 1),
)


@dataclass(frozen=True)
class Telling:
    """A head to show: its row in the table, the behaviours it stands for, the metric of the first of them."""

    row: int
    name: str
    why: tuple[str, ...]
    metric: str


def names(frame: pd.DataFrame) -> list[str]:
    """`L10H7` for every row, in order."""
    keys = zip(frame["layer"], frame["head"], frame["stack"], strict=True)
    return [head_name(int(layer), int(head), str(stack)) for layer, head, stack in keys]


def strongest(table: HeadTable, criterion: Criterion) -> list[int]:
    """Rows with the best values of a criterion, best first, ties to the first; NaN never counts."""
    frame = table.frame
    if criterion.metric not in frame:
        return []
    values = frame[criterion.metric].dropna()
    if criterion.role == "local":
        values = values[[criterion.role in frame["roles"][row] for row in values.index]]
    ordered = values.sort_values(ascending=not criterion.highest, kind="stable")
    return [int(row) for row in ordered.index[: criterion.count]]


def telling(table: HeadTable, limit: int = 16) -> list[Telling]:
    """The heads that stand for each behaviour, at most `limit`, a head that stands for several shown once."""
    labels = names(table.frame)
    reasons: dict[int, list[str]] = {}
    metrics: dict[int, str] = {}
    for criterion in CRITERIA:
        rows = strongest(table, criterion)
        playing = [row for row in rows if criterion.role is None or criterion.role in table.frame["roles"][row]]
        for row in playing or rows:
            reasons.setdefault(row, []).append(criterion.label + ("" if playing else " (below threshold)"))
            metrics.setdefault(row, criterion.metric)
    return [Telling(row, labels[row], tuple(why), metrics[row]) for row, why in list(reasons.items())[:limit]]


def one_each(shown: list[Telling], limit: int) -> list[Telling]:
    """The first head of every behaviour, at most `limit`: enough for one figure of lines."""
    first: dict[str, Telling] = {}
    for head in shown:
        first.setdefault(head.why[0], head)
    return list(first.values())[:limit]
