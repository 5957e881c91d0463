"""effects.jsonl, the only file of a results folder that grows: one checksummed line a piece of work.

A line is `{"sha256":"…","work":{…}}`; the checksum is that of the bytes between `"work":` and the last `}`. A line
counts once it is on the disk whole; a kill costs the line being written and nothing before it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from probe.analyses.pieces import Piece
from probe.errors import ResultsError
from probe.formats import canonical
from probe.store import write_file
from probe.studies.lock import locked

LEDGER_FILE = "effects.jsonl"
_HEAD, _MIDDLE, _END = b'{"sha256":"', b'","work":', b"}\n"
_DIGEST = 64
_STRANGE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
"""Numbers that JSON has no word for are written as these texts."""


class Ledger:
    """The results of a folder's pieces of work, on disk as soon as they are put.

    Use as a context manager: inside, this process alone may write `folder`, which is made where it is absent.
    notice: one line where a torn tail was cut on opening, else None.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / LEDGER_FILE
        self.notice: str | None = None
        self._results: dict[str, np.ndarray] = {}
        self._descriptor: int | None = None
        self._held = False
        self._lock = ExitStack()

    def __enter__(self) -> Ledger:
        """Lock the folder, read every line, and cut a torn tail.

        Raises ResultsError where another process writes the folder, where it cannot be written, and where a
        line before the last is damaged: it names the line.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultsError(f"{self.path.parent}: cannot be made ({error.strerror}); name another folder") from error
        self._lock.enter_context(locked(self.path.parent))
        try:
            self._read()
        except BaseException:
            self._lock.close()
            raise
        self._held = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file and let others write the folder."""
        self._close()
        self._held = False
        self._lock.__exit__(kind, error, trace)

    def __len__(self) -> int:
        """Pieces that have a result."""
        return len(self._results)

    def __contains__(self, piece: Piece) -> bool:
        """Whether the piece has a result."""
        return piece.key in self._results

    def __iter__(self) -> Iterator[Piece]:
        """The pieces that have a result, in the order of their lines."""
        return (Piece.from_key(json.loads(key)) for key in self._results)

    def get(self, piece: Piece) -> np.ndarray | None:
        """The piece's result as it was put, bit for bit; None where it has none yet."""
        found = self._results.get(piece.key)
        return None if found is None else found.copy()

    def result(self, piece: Piece) -> np.ndarray:
        """As `get`. Raises ResultsError where there is none."""
        found = self.get(piece)
        if found is None:
            raise ResultsError(f"{self.path} has no result of the piece {piece.key}; it was asked for and not computed")
        return found

    def put(self, piece: Piece, result: np.ndarray) -> None:
        """Append the result and wait until the disk has it.

        result: numbers of any shape, dtype bool, int64, float32 or float64. Raises ResultsError for another dtype,
        for a piece that has another result already, and where the disk refuses (full, say): every earlier line
        is kept.
        """
        key = piece.key
        if key in self._results:
            if _work(key, result) != _work(key, self._results[key]):
                raise ResultsError(f"{self.path}: the piece {key} has two results; equal work must give equal numbers")
            return
        self._append(_line(_work(key, result)))
        self._results[key] = np.array(result)

    def sort(self) -> None:
        """Put the lines in the order of their keys, by temporary name and rename; a resumed file is then the same
        as an undisturbed one. Raises ResultsError where the disk refuses; the file is then as it was."""
        self._results = dict(sorted(self._results.items()))
        write_file(self.path, b"".join(_line(_work(key, result)) for key, result in self._results.items()))
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _appending(self) -> int:
        """The open file; it is made with the first result."""
        if not self._held:
            raise ResultsError(f"{self.path} is not open: put results inside `with Ledger(folder) as ledger`")
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            except OSError as error:
                raise ResultsError(f"{self.path}: cannot be written ({error.strerror}); name another folder") from error
        return self._descriptor

    def _append(self, line: bytes) -> None:
        descriptor = self._appending()
        before = os.fstat(descriptor).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(descriptor, line[written:])
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, before)
            raise ResultsError(
                f"{self.path}: cannot be written ({error.strerror}); its {len(self)} results are kept: "
                "make room and run the same command again"
            ) from error

    def _read(self) -> None:
        try:
            lines = io.BytesIO(self.path.read_bytes()).readlines() if self.path.exists() else []
        except OSError as error:
            raise ResultsError(f"{self.path}: cannot be read ({error.strerror}); name another folder") from error
        good = 0
        for number, line in enumerate(lines, 1):
            found = _parsed(line)
            if found is None:
                self._cut(number, lines, good)
                return
            self._results[found[0]] = found[1]
            good += len(line)

    def _cut(self, number: int, lines: list[bytes], good: int) -> None:
        """Drop a damaged last line: each is on the disk before the next begins, so a kill can tear no other.

        Raises ResultsError where more lines follow.
        """
        if number < len(lines):
            raise ResultsError(
                f"{self.path}, line {number}: damaged (its checksum differs), and not the torn end of a killed run; "
                "restore the file, or remove that line to compute it again"
            )
        try:
            os.truncate(self.path, good)
        except OSError as error:
            raise ResultsError(f"{self.path}: cannot be written ({error.strerror}); name another folder") from error
        self.notice = f"{self.path.name}: the end was torn (line {number}); cut, {len(self)} results kept"


def keys_in(folder: Path) -> frozenset[str]:
    """Keys of the whole lines in a folder's ledger, without a lock: another process may be writing it."""
    try:
        lines = io.BytesIO((folder / LEDGER_FILE).read_bytes()).readlines()
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise ResultsError(f"{folder / LEDGER_FILE}: cannot be read ({error.strerror}); name another folder") from error
    return frozenset(found[0] for line in lines if (found := _parsed(line)) is not None)


def _work(key: str, result: np.ndarray) -> bytes:
    """A line's `work` as bytes: every number as its shortest decimal that reads back to the same bits."""
    values = np.asarray(result)
    if values.dtype.name not in ("bool", "int64", "float32", "float64"):
        raise ResultsError(f"a result of dtype {values.dtype} cannot be kept; give float64, float32, int64 or bool")
    flat: list[Any] = values.reshape(-1).tolist()
    if values.dtype.kind == "f":
        flat = [value if math.isfinite(value) else str(value) for value in flat]
    document = {"dtype": values.dtype.name, "piece": json.loads(key), "shape": values.shape, "values": flat}
    return canonical(document).encode()


def _line(work: bytes) -> bytes:
    return _HEAD + hashlib.sha256(work).hexdigest().encode() + _MIDDLE + work + _END


def _parsed(line: bytes) -> tuple[str, np.ndarray] | None:
    """Key and result of a line; None where it is not whole."""
    start = len(_HEAD) + _DIGEST + len(_MIDDLE)
    work = line[start : -len(_END)]
    if line != _line(work):
        return None
    found = json.loads(work)
    values = [_STRANGE[value] if isinstance(value, str) else value for value in found["values"]]
    return canonical(found["piece"]), np.array(values, dtype=found["dtype"]).reshape(found["shape"])
