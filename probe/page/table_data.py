"""A head table's numbers as the page's scripts read them."""

from __future__ import annotations

from typing import Any

from probe.columns import describe
from probe.page.telling import names
from probe.plots.cells import MARK_NAMES
from probe.plots.style import DIVERGING, INK, LEVEL, SEQUENTIAL
from probe.table import HeadTable

KEY_METRICS = (
    "sink_first", "previous_token_random", "duplicate_token_random", "induction_random", "retrieval",
    "streaming_error", "entropy_normalised", "output_share",
)  # fmt: skip

EFFECTS = ("ablation_", "attribution_", "circuit_", "difference_")


def table_data(table: HeadTable) -> dict[str, Any]:
    """Names, roles, every column at six significant figures (files hold all), what the metrics are, colours and marks.

    `group` is each head's stack and kind; `key` lists the metrics to show first: effects, then `KEY_METRICS`.
    """
    frame = table.frame
    about = {name: describe(name, table.metadata) for name in table.metrics}
    effects = [name for name in table.metrics if name.startswith(EFFECTS)]
    columns = [name for name in frame if name not in ("stack", "kind", "roles")]
    return {
        "names": names(frame),
        "roles": frame["roles"].tolist(),
        "group": (frame["stack"] + " " + frame["kind"]).tolist(),
        "columns": {name: [_rounded(value) for value in frame[name].tolist()] for name in columns},
        "metrics": {name: {"title": told.title, "formula": told.formula, "unit": told.unit}
                    for name, told in about.items()},
        "key": effects + [name for name in KEY_METRICS if name in frame],
        "marks": {"level": LEVEL, "ink": INK, "names": [MARK_NAMES[True], MARK_NAMES[False]]},
        "colours": {"sequential": SEQUENTIAL, "diverging": DIVERGING},
    }  # fmt: skip


def _rounded(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.6g}")
