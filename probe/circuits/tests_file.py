"""tests.json: what the tests of a head circuit for completeness and minimality found, beside circuit.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probe.analyses.circuit_tests import Completeness, Difference, Minimality
from probe.errors import ResultsError
from probe.formats import plain
from probe.strict import Fields, read_json

TESTS_FILE = "tests.json"
Tests = tuple[tuple[Completeness, ...], tuple[Minimality, ...]]


def circuit_tests_json(completeness: Sequence[Completeness], minimality: Sequence[Minimality]) -> bytes:
    """Both as one JSON document; equal tests give equal bytes."""
    document = {"completeness": list(map(asdict, completeness)), "minimality": list(map(asdict, minimality))}
    return json.dumps(plain(document), indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def read_tests(folder: Path) -> Tests:
    """What a circuit's folder holds of them; two empty tuples where it has no such file.

    Raises ResultsError for a file that is damaged or of another form.
    """
    path = folder / TESTS_FILE
    if not path.exists():
        return (), ()
    document = Fields(read_json(path), str(path))
    complete = tuple(map(_completeness, document.objects("completeness")))
    minimal = tuple(map(_minimality, document.objects("minimality")))
    document.end()
    return complete, minimal


def _completeness(row: Fields) -> Completeness:
    found = Completeness(
        row.text("kind"), row.text("name"), row.pairs("removed"), row.number("circuit"), row.number("model"),
        _difference(row.object("difference")),
    )  # fmt: skip
    row.end()
    return found


def _minimality(row: Fields) -> Minimality:
    head: Any = row.any("head")
    if not isinstance(head, list) or len(head) != 2 or any(type(one) is not int for one in head):
        raise ResultsError(f"{row.where}: head: found {head!r:.40}; wanted a layer and a head")
    found = Minimality((head[0], head[1]), row.text("group"), row.pairs("removed"), _difference(row.object("loss")))
    row.end()
    return found


def _difference(row: Fields) -> Difference:
    found = Difference(*(row.number(name) for name in ("mean", "low", "high", "share")))
    row.end()
    return found
