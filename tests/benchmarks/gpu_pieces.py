"""Pieces of a benchmark, each in a process of its own, and what is left of them whatever happens.

A kernel that goes wrong takes its CUDA context along, and with it everything later in the same process. So a piece
writes its records line by line as it finds them, and what it wrote before it failed or ran out of time is kept.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

Record = dict[str, Any]
Command = Callable[[str, Path], list[str]]
"""Name of a piece and the file for its records in, command line out."""

LAST_LINES = 12


@dataclass(frozen=True)
class Piece:
    """name: what is run, "checks 8192". alone: whether it times something, so that nothing else may run beside it."""

    name: str
    alone: bool = True

    @property
    def part(self) -> str:
        """The first word of the name: what `--only` chooses by."""
        return self.name.split(" ")[0]


@dataclass(frozen=True)
class Ended:
    """How a piece ended: its exit status in words ("0", "1", "signal 6", "out of time", "not started: out of time"),
    seconds, everything it recorded, and the last lines it printed where it failed."""

    status: str
    seconds: float
    records: list[Record] = field(default_factory=list)
    said: str = ""

    @property
    def whole(self) -> bool:
        """Whether it ran to its end."""
        return self.status == "0"


@dataclass
class _Running:
    piece: Piece
    process: subprocess.Popen[bytes]
    log: TextIO
    records: Path
    begun: float

    def stop(self) -> None:
        """End the process and its own children (compilers)."""
        with suppress(ProcessLookupError):  # it ended by itself in the meantime
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ended(self, status: str) -> Ended:
        self.log.close()
        text = Path(self.log.name).read_text(errors="replace").strip()
        said = "" if status == "0" else "\n".join(text.splitlines()[-LAST_LINES:])
        return Ended(status, time.monotonic() - self.begun, read_records(self.records), said)


def run_pieces(
    pieces: Iterable[Piece], command: Command, folder: Path, *, deadline: float, longest: float, jobs: int
) -> Iterator[tuple[Piece, Ended]]:
    """Run every piece and give it back as it ends: first up to `jobs` at a time those that time nothing, then the rest
    one by one. deadline: `time.monotonic()` at which what runs is stopped and what waits is not started; longest:
    seconds after which a piece is stopped, so that one that hangs leaves time for the others.
    """
    waiting = sorted(pieces, key=lambda piece: piece.alone)
    running: list[_Running] = []
    try:
        while waiting or running:
            late = time.monotonic() >= deadline
            while waiting and not late and _may_start(waiting[0], running, jobs):
                running.append(_start(waiting.pop(0), command, folder, jobs))
            if late:
                for piece in waiting:
                    yield piece, Ended("not started: out of time", 0.0)
                waiting = []
            for one in list(running):
                code = one.process.poll()
                if code is None and not late and time.monotonic() - one.begun < longest:
                    continue
                running.remove(one)
                if code is None:
                    one.stop()
                yield one.piece, one.ended("out of time" if code is None else _in_words(code))
            time.sleep(0.05)
    finally:
        for one in running:
            one.stop()
            one.log.close()


def _may_start(piece: Piece, running: list[_Running], jobs: int) -> bool:
    return not running if piece.alone else len(running) < jobs


def _start(piece: Piece, command: Command, folder: Path, jobs: int) -> _Running:
    base = folder / piece.name.replace(" ", "_").replace("/", "_of_")
    records, log = base.with_suffix(".jsonl"), base.with_suffix(".log").open("w")
    # Side by side, each takes its part of the cores: else every one would start threads for all of them.
    threads = {} if piece.alone else {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    process = subprocess.Popen(
        command(piece.name, records),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **threads},
    )
    return _Running(piece, process, log, records, time.monotonic())


def _in_words(code: int) -> str:
    return str(code) if code >= 0 else f"signal {-code}"


def read_records(path: Path) -> list[Record]:
    """The records of a piece, also of one that died: a last line that was not finished is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def write_records(records: Iterable[Record], path: Path) -> None:
    """Write records to a file as they come, each on disk before the next is waited for."""
    with path.open("w") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")
            file.flush()
