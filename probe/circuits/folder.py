"""A circuit study in a folder: what is computed is kept as it comes, and a stopped run goes on where it was."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe import formats
from probe.analyses.ablation import able_baseline
from probe.analyses.edge_attribution import EdgeScores
from probe.circuits.files import save
from probe.circuits.memory import Memory, prompts_sha256
from probe.circuits.plan import CircuitPlan
from probe.circuits.study import FoundCircuit, check_prompts, find_circuit, judged_prompts
from probe.circuits.tests_file import TESTS_FILE, circuit_tests_json
from probe.machine import machine, now
from probe.models import Loaded
from probe.page.report_circuit import circuit_table, write_circuit_report
from probe.progress import Progress, silent
from probe.provenance import DEFINITIONS, provenance
from probe.running import Running
from probe.store import write_file
from probe.studies.folder import study_folder, write_run
from probe.studies.identity import versions
from probe.studies.prompts import means_jsonl, prompts_jsonl
from probe.tasks.baseline import Baseline
from probe.tasks.task import Task, clean_ids

CIRCUIT_FILE, EDGES_FILE, PROMPTS_FILE, JUDGED_FILE = (
    "circuit.json", "edges.parquet", "prompts.jsonl", "judged.jsonl",
)  # fmt: skip

Say = Callable[[str], None]

TIMED = 8
"""Prompts of the forward from which the cost is foretold."""


@dataclass(frozen=True)
class Ready:
    """A circuit study that may begin: the model does the task, and what it will cost is known."""

    loaded: Loaded
    task: Task
    plan: CircuitPlan
    able: Baseline


def ready(loaded: Loaded, task: Task, plan: CircuitPlan, *, anyway: bool = False, say: Say | None = None) -> Ready:
    """Judge whether the model does the task, and say that and what the study will cost.

    Raises TokensError where it does not (unless `anyway`), and for prompts of which no circuit can be made.
    """
    tell = say or (lambda line: None)
    check_prompts(task, judged_prompts(task, plan.judged)[0])
    able = able_baseline(loaded, task, anyway=anyway)
    tell(f"{loaded.name}: {able.sentence}")
    running = Running(loaded.model)
    forwards = plan.forwards(running.n_heads * len(running.sites), len(task.prompts))
    minutes = forwards * _seconds_a_prompt(running, task) / 60
    tests = ", tests of the circuit not counted" if plan.tests else ""
    tell(f"{task.name}: about {forwards:,.0f} forwards of a prompt, {max(minutes, 1):.0f} min here{tests}")
    return Ready(loaded, task, plan, able)


def _seconds_a_prompt(running: Running, task: Task) -> float:
    """Timed on a few prompts, after the model has been warmed up."""
    ids = clean_ids(task.prompts[:TIMED])
    begun = time.monotonic()
    running.forward(ids)
    return (time.monotonic() - begun) / len(ids)


def circuit_folder(
    asked: Ready,
    out: str | Path,
    *,
    fresh: bool = False,
    say: Say | None = None,
    progress: Progress = silent,
    command: str | None = None,
) -> FoundCircuit:
    """Find the circuit, or go on where a stopped run of the same study was, and write `out`.

    circuit.json, nodes.parquet (scores of every prompt), edges.parquet (all edges), heads.parquet, report.html,
    prompts.jsonl and judged.jsonl (those that faithfulness was measured on), effects.jsonl (what is gone on from),
    tests.json where the circuit was tested.
    fresh: move aside a folder that holds another study. Equal studies give equal files, run.json apart. Raises
    ResultsError for a folder of something else, or that another process writes; what was computed is always kept.
    """
    tell, begun = say or (lambda line: None), time.monotonic()
    judged, _ = judged_prompts(asked.task, asked.plan.judged)
    files = {PROMPTS_FILE: prompts_jsonl([asked.task]), JUDGED_FILE: prompts_jsonl([judged])}
    identity = identity_of(asked)
    with study_folder(Path(out), identity, files, fresh=fresh) as ledger:
        if ledger.notice is not None:
            tell(ledger.notice)
        before = len(ledger)
        found = find_circuit(
            asked.loaded, asked.task, asked.plan, asked.able, memory=Memory(ledger), progress=progress
        )  # fmt: skip
        ledger.sort()
        _write(found, ledger.path.parent, command)
        run = {"state": "finished", "finished": now(), "seconds": time.monotonic() - begun, "machine": machine()}
        counts = {"pieces": len(ledger), "computed": len(ledger) - before}
        write_run(ledger.path.parent, identity, {**run, **counts, "command": command})
    return found


def identity_of(asked: Ready) -> dict[str, Any]:
    """Everything that decides a circuit study's numbers, by name."""
    return {
        "study": {"circuit": formats.plain(asdict(asked.plan)), "task": asked.task.name, "metric": asked.task.metric},
        "model": asked.loaded.name,
        "weight_hash": asked.loaded.weight_hash,
        "dtype": provenance(asked.loaded, asked.plan.seed)["dtype"],
        "device": sorted({weight.device.type for weight in asked.loaded.model.parameters()}),
        "prompts_sha256": prompts_sha256(asked.task),
        "held_out_sha256": hashlib.sha256(means_jsonl([asked.task])).hexdigest(),
        "definitions": DEFINITIONS,
        "versions": versions(),
    }


def _write(found: FoundCircuit, folder: Path, command: str | None) -> None:
    save(found.circuit, folder / CIRCUIT_FILE, found.prompt_scores)
    table = circuit_table([found.circuit])
    write_file(folder / EDGES_FILE, formats.parquet(edges_frame(found.scores), {"probe": table.metadata}))
    table.save(folder)
    if found.completeness or found.minimality:
        write_file(folder / TESTS_FILE, circuit_tests_json(found.completeness, found.minimality))
    write_circuit_report(
        found.circuit, folder, completeness=found.completeness, minimality=found.minimality, command=command
    )


def edges_frame(scores: EdgeScores) -> pd.DataFrame:
    """Every possible edge: `source`, `target`, `score`, `error` (its standard error over prompts); graph order."""
    rows, columns = np.nonzero(scores.graph.possible)
    return pd.DataFrame(
        {
            "source": np.array(scores.graph.sources, dtype=object)[rows],
            "target": np.array(scores.graph.targets, dtype=object)[columns],
            "score": scores.edges[rows, columns],
            "error": scores.error[rows, columns],
        }
    )
