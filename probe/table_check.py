"""What a head table's files must hold: a checksum tells of damage, not of a file that another program made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.columns import KEYS
from probe.errors import ResultsError
from probe.strict import shown

Accepts = Callable[[Any], bool]
Stack = tuple[str, str]

_DIMENSIONS = {
    "received": 3, "offset_mass": 3, "thumbnail": 4, "pair_query": 3, "pair_key": 3, "pair_weight": 3, "window": 4,
    "window_at": 3, "writes": 3,
}  # fmt: skip
"""Axes of the profiles that pages read; all begin with [L, H]."""
_WHOLE_NUMBERS = ("sink_other_at", "pair_query", "pair_key", "window_at", "writes")
_BY_SEQUENCE = "sink_other_at"
"""The one profile that is [sequences, L, H]."""


def check_table(folder: Path, frame: pd.DataFrame, profiles: Mapping[str, np.ndarray], metadata: Any) -> None:
    """Whether what was read from `folder` is a head table, as METRICS has it.

    Heads are named once each and fill layers × heads of every (stack, kind); numbers are numbers and finite or NaN;
    profiles have the axes of their stack; what the metadata tells has its type (what it does not tell may be missing).
    Raises ResultsError, one line with the file and the field.
    """
    heads = f"{folder / 'heads.parquet'}"
    check_metadata(heads, metadata)
    shapes = _check_heads(heads, frame)
    _check_numbers(heads, frame)
    for key, values in profiles.items():
        _check_profile(f"{folder / 'profiles.safetensors'}: {key}", key, values, shapes)


def check_metadata(where: str, metadata: Any) -> None:
    """Raises ResultsError for a recorded fact of another type than our commands write."""
    if not isinstance(metadata, dict):
        raise _wrong(f"{where}: metadata", metadata, "an object")
    _check_facts(f"{where}: metadata", metadata, _FACTS)
    for name, known in _INSIDE.items():
        _check_facts(f"{where}: metadata {name}", metadata.get(name, {}), known)
    for name in ("effects", "circuits"):
        for column, about in metadata.get(name, {}).items():
            here = f"{where}: metadata {name} {shown(column)}"
            if not isinstance(about, dict):
                raise _wrong(here, about, "an object")
            _check_facts(here, about, _COLUMN)
            if ("mode" in about) != ("method" in about) and name == "effects":
                raise _wrong(here, about, "a mode and a method, or neither")


def _check_facts(where: str, found: Mapping[str, Any], known: Mapping[str, tuple[str, Accepts]]) -> None:
    for name, (wanted, accepts) in known.items():
        if name in found and not accepts(found[name]):
            raise _wrong(f"{where} {name}", found[name], wanted)


def _check_heads(where: str, frame: pd.DataFrame) -> dict[Stack, tuple[int, int]]:
    """Layers and heads of every (stack, kind)."""
    missing = [name for name in (*KEYS, "roles") if name not in frame]
    if missing:
        raise ResultsError(f"{where}: no column {missing[0]!r}; wanted a head table")
    if not len(frame):
        raise ResultsError(f"{where}: no rows; wanted one for every head")
    for name in ("stack", "kind"):
        for value in frame[name]:
            if not isinstance(value, str):
                raise _wrong(f"{where}: column {name!r}", value, "texts")
    for name in ("layer", "head", "kv_head"):
        if not pd.api.types.is_integer_dtype(frame[name]) or frame[name].isna().any() or frame[name].min() < 0:
            raise ResultsError(f"{where}: column {name!r} of {frame[name].dtype}; wanted whole numbers from 0 on")
    for value in frame["roles"]:
        if not isinstance(value, list) or not all(isinstance(role, str) for role in value):
            raise _wrong(f"{where}: column 'roles'", value, "lists of texts")
    names = ["stack", "kind", "layer", "head"]
    twice = frame.loc[frame.duplicated(names), names]
    if len(twice):
        stack, kind, layer, head = twice.iloc[0]
        named = f"stack {shown(stack)}, kind {shown(kind)}, layer {layer}, head {head}"
        raise ResultsError(f"{where}: {named} is there twice; wanted one row for every head")
    shapes = {}
    for (stack, kind), rows in frame.groupby(["stack", "kind"], sort=False):
        layers, width = rows["layer"].nunique(), int(rows["head"].max()) + 1
        if len(rows) != layers * width:
            raise ResultsError(
                f"{where}: {len(rows)} rows of stack {shown(stack)}, kind {shown(kind)}, whose {layers} layers have "
                f"heads up to {width - 1}; wanted one for each of {layers} × {width} heads"
            )
        shapes[(str(stack), str(kind))] = (layers, width)
    return shapes


def _check_numbers(where: str, frame: pd.DataFrame) -> None:
    for name in (name for name in frame if name not in (*KEYS, "roles")):
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise ResultsError(f"{where}: column {shown(name)} of {frame[name].dtype}; wanted numbers")
        if np.isinf(frame[name].to_numpy(dtype=np.float64, na_value=np.nan)).any():
            raise ResultsError(f"{where}: column {shown(name)}: found an infinite value; wanted finite ones, or NaN")


def _check_profile(where: str, key: str, values: np.ndarray, shapes: Mapping[Stack, tuple[int, int]]) -> None:
    name, stack = _profile_of(key, shapes)
    if stack not in shapes:
        raise ResultsError(f"{where}: of a stack that heads.parquet does not have; save again")
    shape, by_sequence = shapes[stack], name == _BY_SEQUENCE
    found = values.shape[1:] if by_sequence else values.shape[:2]
    axes = 3 if by_sequence or name.startswith("sequences_") else _DIMENSIONS.get(name, max(values.ndim, 2))
    if tuple(found) != shape or values.ndim != axes or not values.size:
        before, after = (1, 0) if by_sequence else (0, axes - 2)
        wanted = ", ".join(["n"] * before + [str(size) for size in shape] + ["n"] * after)
        raise ResultsError(f"{where}: found shape {list(values.shape)}; wanted [{wanted}], n from 1 on")
    if values.dtype.kind not in "iufb":
        raise ResultsError(f"{where}: found {values.dtype}; wanted numbers")
    if name in _WHOLE_NUMBERS and not (np.isfinite(values) & (values == np.floor(values))).all():
        raise ResultsError(f"{where}: found {values.dtype} with fractions or NaN; wanted whole numbers")
    if name == "thumbnail" and values.shape[2] != values.shape[3]:
        raise ResultsError(f"{where}: found shape {list(values.shape)}; wanted as many query bands as key bands")
    if name == "window_at" and values.shape[2] != 2:
        raise ResultsError(f"{where}: found shape {list(values.shape)}; wanted a query and a key for every head")
    if (name in _DIMENSIONS or name.startswith("sequences_")) and np.isinf(values).any():
        raise ResultsError(f"{where}: found an infinite value; wanted finite ones, or NaN")


def _profile_of(key: str, shapes: Mapping[Stack, tuple[int, int]]) -> tuple[str, Stack]:
    """A profile's bare name, and its stack and kind: the inverse of `probe.table.profile_key`."""
    for stack, kind in shapes:
        if (stack, kind) != ("decoder", "self") and key.endswith(f".{stack}.{kind}"):
            return key.removesuffix(f".{stack}.{kind}"), (stack, kind)
    return key, ("decoder", "self")


def _wrong(where: str, value: Any, wanted: str) -> ResultsError:
    return ResultsError(f"{where}: found {shown(value)}; wanted {wanted}")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _lengths(value: Any) -> bool:
    return _count(value) or (isinstance(value, list) and bool(value) and all(map(_count, value)))


def _object_of(accepts: Accepts) -> Accepts:
    return lambda value: isinstance(value, dict) and all(map(accepts, value.values()))


def _or_null(accepts: Accepts) -> Accepts:
    return lambda value: value is None or accepts(value)


_TEXT = ("a text", _text)
_TEXT_OR_NULL = ("a text or null", _or_null(_text))
_COUNT = ("a whole number from 0 on", _count)
_COUNT_OR_NULL = ("a whole number from 0 on, or null", _or_null(_count))
_NUMBER = ("a finite number", _number)
_OBJECT = ("an object", lambda value: isinstance(value, dict))

_FACTS: Mapping[str, tuple[str, Accepts]] = {
    **dict.fromkeys(
        ("model", "source", "weight_hash", "tokens_hash", "dtype", "device", "text", "bos", "backend", "definitions"),
        _TEXT_OR_NULL,
    ),
    "n_sequences": ("a whole number from 1 on, or null", _or_null(lambda value: _count(value) and value > 0)),
    "length": ("a whole number, a list of them with at least one, or null", _or_null(_lengths)),
    "rows_without_key": _COUNT_OR_NULL,
    "role_thresholds": ("an object of finite numbers", _object_of(_number)),
    "versions": ("an object of texts", _object_of(_text)),
    **dict.fromkeys(("parameters", "effects", "circuits", "tasks", "retrieval", "closeups"), _OBJECT),
    "random_tokens": ("a text or an object", lambda value: isinstance(value, str | dict)),
    "positions": ("a text or a list", lambda value: isinstance(value, str | list)),
    "phase": _TEXT,
    "given": ("a list of texts", lambda value: isinstance(value, list) and all(map(_text, value))),
}
"""Facts that our code reads again, each with its type in words; others are only printed."""
_INSIDE: Mapping[str, Mapping[str, tuple[str, Accepts]]] = {
    "parameters": {**dict.fromkeys(("sinks", "window", "bands"), _COUNT), "epsilon": _NUMBER},
    "closeups": dict.fromkeys(("length", "skipped_keys", "pairs", "span"), _COUNT),
    "retrieval": {
        **dict.fromkeys(("ablation", "parameters"), _OBJECT),
        **dict.fromkeys(("n_trials", "n_usable", "n_needles"), _COUNT),
    },
}
_COLUMN: Mapping[str, tuple[str, Accepts]] = {
    **dict.fromkeys(("task", "metric", "mode", "method", "kind"), _TEXT),
    "prompts": _COUNT,
}
"""What is told of one effect or circuit column."""
