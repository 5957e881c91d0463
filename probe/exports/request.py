"""What an export is asked for, what it gives, and which rows and columns of a head table it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from probe.columns import BESIDE, KEYS
from probe.errors import ResultsError
from probe.table import HeadTable

REDUCTIONS = ("max", "mean")
"""How the query heads that read one key/value head become one number."""
ROLES = "roles"


@dataclass(frozen=True)
class Asked:
    """columns: metrics of the head table, or `roles`; empty: the form's default. top: the highest rows of the first
    column (None: all). reduce: one of `REDUCTIONS`. licence: of a dataset card, as the hub spells it.
    """

    columns: tuple[str, ...] = ()
    top: int | None = None
    reduce: str = "max"
    licence: str = "unknown"


@dataclass(frozen=True)
class Made:
    """files: name → content, names without folders. notes: what a reader must know, one line each."""

    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()


def check_columns(table: HeadTable, columns: tuple[str, ...]) -> None:
    """Raise ResultsError for a column that the table does not have, with those that it has."""
    for name in columns:
        if name != ROLES and name not in table.metrics:
            raise ResultsError(f"no column {name!r} in this table; it has {', '.join([*table.metrics, ROLES])}")


def one_column(table: HeadTable, asked: Asked, form: str) -> str:
    """The one metric that `form` is made of. Raises ResultsError where none or several were asked for, or not there."""
    check_columns(table, asked.columns)
    if len(asked.columns) != 1 or asked.columns[0] == ROLES:
        raise ResultsError(f"{form} holds one metric, {len(asked.columns)} columns were given; choose one --column of "
                           f"{', '.join(table.metrics)}")  # fmt: skip
    return asked.columns[0]


def chosen(table: HeadTable, asked: Asked) -> pd.DataFrame:
    """Rows and columns as asked: keys, then each metric with all that stands beside it, then `roles`.

    With `top` the rows with the highest values of the first column, highest first, ties in the table's order; rows
    where it is not defined come last. Raises ResultsError for unknown columns, and for `top` without a metric.
    """
    check_columns(table, asked.columns)
    frame = table.frame.reset_index(drop=True)
    if asked.top is not None:
        frame = frame.iloc[_highest(frame, asked)]
    if not asked.columns:
        return frame.reset_index(drop=True)
    kept = [key for key in KEYS if key in frame]
    for name in dict.fromkeys(column for column in asked.columns if column != ROLES):
        kept += [part for part in (name, *(name + end for end in BESIDE), f"n_{name}") if part in frame]
    return frame[[*kept, ROLES]].reset_index(drop=True)


def _highest(frame: pd.DataFrame, asked: Asked) -> list[int]:
    metrics = [name for name in asked.columns if name != ROLES]
    if asked.top is None or asked.top < 1 or not metrics:
        raise ResultsError(f"--top {asked.top} ranks heads by a metric; give 1 or more, and --column to rank by")
    return list(frame[metrics[0]].sort_values(ascending=False, kind="stable", na_position="last").index[: asked.top])
