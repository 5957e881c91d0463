"""A head table to be printed: the cells and notes that LaTeX and Markdown share, as plain text still to be escaped."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from probe.columns import describe
from probe.errors import ResultsError
from probe.exports.request import ROLES, Asked, check_columns, chosen
from probe.page.telling import names
from probe.table import HeadTable
from probe.text import number, with_interval


@dataclass(frozen=True)
class Printed:
    """title: one line. header: column names, the first `head`. words: for every column whether it holds words rather
    than numbers. body: one tuple of cells a head. notes: what the columns mean, one sentence each.
    """

    title: str
    header: tuple[str, ...]
    words: tuple[bool, ...]
    body: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def printed(table: HeadTable, asked: Asked) -> Printed:
    """The chosen columns, each cell `value [low, high]` as far as the interval is there, `n/a` where not defined.

    An effect's q-value has a column of its own. Raises ResultsError where no column was chosen: a printed page has no
    room for all of them.
    """
    if not asked.columns:
        raise ResultsError(
            f"a printed table needs columns; choose with --column from {', '.join(table.metrics)}, roles"
        )
    check_columns(table, asked.columns)
    frame = chosen(table, asked)
    columns = {"head": _heads(frame)}
    notes = []
    for name in dict.fromkeys(asked.columns):
        if name == ROLES:
            columns[ROLES] = [", ".join(roles) for roles in frame[ROLES]]
            continue
        columns[name] = [with_interval(frame, row, name) for row in range(len(frame))]
        told = describe(name, table.metadata)
        notes.append(f"{name}: {told.title}, {told.formula}; in {told.unit}.")
        if f"{name}_q" in frame:
            columns[f"{name}, q"] = [number(float(value)) for value in frame[f"{name}_q"]]
    if any("[" in cell for cells in columns.values() for cell in cells):
        notes.append("In brackets: 95 % interval.")
    if any(name.endswith(", q") for name in columns):
        notes.append("q: p-value corrected for the number of heads (Benjamini and Hochberg).")
    return Printed(
        _title(table, frame, asked),
        tuple(columns),
        tuple(name in ("head", ROLES) for name in columns),
        tuple(zip(*columns.values(), strict=True)),
        tuple(notes),
    )


def _heads(frame: pd.DataFrame) -> list[str]:
    kinds = frame["kind"] if "kind" in frame else ["self"] * len(frame)
    return [name if kind == "self" else f"{name} ({kind})" for name, kind in zip(names(frame), kinds, strict=True)]


def _title(table: HeadTable, frame: pd.DataFrame, asked: Asked) -> str:
    whose = f"Attention heads of {table.metadata.get('model', 'an unnamed model')}"
    if len(frame) == len(table.frame):
        return f"{whose}, all {len(frame)}."
    return f"{whose}: the {len(frame)} of {len(table.frame)} with the highest {asked.columns[0]}."
