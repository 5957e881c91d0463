"""Results folders that are whole or absent: written beside their place, flushed to disk, then swapped in."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probe.errors import ResultsError
from probe.formats import canonical, plain

RUN_FILE = "run.json"


@dataclass
class Results:
    """A folder in the making: write files below `path`; `run` becomes run.json (times belong there)."""

    path: Path
    run: dict[str, Any] = field(default_factory=dict)


def identity(asked: Mapping[str, Any]) -> str:
    """sha256 of what was asked: two runs are the same run when everything asked is the same."""
    return hashlib.sha256(canonical(asked).encode()).hexdigest()


def write_file(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all: temporary sibling, fsync, rename, fsync of the folder.

    Raises ResultsError when the disk refuses; an earlier file at `path` is then untouched.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
        _sync(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ResultsError(f"{path}: cannot be written ({error.strerror}); the earlier file is kept") from error


@contextmanager
def results_folder(folder: str | Path, asked: Mapping[str, Any], *, fresh: bool = False) -> Iterator[Results]:
    """A temporary sibling of `folder` that takes its place when the block ends well, and vanishes otherwise.

    asked: everything that decides the results; its hash is the run's identity. A folder that holds the same
    run is replaced. One that holds another run, or files of no run, is refused with ResultsError; with
    `fresh` it is moved aside to `<folder>.previous-<n>` at the swap.
    """
    place = Path(os.path.realpath(folder))
    mine = identity(asked)
    _check(place, mine, fresh)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place)
        part = place.with_name(f".{place.name}.{socket.gethostname()}.{os.getpid()}.part")
        part.mkdir()
    except OSError as error:
        raise ResultsError(f"{place}: cannot be written ({error.strerror}); name another folder") from error
    try:
        results = Results(part)
        yield results
        run = {"identity": mine, "asked": plain(asked), **plain(results.run)}
        document = json.dumps(run, indent=1, sort_keys=True, allow_nan=False)
        write_file(part / RUN_FILE, document.encode() + b"\n")
        _check(place, mine, fresh)
        _sync_tree(part)
        _put(part, place, keep=fresh and not _holds(place, mine))
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _holds(place: Path, mine: str) -> bool:
    """Whether the folder is free for this run: absent, empty, or an earlier result of the same run."""
    try:
        if not any(place.iterdir()):
            return True
        run = json.loads((place / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return not place.exists()
    except NotADirectoryError:
        return False
    except (OSError, ValueError):
        return False
    return isinstance(run, dict) and run.get("identity") == mine


def _check(place: Path, mine: str, fresh: bool) -> None:
    if not fresh and not _holds(place, mine):
        what = "holds another run, or files of no run" if place.is_dir() else "is not a folder"
        raise ResultsError(
            f"{place} {what}; wanted an absent or empty folder, or the same run's: "
            "`--fresh` moves it aside, or name another folder"
        )


def _put(part: Path, place: Path, *, keep: bool) -> None:
    """Swap `part` into `place`; what was there is moved aside (`keep`) or left at `part` for removal."""
    try:
        if not place.exists():
            os.rename(part, place)
        elif not _exchange(part, place):
            old = place.with_name(f".{place.name}.{os.getpid()}.old")
            os.rename(place, old)
            os.rename(part, place)
            os.rename(old, part)
        if keep and part.exists():
            os.rename(part, aside(place))
        _sync(place.parent)
    except OSError as error:
        raise ResultsError(f"{place}: cannot be replaced ({error.strerror}); name another folder") from error


def aside(place: Path) -> Path:
    """The first free name `<folder>.previous-<n>`."""
    number = 1
    while (free := place.with_name(f"{place.name}.previous-{number}")).exists():
        number += 1
    return free


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step (Linux renameat2, RENAME_EXCHANGE); False where the system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    at_cwd, rename_exchange = -100, 2
    if call(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), rename_exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code))


def _sweep(place: Path) -> None:
    """Clear what killed runs on this machine left beside `place`, and undo a swap that one left half done."""
    mark = f".{place.name}."
    for old in place.parent.glob(f"{mark}*.old"):
        if not place.exists() and not _alive(old.name):
            os.rename(old, place)
    for part in place.parent.glob(f"{mark}{socket.gethostname()}.*.part"):
        if not _alive(part.name):
            shutil.rmtree(part, ignore_errors=True)


def _alive(name: str) -> bool:
    """Whether the process that made `….<pid>.<ending>` still runs."""
    number = name.rsplit(".", 2)[-2]
    if not number.isdigit() or int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
