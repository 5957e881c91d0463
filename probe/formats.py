"""Tables as bytes: Parquet with page checksums, CSV that no spreadsheet can execute, JSON without NaN."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from probe.errors import ResultsError

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def plain(value: Any) -> Any:
    """`value` as strict JSON can hold it: numpy numbers and arrays become Python's, NaN and infinity null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str):
        return value
    raise ResultsError(f"{type(value).__name__} cannot be written as JSON: give numbers, text, lists, mappings")


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, ASCII only, no NaN."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def parquet(frame: pd.DataFrame, documents: Mapping[str, Any] | None = None) -> bytes:
    """`frame` as Parquet with a checksum on every page; `documents` become JSON in the schema metadata."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    # pandas' own metadata names its version only to restore dtypes that these tables do not use.
    table = table.replace_schema_metadata({key: canonical(item) for key, item in (documents or {}).items()})
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()


def read_parquet(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table written by `parquet`, its pages verified, with its documents.

    Raises ResultsError for a file that is missing, cut short or damaged.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        documents = {key.decode(): json.loads(item) for key, item in (table.schema.metadata or {}).items()}
    except FileNotFoundError as error:
        raise ResultsError(f"{path}: no such file; name a folder that a run has written") from error
    except (OSError, pa.ArrowException, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ResultsError(f"{path}: damaged or not a table ({reason}); run again to replace it") from error
    frame = table.to_pandas()
    for name in (field.name for field in table.schema if pa.types.is_list(field.type)):
        frame[name] = [list(item) for item in frame[name]]
    return frame, documents


def spreadsheet_text(value: str) -> str:
    """Text as a spreadsheet shows it and never runs it: a leading = + - @ TAB or CR gets a ' before it."""
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value


def csv(frame: pd.DataFrame) -> bytes:
    """`frame` as UTF-8 CSV (RFC 4180): text neutralised, lists joined by a space, NaN empty.

    A lone surrogate, which UTF-8 cannot hold, is written as its escape. Lossless text is in Parquet and JSON.
    """
    shown = frame.copy()
    for name in shown:
        if not pd.api.types.is_numeric_dtype(shown[name]):
            shown[name] = [_cell(value) for value in shown[name]]
    shown.columns = pd.Index([spreadsheet_text(str(name)) for name in shown])
    text = shown.to_csv(index=False, lineterminator="\r\n")
    return text.encode()


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple, np.ndarray)):
        value = " ".join(str(item) for item in value)
    if isinstance(value, str):
        return spreadsheet_text(value.encode("utf-8", "backslashreplace").decode())
    return value


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One mapping a row, as strict JSON can hold it."""
    columns = {str(name): plain(frame[name].tolist()) for name in frame}
    return [{name: values[row] for name, values in columns.items()} for row in range(len(frame))]
