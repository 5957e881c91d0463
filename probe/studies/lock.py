"""One writer a folder: a lock that a dead process cannot hold."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probe.errors import ResultsError

LOCK_FILE = "lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The only right to write `folder`, which must exist, while the block runs.

    The system's own file lock, which ends with the process however it dies; the file says who holds it. A
    file left by a dead process of this machine is taken over. Raises ResultsError where a living process holds
    it, and where another machine is named in it (locks of shared disks do not always reach other machines).
    """
    path = folder / LOCK_FILE
    descriptor = _taken(path)
    try:
        _check_host(path, descriptor)
        _sign(path, descriptor)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _taken(path: Path) -> int:
    """A descriptor of the lock file that holds the system's lock on it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ResultsError(f"{path}: cannot be written ({error.strerror}); name another folder") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise ResultsError(f"{path}: cannot be locked ({error.strerror}); name a folder elsewhere") from error
            who = f"process {holder.get('pid', '?')} on {holder.get('host', 'this machine')}"
            raise ResultsError(f"{path.parent} is being written by {who}; wait for it, or name another") from None
        # Whoever held the lock before us may have removed the file on leaving: then this one guards nothing.
        try:
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _sign(path: Path, descriptor: int) -> None:
    """Write who holds the lock, for the messages of others."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written ({error.strerror}); name another folder") from error


def _check_host(path: Path, descriptor: int) -> None:
    host = _holder(descriptor).get("host", socket.gethostname())
    if host != socket.gethostname():
        raise ResultsError(
            f"{path.parent} was being written on {host}, and this is {socket.gethostname()}; "
            f"where that run is over, remove {path}"
        )


def _holder(descriptor: int) -> dict[str, object]:
    """Who wrote the lock file; nothing where it is empty or half-written."""
    try:
        found = json.loads(os.pread(descriptor, 1_000, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
