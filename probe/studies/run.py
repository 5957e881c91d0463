"""One model and one seed of a study: every piece through the ledger, then the tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe import formats
from probe.analyses.ablation import Ablation, study_task
from probe.analyses.pieces import Ask, Piece
from probe.analyses.removal import STANDARD
from probe.machine import machine, now
from probe.models import Loaded
from probe.page.report import write_report
from probe.progress import Progress
from probe.store import write_file
from probe.studies.bench import Benches, Recipe
from probe.studies.executors import Executor, in_process, on_ray, processes
from probe.studies.file import Study
from probe.studies.folder import study_folder, write_run
from probe.studies.ledger import Ledger
from probe.studies.plan import Plan, draws_curves
from probe.studies.prompts import means_jsonl, prompts_jsonl
from probe.studies.record import CURVES_FILE, EFFECTS_FILE, MEANS_FILE, PROMPTS_FILE, TASKS_FILE, tasks_json
from probe.studies.tables import curves_frame, effects_frame, joined
from probe.table import HeadTable
from probe.tasks.baseline import Baseline
from probe.tasks.task import Task

STUDY_FILE = "study.toml"
AGAIN = f"probe run {STUDY_FILE} --out again  # {STUDY_FILE}: the one beside this page"


@dataclass(frozen=True)
class Workers:
    """Where pieces are computed: `local` or `ray`, and by how many."""

    executor: str = "local"
    count: int = 1


@dataclass(frozen=True)
class Part:
    """One model and one seed, ready to be run: checked, judged, planned.

    study: narrowed to them. tasks, baselines: by name. asked: what decides the numbers.
    """

    study: Study
    folder: Path
    tasks: dict[str, Task]
    baselines: dict[str, Baseline]
    asked: dict[str, Any]
    plan: Plan


@dataclass(frozen=True, eq=False)
class PartResult:
    """What one model and one seed came to; the same is in `folder`.

    ablations: by task. table: every head with the columns of all tasks. computed: pieces that were not there before.
    """

    folder: Path
    model: str
    seed: int
    ablations: dict[str, Ablation]
    table: HeadTable
    computed: int


def run_part(
    part: Part, loaded: Loaded, how: Workers, *, fresh: bool, say: Callable[[str], None], progress: Progress
) -> PartResult:
    """Compute what the folder does not hold yet, and write its tables.

    However often it was stopped, the files are the same in the end, byte for byte, run.json apart. Raises
    ResultsError where the disk, the lock or a worker fails; results that came before are on the disk.
    """
    tasks = list(part.tasks.values())
    files = {STUDY_FILE: part.study.toml().encode(), PROMPTS_FILE: prompts_jsonl(tasks)}
    if held_out := means_jsonl(tasks):
        files[MEANS_FILE] = held_out
    begun = time.monotonic()
    with study_folder(part.folder, part.asked, files, fresh=fresh) as ledger:
        if ledger.notice is not None:
            say(ledger.notice)
        before = len(ledger)
        benches = Benches(loaded, tasks, part.study)
        with _executor(part, loaded, benches, how) as executor:
            ask = _asking(ledger, executor, benches, part, progress)
            ask(part.plan.pieces)
            ablations = {name: _ablation(part, name, benches, ask) for name in part.tasks}
            size = benches.group_size
        ledger.sort()
        table = _write(part, ablations, size)
        run = {"state": "finished", "finished": now(), "seconds": time.monotonic() - begun, "machine": machine()}
        counts = {"pieces": len(ledger), "computed": len(ledger) - before}
        write_run(ledger.path.parent, part.asked, {**run, **counts, "command": AGAIN})
        return PartResult(part.folder, loaded.name, part.study.seeds[0], ablations, table, len(ledger) - before)


@contextmanager
def _executor(part: Part, loaded: Loaded, benches: Benches, how: Workers) -> Iterator[Executor]:
    if how.executor == "local" and how.count == 1:
        yield in_process(benches.compute)
        return
    recipe = Recipe(
        part.study.models[0], part.study, tuple(part.tasks.values()), loaded.weight_hash, part.asked["versions"]
    )
    with (on_ray if how.executor == "ray" else processes)(recipe.make(), how.count) as executor:
        yield executor


def _asking(ledger: Ledger, executor: Executor, benches: Benches, part: Part, progress: Progress) -> Ask:
    """Answers from the ledger; what is not there is computed, and written down before it is used."""
    total, done = part.plan.known + part.plan.most, 0.0
    what = f"{part.asked['model']}, seed {part.study.seeds[0]}"

    def ask(pieces: Sequence[Piece]) -> list[np.ndarray]:
        nonlocal total, done
        missing = [piece for piece in dict.fromkeys(pieces) if piece not in ledger]
        for piece, result in executor(missing):
            ledger.put(piece, result)
            done += benches.cost(piece)
            total = max(total, done)
            progress(done, total, what)
        return [ledger.result(piece) for piece in pieces]

    return ask


def _ablation(part: Part, task: str, benches: Benches, ask: Ask) -> Ablation:
    study = part.study
    return study_task(
        benches.of(task), part.baselines[task], ask, modes=study.modes, methods=study.methods, criteria=study.criteria,
        curve=STANDARD if draws_curves(study) else None, top=study.top, seed=study.seeds[0],
    )  # fmt: skip


def _write(part: Part, ablations: Mapping[str, Ablation], kv_size: int) -> HeadTable:
    """The tables and the page, each by temporary name and rename."""
    found = list(ablations.values())
    table = joined([one.table for one in found])
    documents = {"probe": table.metadata}
    frame = effects_frame([one.study for one in found], part.study, part.asked["model"], kv_size)
    write_file(part.folder / EFFECTS_FILE, formats.parquet(frame, documents))
    if any(one.study.curve is not None for one in found):
        curves = curves_frame([one.study for one in found])
        write_file(part.folder / CURVES_FILE, formats.parquet(curves, documents))
    write_file(part.folder / TASKS_FILE, tasks_json([one.study for one in found]))
    table.save(part.folder)
    write_report(table, part.folder, studies=[one.study for one in found], command=AGAIN)
    return table
