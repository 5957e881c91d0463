"""DuoAttention's list of heads: `full_attention_heads.tsv` and its `config.json`, written and read.

Form: github.com/mit-han-lab/duo-attention (commit fe93c31), attn_patterns/; Xiao et al. 2024, arXiv 2410.10819. One row
a layer, one tab-separated column a key/value head, `%.18e`; 1 = full attention, 0 = sinks and a window. Its loader
clips to 0 … 1 and takes `sink_size` and `recent_size` from the config. Deviation: theirs are gates trained for the
purpose; ours are a measured column, so that ranks and quantiles carry over and the threshold 0.5 does not.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float

from probe.columns import describe
from probe.errors import ResultsError
from probe.exports.gates import gates
from probe.exports.request import Asked, Made, one_column
from probe.formats import plain
from probe.table import HeadTable

GATES_FILE, CONFIG_FILE = "full_attention_heads.tsv", "config.json"
FAR = 0.1
"""How far outside 0 … 1 a published gate may lie: the last step of training (learning rate 0.002) is not clamped."""
SINKS, RECENT = 64, 256
"""Deployed sizes of the paper's needle test, for tables that were made without a window."""


def duo_list(table: HeadTable, asked: Asked) -> Made:
    """`full_attention_heads.tsv` and `config.json` of one column. Raises ResultsError as `gates.gates` does."""
    column = one_column(table, asked, "a DuoAttention list")
    made = gates(table, column, asked.reduce)
    metadata = table.metadata
    parameters = metadata.get("parameters", {})
    config = {
        "model_name": metadata.get("model"),
        "sink_size": parameters.get("sinks", SINKS),
        "recent_size": parameters.get("window", RECENT),
        "headprobe": {
            "column": column,
            "definition": describe(column, metadata).formula,
            "reduced_over_query_heads": asked.reduce if made.group > 1 else None,
            "query_heads_per_kv_head": made.group,
            "trained": False,
            "notes": list(made.notes),
            **{name: metadata.get(name) for name in ("weight_hash", "tokens_hash", "definitions", "versions")},
        },
    }
    files = {
        GATES_FILE: tsv(made.values),
        CONFIG_FILE: json.dumps(plain(config), indent=1, allow_nan=False).encode() + b"\n",
    }
    note = "gates are a measured column, not trained ones: compare ranks and quantiles, not the threshold 0.5"
    return Made(files, (*made.notes, note))


def tsv(values: Float[np.ndarray, "L G"]) -> bytes:
    """Gates as DuoAttention writes them: `numpy.savetxt` with tabs. No value is changed."""
    stream = io.BytesIO()
    np.savetxt(stream, values, delimiter="\t")
    return stream.getvalue()


def read_duo(path: str | Path) -> Float[np.ndarray, "L G"]:
    """The gates of a published list, float64, clipped to 0 … 1 as its own loader does.

    path: the .tsv, or the folder that holds `full_attention_heads.tsv`. Raises ResultsError, naming file and line, for
    what is missing, not a whole grid of numbers, or further than 0.1 outside 0 … 1.
    """
    place = Path(path)
    place = place / GATES_FILE if place.is_dir() else place
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise ResultsError(f"{place}: cannot be read ({error}); wanted DuoAttention's {GATES_FILE}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append([float(cell) for cell in line.split("\t")])
        except ValueError as error:
            raise ResultsError(f"{place}, line {number}: {str(error)[:80]}; wanted numbers between tabs") from error
        if len(rows[-1]) != len(rows[0]):
            raise ResultsError(
                f"{place}, line {number}: {len(rows[-1])} gates, {len(rows[0])} in the first; wanted a grid"
            )
    values = np.array(rows, dtype=np.float64)
    if not values.size or not np.isfinite(values).all() or values.min() < -FAR or values.max() > 1 + FAR:
        found = f"{np.nanmin(values):.3g} to {np.nanmax(values):.3g}" if np.isfinite(values).any() else "none"
        raise ResultsError(f"{place}: gates from 0 to 1 are wanted, found {found}; not a DuoAttention list")
    return np.clip(values, 0.0, 1.0)
