"""Gates of key/value heads from a head table: which columns can be one, and how query heads become one number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from probe.columns import COLUMNS, describe
from probe.errors import ResultsError
from probe.exports.request import REDUCTIONS
from probe.page.telling import names
from probe.table import HeadTable

CAN_GATE = (
    "retrieval", "retrieval_paper", "retrieval_forced", "induction", "induction_random", "duplicate_token",
    "duplicate_token_random", "streaming_error",
)  # fmt: skip
"""Metrics that are 0 for a head that sinks and a window would serve, and high for one that needs the far context."""
NEAR = (
    "sink_first", "sink_rate", "sink_learned", "previous_token", "previous_token_random", "current_token", "local_mass",
    "streaming_mass",
)  # fmt: skip
"""Metrics that say the opposite."""
SLACK = 0.01
"""How far outside 0 … 1 a gate of the caller's own may lie: a published list holds −0.0014."""
_KNOWN = {column.name for column in COLUMNS}
_FAMILIES = ("ablation_", "attribution_", "importance_", "circuit_")
SHOWN = 3


@dataclass(frozen=True)
class Gates:
    """values: in [0, 1], 1 = keep the whole context, one row a layer, one column a key/value head. group: query heads
    that read one. notes: what was done to the numbers.
    """

    values: Float[np.ndarray, "L G"]
    group: int
    notes: tuple[str, ...]


def gates(table: HeadTable, column: str, reduce: str = "max") -> Gates:
    """The gates that a column of the table's decoder self-attention gives.

    reduce: `max` keeps a key/value head for the neediest of its query heads, `mean` weighs them alike. Values outside
    0 … 1 are clipped, as DuoAttention's own loader does, and counted in the notes.
    Raises ResultsError, naming column and heads: a column that is not there or cannot be a gate (another unit, the
    opposite direction, values outside 0 … 1), heads where it is not defined, no decoder heads, layers that are not 0,
    1, 2, … (a list has no place for layers without attention).
    """
    if reduce not in REDUCTIONS:
        raise ResultsError(f"unknown reduction {reduce!r}; known are {', '.join(REDUCTIONS)}")
    frame, notes = _decoder(table)
    _check_gate(table, frame, column)
    layers, group = _grid(frame)
    values = frame[column].to_numpy(dtype=np.float64).reshape(layers, -1, group)
    if group > 1:
        notes.append(f"{group} query heads read one key/value head; its gate is the {reduce} of theirs")
    made = values.max(-1) if reduce == "max" else values.mean(-1)
    outside = int(((made < 0) | (made > 1)).sum())
    if outside:
        notes.append(f"{outside} of {made.size} gates were outside 0 … 1 and are clipped")
    return Gates(np.clip(made, 0, 1), group, tuple(notes))


def as_column(
    values: Float[np.ndarray, "L G"], heads: int, name: str = "duo_gate", *, layers: tuple[int, ...] | None = None
) -> pd.DataFrame:
    """Gates as a column for `HeadTable.with_columns`: every query head takes the gate of its key/value head.

    heads: query heads a layer. layers: the model's own layer numbers (default 0 … L − 1). Raises ResultsError where
    the heads cannot share the gates.
    """
    count, shared = values.shape
    numbers = tuple(range(count)) if layers is None else layers
    if heads % shared or len(numbers) != count:
        raise ResultsError(f"{count} layers of {shared} gates cannot serve {len(numbers)} layers of {heads} heads")
    spread = np.repeat(values, heads // shared, axis=1)
    keys = {"stack": "decoder", "kind": "self", "layer": np.repeat(numbers, heads), "head": [*range(heads)] * count}
    return pd.DataFrame({**keys, name: spread.ravel()})


def _decoder(table: HeadTable) -> tuple[pd.DataFrame, list[str]]:
    frame = table.frame
    mine = (frame["stack"] == "decoder") & (frame["kind"] == "self")
    others = Counter(zip(frame["stack"][~mine], frame["kind"][~mine], strict=True))
    told = [f"{count} {stack} {kind}-attention heads" for (stack, kind), count in others.items()]
    if not mine.any():
        raise ResultsError(
            f"gates are of a decoder's self-attention; this table has {' and '.join(told) or 'no heads'}"
        )
    notes = [f"left out, as they have no cache to keep: {one}" for one in told]
    return frame[mine].reset_index(drop=True), notes


def _check_gate(table: HeadTable, frame: pd.DataFrame, column: str) -> None:
    if column not in table.metrics:
        raise ResultsError(f"no column {column!r} in this table; it has {', '.join(table.metrics)}")
    can = [name for name in table.metrics if name in CAN_GATE]
    instead = f"choose {', '.join(can)}" if can else "this table has none that can: join retrieval scores to it"
    if column in NEAR:
        raise ResultsError(f"{column} cannot be a gate: it is high where sinks and a window suffice, a gate where they "
                           f"do not; {instead}")  # fmt: skip
    if column not in CAN_GATE and (column in _KNOWN or column.startswith(_FAMILIES)):
        unit = describe(column, table.metadata).unit
        raise ResultsError(f"{column} cannot be a gate: in {unit}, it does not say how much a head needs the far "
                           f"context; {instead}")  # fmt: skip
    missing = [names(frame)[row] for row in np.flatnonzero(frame[column].isna())]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise ResultsError(f"{column} is not defined for {', '.join(missing[:SHOWN])}{more}; a gate needs a number for "
                           "every head")  # fmt: skip
    low, high = float(frame[column].min()), float(frame[column].max())
    if column not in CAN_GATE and not (low >= -SLACK and high <= 1 + SLACK):
        raise ResultsError(f"{column} cannot be a gate: it goes from {low:.4g} to {high:.4g}, wanted 0 … 1; {instead}")


def _grid(frame: pd.DataFrame) -> tuple[int, int]:
    """Layers, and query heads a key/value head, of a table whose rows are one whole rectangle in order."""
    layers = sorted(set(frame["layer"]))
    if layers != list(range(len(layers))):
        found = ", ".join(map(str, layers[:8])) + (", …" if len(layers) > 8 else "")
        raise ResultsError(
            f"the table has layers {found}; a list of gates has a row for each of 0, 1, 2, …, and none can be made up "
            "for layers without attention"
        )
    heads, shared = len(frame) // len(layers), int(frame["kv_head"].max()) + 1
    group = heads // shared
    wanted = [(layer, head, head // group) for layer in layers for head in range(heads)] if group else []
    if list(zip(frame["layer"], frame["head"], frame["kv_head"], strict=True)) != wanted:
        raise ResultsError(
            "heads of the table are no whole grid of layers and key/value heads in order; a list of gates has as many "
            "in every layer"
        )
    return len(layers), group
