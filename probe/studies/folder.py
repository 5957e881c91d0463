"""A study's folder: whose it is, what was asked in it, and the refusal to mix it with anything else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probe.errors import ResultsError
from probe.formats import canonical, plain
from probe.store import RUN_FILE, aside, identity, write_file
from probe.studies.ledger import Ledger, keys_in
from probe.studies.lock import LOCK_FILE, locked

SHOWN = 3
"""Differences that a refusal names."""


@contextmanager
def study_folder(
    folder: Path, asked: Mapping[str, Any], files: Mapping[str, bytes], *, fresh: bool = False
) -> Iterator[Ledger]:
    """The ledger of `folder`, which this process alone may write meanwhile; run.json and `files` are put first.

    asked: everything that decides the numbers. A folder where the same was asked is gone on with. Any other is
    refused with ResultsError, which names what differs; with `fresh` it is moved aside to `<folder>.previous-<n>`.
    """
    place = Path(os.path.realpath(folder))
    if not _ours(place, asked, fresh):
        _move_aside(place)
    with Ledger(place) as ledger:
        # The folder may have become another's between the look and the lock.
        _ours(place, asked, fresh=False)
        for stale in place.glob(".*.part"):
            stale.unlink(missing_ok=True)
        if not (place / RUN_FILE).exists():
            write_run(place, asked, {"state": "begun"})
        for name, data in files.items():
            write_file(place / name, data)
        yield ledger


def check_folder(folder: Path, asked: Mapping[str, Any], *, fresh: bool = False) -> None:
    """Raise ResultsError where `study_folder` would, before any work; nothing is written."""
    _ours(Path(os.path.realpath(folder)), asked, fresh)


def remembered(folder: Path, asked: Mapping[str, Any]) -> frozenset[str]:
    """Keys of the pieces that a folder of this study has results of; none where it holds another. Read only."""
    place = Path(os.path.realpath(folder))
    return frozenset() if _problem(place, asked) is not None else keys_in(place)


def write_run(folder: Path, asked: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Put run.json in place: what was asked, its identity, and what is not part of it (times, the machine)."""
    document = {"identity": identity(asked), "asked": plain(asked), **plain(run)}
    write_file(folder / RUN_FILE, json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n")


def differences(asked: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What was asked otherwise in a folder, one text a difference, in words that name both."""
    mine, theirs = _flat(plain(asked)), _flat(there)
    return [
        f"{name} is {_shown(theirs.get(name))} there and {_shown(mine.get(name))} here"
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]


def _ours(place: Path, asked: Mapping[str, Any], fresh: bool) -> bool:
    """Whether the folder is free or holds this study; False where it has to be moved aside (`fresh`)."""
    problem = _problem(place, asked)
    if problem is None:
        return True
    if fresh and place.is_dir():
        return False
    raise ResultsError(f"{place} {problem}; `--fresh` moves it aside, or name another folder")


def _problem(place: Path, asked: Mapping[str, Any]) -> str | None:
    """Why this study cannot go on in the folder; None where it can."""
    if not place.exists():
        return None
    if not place.is_dir():
        return "is not a folder"
    if not (place / RUN_FILE).exists():
        foreign = sorted(path.name for path in place.iterdir() if not _passing(path.name))
        return f"holds files of no study ({foreign[0]})" if foreign else None
    try:
        run = json.loads((place / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"holds a {RUN_FILE} that cannot be read"
    there = run.get("asked") if isinstance(run, dict) else None
    if not isinstance(there, dict) or "study" not in there:
        return "holds another kind of run"
    found = differences(asked, there)
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"holds another study: {'; '.join(found[:SHOWN])}{more}"
    return None


def _passing(name: str) -> bool:
    """Whether a file is one that a killed run may leave before its run.json is there."""
    return name == LOCK_FILE or (name.startswith(".") and name.endswith(".part"))


def _move_aside(place: Path) -> None:
    """Rename a folder that nobody writes."""
    with locked(place):
        away = aside(place)
        try:
            os.rename(place, away)
        except OSError as error:
            raise ResultsError(f"{place}: cannot be moved aside ({error.strerror}); name another folder") from error
    (away / LOCK_FILE).unlink(missing_ok=True)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings as one, its names joined by dots."""
    if not isinstance(value, Mapping):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{name}.{key}" if name else str(key))
    return flat


def _shown(value: Any) -> str:
    text = "absent" if value is None else value if isinstance(value, str) else canonical(value)
    return text if len(text) <= 40 else text[:12] + "…"
