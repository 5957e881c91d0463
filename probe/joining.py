"""Several results folders of one model as one, with every refusal by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from probe.circuits.circuit import Circuit
from probe.columns import KEYS
from probe.errors import ResultsError
from probe.page.report_circuit import circuit_table
from probe.results import Results
from probe.table import HeadTable

Value = TypeVar("Value")
_ABOUT = ("effects", "tasks", "circuits")
"""Metadata that describes columns, gathered from all folders."""


def joined(results: Sequence[Results]) -> Results:
    """See `probe.results.together`."""
    parts = list(_single(results))
    if not parts:
        raise ResultsError("no results folder to join; wanted one or more")
    _check_model(parts)
    scanned = [part for part in parts if part.table is not None and part.table.scanned]
    scan = _at_most_one("a scan", scanned)
    retrieval = _at_most_one("a retrieval run", [part for part in parts if part.retrieval is not None])
    circuits = _circuits(parts)
    studies = [(study, part) for part in parts for study in part.studies]
    _once("study of", ((f"{study.task.name} by {', '.join(_how(study))}", part.folder) for study, part in studies))
    commands = [part.command for part in parts if part.command is not None]
    return Results(
        Path(parts[0].folder), "together", _table(parts, scan, circuits),
        None if retrieval is None else retrieval.retrieval,
        tuple(study for study, _ in studies), circuits,
        tuple(overlap for part in parts for overlap in part.overlaps), None if scan is None else scan.tokens,
        {"command": "\n".join(commands)} if len(commands) == len(parts) else {}, parts=tuple(parts),
    )  # fmt: skip


def _how(study: Any) -> list[str]:
    return [f"{one.mode} {one.method}" for one in study.effects]


def _single(results: Iterable[Results]) -> Iterable[Results]:
    """Folders that hold one model's results each."""
    for found in results:
        yield from _single(found.parts) if found.kind in ("studies", "together") else [found]


def _check_model(parts: Sequence[Results]) -> None:
    """Names must agree, and weights where both tell them."""
    what: tuple[tuple[str, Callable[[Results], str | None]], ...] = (
        ("weights", lambda part: part.weight_hash), ("models", lambda part: part.model),
        ("definitions", lambda part: None if part.table is None else part.table.metadata.get("definitions")),
    )  # fmt: skip
    for name, told in what:
        known = [(value, part.folder) for part in parts if (value := told(part)) is not None]
        other = next(((value, folder) for value, folder in known if value != known[0][0]), None)
        if other is not None:
            raise ResultsError(f"{known[0][1]} and {other[1]} are of different {name} ({known[0][0]:.20} and "
                               f"{other[0]:.20}); wanted folders of one model, measured alike")  # fmt: skip


def _at_most_one(what: str, parts: Sequence[Results]) -> Results | None:
    if len(parts) > 1:
        raise ResultsError(f"{parts[0].folder} and {parts[1].folder} both hold {what}; give one of them")
    return parts[0] if parts else None


def _once(what: str, named: Iterable[tuple[str, Path]]) -> None:
    seen: dict[str, Path] = {}
    for name, folder in named:
        if name in seen:
            raise ResultsError(f"{seen[name]} and {folder} both hold a {what} {name}; give one of them")
        seen[name] = folder


def _circuits(parts: Sequence[Results]) -> tuple[Circuit, ...]:
    """One a task; the same circuit may lie in two folders (a matrix and one of its own)."""
    found: dict[str, tuple[Circuit, Path]] = {}
    for part in parts:
        for circuit in part.circuits:
            other, folder = found.setdefault(circuit.task, (circuit, part.folder))
            if other != circuit:
                raise ResultsError(f"{folder} and {part.folder} hold two circuits of {circuit.task}; give one of them")
    return tuple(circuit for circuit, _ in found.values())


def _table(parts: Sequence[Results], scan: Results | None, circuits: Sequence[Circuit]) -> HeadTable:
    """All heads with the columns of all folders; the scan's, or the first's, where two have the same."""
    others = [part for part in parts if part is not scan and part.table is not None and not part.circuits]
    tables = [(part.table, part.folder) for part in ([scan] if scan is not None else []) + others]
    if circuits:
        tables.append((circuit_table(circuits), parts[0].folder))
    (whole, first), *rest = [(table, folder) for table, folder in tables if table is not None]
    metadata = dict(whole.metadata)
    _check_where([(part.table, part.folder) for part in parts if part.studies and part.table is not None])
    for table, folder in rest:
        metadata |= {name: value for name, value in table.metadata.items() if name not in metadata}
        new = [str(name) for name in table.frame if name not in (*KEYS, "roles")]
        _check_same(whole, table, [name for name in new if name in whole.frame], first, folder)
        added = table.frame[["layer", "head", *(name for name in new if name not in whole.frame)]]
        whole = whole.with_columns(added) if len(added.columns) > 2 else whole
        for name in _ABOUT:
            if name in table.metadata:
                metadata[name] = {**metadata.get(name, {}), **table.metadata[name]}
    run = next((part.retrieval for part in parts if part.retrieval is not None), None)
    if run is not None:
        metadata["retrieval"] = run.metadata
    return HeadTable(whole.frame, whole.profiles, metadata)


def _check_where(studies: Sequence[tuple[HeadTable, Path]]) -> None:
    """Raises ResultsError for studies that removed heads at different places: a page has one word for all."""
    for table, folder in studies:
        for name in ("positions", "phase", "given"):
            one, other = studies[0][0].metadata.get(name), table.metadata.get(name)
            if one != other:
                raise ResultsError(
                    f"{studies[0][1]} and {folder}: {name} are {one} and {other}; give each its own page"
                )


def _check_same(whole: HeadTable, table: HeadTable, names: Sequence[str], first: Path, folder: Path) -> None:
    """Raises ResultsError for a column that two folders have with different numbers."""
    for name in names:
        if not np.array_equal(whole.frame[name].to_numpy(), table.frame[name].to_numpy(), equal_nan=True):
            raise ResultsError(f"{name} is in {first} and in {folder}, with different numbers; give one of them")
