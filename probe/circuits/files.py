"""circuit.json: a circuit as a file, read strictly, and beside it each prompt's scores in nodes.parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.circuits.circuit import Circuit, CircuitEdge, CircuitNode, CurvePoint, PromptScores
from probe.errors import ResultsError
from probe.formats import parquet, read_parquet
from probe.store import write_file
from probe.strict import MOST_BYTES, read_json

_ROWS = {"nodes": CircuitNode, "edges": CircuitEdge, "curve": CurvePoint}
_OWNER = ("model", "n_layers", "n_heads", "parallel", "layers", "task", "metric", "prompts", "prompts_sha256", "seed")
"""What a circuit and its prompts' scores must agree on."""


def save(circuit: Circuit, path: str | Path, scores: PromptScores | None = None) -> None:
    """Write `path`, whole or not at all, and `scores` beside it (see `scores_path`).

    Equal circuits give equal bytes. Without `scores` those of an earlier circuit of that name are removed. Raises
    ResultsError where the disk refuses, or where the scores are not one finite number a source and prompt.
    """
    place = Path(path)
    data = json.dumps(document(circuit), indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
    if len(data) > MOST_BYTES:
        raise ResultsError(f"{place}: {len(data):,} bytes, more than the {MOST_BYTES:,} that can be read again")
    table = None if scores is None else _scores_bytes(circuit, scores)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if table is None:
            scores_path(place).unlink(missing_ok=True)
    except OSError as error:
        raise ResultsError(f"{place}: cannot be written ({error.strerror}); name another file") from error
    if table is not None:
        write_file(scores_path(place), table)
    write_file(place, data)


def load(path: str | Path) -> Circuit:
    """The circuit of a file.

    Raises ResultsError, in one line that names the file: unknown, missing, repeated or non-finite fields, wrong
    types, nodes and edges that the model cannot have, edges against its order, a file over `MOST_BYTES`.
    """
    place = Path(path)
    return parsed(read_json(place), str(place))


def parsed(found: Any, where: str) -> Circuit:
    """The circuit of a document such as `document` makes. Raises ResultsError as `load` does, naming `where`."""
    try:
        return Circuit(**_fields(Circuit, found, "circuit"))
    except ResultsError as error:
        raise ResultsError(f"{where}: {error}") from error


def scores_path(path: str | Path) -> Path:
    """Where the scores of a circuit file lie: `nodes.parquet` beside circuit.json, `x.nodes.parquet` beside x.json."""
    place = Path(path)
    return place.with_name("nodes.parquet" if place.stem == "circuit" else f"{place.stem}.nodes.parquet")


def load_scores(path: str | Path, circuit: Circuit) -> PromptScores | None:
    """The scores that were saved beside the circuit file `path`; None where there are none.

    Raises ResultsError for a table that is damaged, incomplete, or of another circuit.
    """
    place = scores_path(path)
    if not place.exists():
        return None
    frame, documents = read_parquet(place)
    if documents.get("circuit") != _owner(circuit):
        raise ResultsError(f"{place}: scores of another circuit than {Path(path).name}; save the two together")
    names = circuit.graph.sources
    wanted = [(name, prompt) for name in names for prompt in range(circuit.prompts)]
    columns = [name for name in frame if name != "group"]
    if columns != ["node", "prompt", "score"] or list(zip(frame["node"], frame["prompt"], strict=True)) != wanted:
        raise ResultsError(f"{place}: not one score for each of {len(names)} nodes and {circuit.prompts} prompts")
    values = frame["score"].to_numpy(dtype=np.float64).reshape(len(names), circuit.prompts)
    groups = tuple(frame["group"][: circuit.prompts]) if "group" in frame else None
    _check_scores(circuit, PromptScores(values, groups), str(place))
    return PromptScores(values, groups)


def document(circuit: Circuit) -> dict[str, Any]:
    """A circuit as JSON's values, each number of its field's type: equal circuits have equal documents."""
    return {one.name: _written(getattr(circuit, one.name), str(one.type)) for one in fields(circuit)}


def _owner(circuit: Circuit) -> dict[str, Any]:
    found = document(circuit)
    return {name: found[name] for name in _OWNER}


def _check_scores(circuit: Circuit, scores: PromptScores, where: str) -> None:
    wanted = (len(circuit.graph.sources), circuit.prompts)
    if scores.values.shape != wanted:
        raise ResultsError(f"{where}: scores of shape {list(scores.values.shape)}; wanted {list(wanted)}")
    if not np.isfinite(scores.values).all():
        raise ResultsError(f"{where}: scores that are not finite; wanted a number for every node and prompt")
    if scores.groups is not None and len(scores.groups) != circuit.prompts:
        raise ResultsError(f"{where}: {len(scores.groups)} groups for {circuit.prompts} prompts; wanted one each")


def _scores_bytes(circuit: Circuit, scores: PromptScores) -> bytes:
    _check_scores(circuit, scores, f"circuit of {circuit.task}")
    names, prompts = circuit.graph.sources, circuit.prompts
    frame = pd.DataFrame(
        {
            "node": np.repeat(np.array(names, dtype=object), prompts),
            "prompt": np.tile(np.arange(prompts), len(names)),
            "score": np.asarray(scores.values, dtype=np.float64).ravel(),
        }
    )
    if scores.groups is not None:
        frame["group"] = list(scores.groups) * len(names)
    return parquet(frame, {"circuit": _owner(circuit)})


_WRITERS: Mapping[str, Callable[[Any], Any]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": lambda number: float(number) + 0.0,
}


def _written(value: Any, kind: str) -> Any:
    """A field's value in JSON. Numbers take the type that their field declares; -0.0 is 0.0."""
    if kind.startswith("Mapping"):
        return {str(key): item if isinstance(item, str) else float(item) + 0.0 for key, item in value.items()}
    if kind.startswith("tuple[Circuit") or kind.startswith("tuple[Curve"):
        return [{one.name: _written(getattr(row, one.name), str(one.type)) for one in fields(row)} for row in value]
    if kind.startswith("tuple"):
        return None if value is None else [int(item) if "int" in kind else str(item) for item in value]
    return _WRITERS[kind](value)


def _fields(made: type, found: Any, where: str) -> dict[str, Any]:
    """Checked values of a dataclass's fields, each of which must be there, with no other beside them."""
    if not isinstance(found, dict):
        raise ResultsError(f"{where}: found {_shown(found)}; wanted an object")
    kinds = {one.name: str(one.type) for one in fields(made)}
    for name in found:
        if name not in kinds:
            raise ResultsError(f"{where}: unknown field {name!r}; known are {', '.join(kinds)}")
    for name in kinds:
        if name not in found:
            raise ResultsError(f"{where}: no field {name!r}; wanted all of {', '.join(kinds)}")
    return {name: _read(name, found[name], kind, where) for name, kind in kinds.items()}


def _read(name: str, value: Any, kind: str, where: str) -> Any:
    if name in _ROWS and kind.startswith("tuple"):
        rows = _list(value, f"{where}: {name}")
        return tuple(_ROWS[name](**_fields(_ROWS[name], row, f"{name}[{at}]")) for at, row in enumerate(rows))
    if kind.startswith("Mapping"):
        if not isinstance(value, dict):
            raise ResultsError(f"{where}: {name}: found {_shown(value)}; wanted an object")
        either = _text_or_number if "str" in kind.split(",")[1] else _number
        return {_text(key, where): either(item, f"{where}: {name} {key!r}") for key, item in value.items()}
    if kind.startswith("tuple"):
        if value is None and "None" in kind:
            return None
        one = _whole if "int" in kind else _text
        return tuple(one(item, f"{where}: {name}") for item in _list(value, f"{where}: {name}"))
    return _READERS[kind](value, f"{where}: {name}")


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ResultsError(f"{where}: found {_shown(value)}; wanted a list")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
        raise ResultsError(f"{where}: found {_shown(value)}; wanted a text that UTF-8 can hold")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ResultsError(f"{where}: found {_shown(value)}; wanted true or false")
    return value


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise ResultsError(f"{where}: found {_shown(value)}; wanted a whole number")
    return value


def _number(value: Any, where: str) -> float:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if not whole and not (isinstance(value, float) and math.isfinite(value)):
        raise ResultsError(f"{where}: found {_shown(value)}; wanted a finite number")
    return float(value)


def _text_or_number(value: Any, where: str) -> float | str:
    return _text(value, where) if isinstance(value, str) else _number(value, where)


_READERS: Mapping[str, Callable[[Any, str], Any]] = {"str": _text, "int": _whole, "bool": _flag, "float": _number}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"
