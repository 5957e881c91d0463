"""How far a long job is: analyses report work done, the command line draws it on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import TaskID

PATIENCE = 2.0
"""Seconds before anything is drawn: a quick job needs no bar."""


class Progress(Protocol):
    """What an analysis calls as it goes: `done` of `total` units, whatever a unit is in that job.

    `what` names the job in a few words ("scan", "retrieval"); a new name starts a new bar.
    """

    def __call__(self, done: float, total: float, what: str) -> None: ...


def silent(done: float, total: float, what: str) -> None:
    """The progress of nobody watching."""


@contextmanager
def on_terminal() -> Iterator[Progress]:
    """Bars with time left on standard error, from two seconds on; silent where that is not a terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bars = Bars(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, TaskID] = {}
    begun = time.monotonic()

    def draw(done: float, total: float, what: str) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)
        if time.monotonic() - begun > PATIENCE:
            bars.start()

    try:
        yield draw
    finally:
        bars.stop()
