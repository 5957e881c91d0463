"""What a study will cost, said before it starts: layer-forwards, time from a timed forward, memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from probe.analyses.exact import BATCH_TOKENS, LOGIT_BYTES
from probe.analyses.pieces import Piece
from probe.analyses.removal import STANDARD
from probe.analyses.workbench import Workbench
from probe.models import Loaded
from probe.studies.bench import Benches
from probe.studies.file import Study
from probe.tasks.task import Task, clean_ids

TIMED_TOKENS = 1_024
EDITED = 1.3
"""An edited block takes about this many times a plain one: a batch of copies, the edit, the judged positions."""


@dataclass(frozen=True)
class Plan:
    """The work of one model and one seed.

    pieces: those known beforehand. known, most: layer-forwards of those that are not done yet, and the most that
    adaptive methods (`hybrid`) and removal curves can add. seconds: for all of it, in one process.
    memory: bytes that a process needs. done: pieces with a result already.
    """

    pieces: tuple[Piece, ...]
    known: float
    most: float
    seconds: float
    memory: float
    done: int = 0

    def sentence(self, workers: int = 1) -> str:
        """The cost in words."""
        work = f"{self.known:,.0f} layer-forwards" if self.known or not self.most else ""
        if self.most:
            work += f"{' and ' if work else ''}at most {self.most:,.0f} more"
        there = f" ({self.done} of {len(self.pieces)} pieces are there already)" if self.done else ""
        gigabytes = self.memory * workers / 2**30
        return f"{work}{there}; about {duration(self.seconds / workers)}, {gigabytes:.1f} GiB of memory"


def duration(seconds: float) -> str:
    """`40 seconds`, `12 minutes`, `3.5 hours`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5_400 else f"{seconds / 3_600:.1f} hours"


def plan(study: Study, benches: Benches, tasks: Sequence[Task], done: frozenset[str] = frozenset()) -> Plan:
    """The plan of one model and one seed; `done` holds the keys of pieces that have a result. Runs short forwards."""
    pieces: dict[Piece, None] = {}
    known = most = seconds = memory = 0.0
    there = 0
    for task in tasks:
        bench = benches.of(task.name)
        measured = [piece for mode in study.modes for method in study.methods for piece in _known(bench, mode, method)]
        mine = dict.fromkeys([*measured, *bench.importance_pieces(study.criteria)])
        there += sum(piece.key in done for piece in mine)
        work = sum(bench.cost(piece) for piece in mine if piece.key not in done)
        more = _more(study, bench)
        pieces |= mine
        known, most = known + work, most + more
        seconds += EDITED * (work + more) * _seconds_a_layer(bench)
        memory = max(memory, _memory(bench))
    return Plan(tuple(pieces), known, most, seconds, memory, there)


def _known(bench: Workbench, mode: str, method: str) -> list[Piece]:
    clean = bench.clean_pieces(mode)
    if method == "exact":
        return [*clean, *bench.ablation_pieces(mode, bench.units)]
    return [*clean, *bench.estimate_pieces("gradient" if method == "hybrid" else method, mode)]


def _more(study: Study, bench: Workbench) -> float:
    """The most that hybrid and the removal curves can take: every unit, every set from the first layer on."""
    modes, more = len(study.modes), 0.0
    if "hybrid" in study.methods and "exact" not in study.methods:
        more += modes * sum(bench.sweep.cost(unit) for unit in bench.units)
    if draws_curves(study):
        sets = sum(2 * k <= len(bench.heads) for k in STANDARD.ks) * (2 + STANDARD.draws) * (1 + len(study.criteria))
        share = min(1.0, STANDARD.prompts / len(bench.task.prompts))
        more += sets * share * bench.sweep.depth
    return more


def draws_curves(study: Study) -> bool:
    """Whether heads are also removed one after the other: asked for, and heads are what is removed."""
    return study.curve and study.unit == "head"


def _seconds_a_layer(bench: Workbench) -> float:
    """One block over all prompts of the task: the better of two forwards over a few of them."""
    rows = max(1, min(len(bench.task.prompts), TIMED_TOKENS // bench.task.length))
    ids = clean_ids(bench.task.prompts[:rows])
    taken = []
    for _ in range(2):
        begun = time.monotonic()
        bench.running.forward(ids)
        if bench.running.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.monotonic() - begun)
    return min(taken) / bench.sweep.depth * len(bench.task.prompts) / rows


def _memory(bench: Workbench) -> float:
    """Weights, a batch's widest tensors, its logits, and what stands in the heads' place."""
    loaded: Loaded = bench.loaded
    weights = sum(weight.nbytes for weight in loaded.model.parameters())
    config = loaded.model.config.get_text_config()
    width = int(config.hidden_size)
    wide = int(getattr(config, "intermediate_size", None) or 4 * width)
    size = next(loaded.model.parameters()).element_size()
    batch = BATCH_TOKENS * (6 * width + 3 * wide) * size
    kept = len(bench.task.prompts) * bench.task.length * bench.sweep.depth * width * 4
    return weights + batch + 2 * LOGIT_BYTES + kept
