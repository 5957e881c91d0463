"""A head table as Parquet, CSV that no spreadsheet can execute, or JSON with a published schema."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from probe import formats
from probe.columns import describe, metrics_of
from probe.exports.request import Asked, Made, chosen
from probe.table import HeadTable

FORMAT, VERSION = "headprobe.heads", 1
"""What the JSON says of itself; the version changes when a reader of the last one would misread the new."""
SCHEMA_FILE = "heads.schema.json"


def parquet_table(table: HeadTable, asked: Asked) -> Made:
    """`heads.parquet`: a checksum on every page, the table's metadata as JSON under the key `probe`."""
    return Made({"heads.parquet": formats.parquet(chosen(table, asked), {"probe": table.metadata})})


def csv_table(table: HeadTable, asked: Asked) -> Made:
    """`heads.csv`: RFC 4180, UTF-8; text that a spreadsheet would run begins with '; not defined is empty."""
    return Made({"heads.csv": formats.csv(chosen(table, asked))})


def json_table(table: HeadTable, asked: Asked) -> Made:
    """`heads.json`, valid under `schema()`: what each column is, how the table was made, one object a head."""
    frame = chosen(table, asked)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "columns": {name: _about(name, table) for name in metrics_of(frame.columns)},
        "metadata": formats.plain(table.metadata),
        "heads": formats.records(frame),
    }
    text = json.dumps(document, allow_nan=False, indent=1, sort_keys=True)
    return Made({"heads.json": text.encode() + b"\n"})


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what `json_table` writes."""
    found: dict[str, Any] = json.loads(files("probe.exports").joinpath(SCHEMA_FILE).read_text(encoding="utf-8"))
    return found


def _about(name: str, table: HeadTable) -> dict[str, Any]:
    told = asdict(describe(name, table.metadata))
    return {field: told[field] for field in ("title", "formula", "unit", "top")}
