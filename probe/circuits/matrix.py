"""Circuits of several tasks in one model: what every pair shares, and what sharing does."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probe import formats
from probe.analyses.head_runs import HeadRuns
from probe.analyses.overlap import Overlap, overlap
from probe.analyses.transfer import PartEffect, Transfer, part_effects, transfer
from probe.circuits.circuit import Circuit
from probe.circuits.folder import Ready, Say, circuit_folder, identity_of
from probe.circuits.memory import Memory
from probe.circuits.study import FoundCircuit
from probe.errors import TokensError
from probe.machine import machine, now
from probe.page.report_circuit import write_matrix_report
from probe.plots.overlap import overlap_matrix, pair_table
from probe.plots.transfer import removed_table, transfer_table
from probe.progress import Progress, silent
from probe.store import write_file
from probe.studies.folder import study_folder, write_run

MATRIX_FILE, TRANSFER_FILE, REMOVED_FILE = "matrix.json", "transfer.parquet", "removed.parquet"
DRAWS = 10


@dataclass(frozen=True, eq=False)
class Matrix:
    """circuits: one a task. overlaps: of every pair. transfer: every circuit on every task. removed: what both tasks of
    every pair lose without the heads that they share, and without those of one alone (`plots_transfer` has columns).
    not_done: tasks that were asked for and have no circuit, with the reason.
    """

    circuits: tuple[Circuit, ...]
    overlaps: tuple[Overlap, ...]
    transfer: pd.DataFrame
    removed: pd.DataFrame
    not_done: Mapping[str, str]

    def plot(self) -> go.Figure:
        """Every circuit against every other: how many heads they share, beside chance."""
        return overlap_matrix(pair_table(self.overlaps), [one.task for one in self.circuits])


def matrix(
    asked: Sequence[Ready],
    out: str | Path,
    *,
    not_done: dict[str, str] | None = None,
    draws: int = DRAWS,
    fresh: bool = False,
    say: Say | None = None,
    progress: Progress = silent,
    command: str | None = None,
) -> Matrix:
    """Find every task's circuit (folder `out/<task>`), compare all pairs, and write `out`; a stopped run goes on.

    not_done: tasks that were asked for and cannot be done, with the reason; they are told in matrix.json. draws:
    random circuits beside each transfer and each part removed. out gets matrix.json, transfer.parquet,
    removed.parquet and report.html. Raises TokensError for fewer than two tasks, and as `circuit_folder`.
    """
    missing = dict(not_done or {})
    if draws < 1:
        raise TokensError(f"{draws} random draws; wanted 1 or more")
    names = [one.task.name for one in asked]
    if len(set(names)) != len(names) or len(names) < 2:
        raise TokensError(f"circuits of {', '.join(names) or 'no task'}; wanted two different tasks or more"
                          + "".join(f"; {task}: {why}" for task, why in missing.items()))  # fmt: skip
    place, begun = Path(out), time.monotonic()
    identity = {"study": {"matrix": names, "draws": draws}, "parts": {one.task.name: identity_of(one) for one in asked}}
    with study_folder(place, identity, {}, fresh=fresh):
        found, done = _circuits(asked, place, missing, say, progress)
        overlaps = tuple(
            overlap(a.circuit, b.circuit, seed=a.circuit.seed, scores_a=a.prompt_scores, scores_b=b.prompt_scores)
            for a, b in combinations(found, 2)
        )
        moved, removed = _causal(done, found, place, draws, progress)
        made = Matrix(tuple(one.circuit for one in found), overlaps, transfer_table(moved), removed, missing)
        _write(made, place, command)
        state = {"state": "finished", "finished": now(), "seconds": time.monotonic() - begun, "machine": machine()}
        write_run(place, identity, {**state, "command": command})
    return made


def _circuits(
    asked: Sequence[Ready], place: Path, missing: dict[str, str], say: Say | None, progress: Progress
) -> tuple[list[FoundCircuit], list[Ready]]:
    """The circuits that could be found, and of which tasks; the others join `missing` with the reason."""
    found, done = [], []
    for one in asked:
        try:
            found.append(circuit_folder(one, place / one.task.name, say=say, progress=progress))
            done.append(one)
        except TokensError as error:  # the others' circuits are not lost for it
            missing[one.task.name] = str(error)
            if say is not None:
                say(f"{one.task.name} is not done: {error}")
    if len(done) < 2:
        told = "; ".join(f"{task}: {why}" for task, why in missing.items())
        raise TokensError(f"circuits of {len(done)} of {len(asked)} tasks; wanted two or more; {told}")
    return found, done


def _causal(
    asked: Sequence[Ready], found: Sequence[FoundCircuit], place: Path, draws: int, progress: Progress
) -> tuple[list[Transfer], pd.DataFrame]:
    """Every circuit measured on every task, and every pair's parts removed; results go to each task's own folder."""
    moved: list[Transfer] = []
    effects: dict[tuple[int, int], list[PartEffect]] = {pair: [] for pair in combinations(range(len(found)), 2)}
    for index, (one, own) in enumerate(zip(asked, found, strict=True)):
        seed = own.circuit.seed
        with study_folder(place / one.task.name, identity_of(one), {}) as ledger:
            runs = HeadRuns(one.loaded, own.judged, known=Memory(ledger).heads(own.judged))
            runs.progress = progress
            moved += [
                transfer(one.loaded, other.circuit, own.judged, draws=draws, seed=seed, runs=runs) for other in found
            ]
            for pair, rows in effects.items():
                if index in pair:
                    a, b = (found[member].circuit.heads for member in pair)
                    rows += part_effects(runs, a, b, draws=draws, seed=seed)
            ledger.sort()
    tables = [removed_table(found[a].circuit.task, found[b].circuit.task, rows) for (a, b), rows in effects.items()]
    return moved, pd.concat(tables, ignore_index=True)


def _write(made: Matrix, place: Path, command: str | None) -> None:
    document: dict[str, Any] = {
        "model": made.circuits[0].model,
        "tasks": [one.task for one in made.circuits],
        "not_done": made.not_done,
        "overlaps": [one.json() for one in made.overlaps],
        "pairs": formats.records(pair_table(made.overlaps)),
    }
    text = json.dumps(formats.plain(document), indent=1, sort_keys=True, allow_nan=False)
    write_file(place / MATRIX_FILE, text.encode() + b"\n")
    write_file(place / TRANSFER_FILE, formats.parquet(made.transfer, {}))
    write_file(place / REMOVED_FILE, formats.parquet(made.removed, {}))
    write_matrix_report(
        made.circuits, made.overlaps, place, transfer=made.transfer, removed=made.removed, not_done=made.not_done,
        command=command,
    )  # fmt: skip
