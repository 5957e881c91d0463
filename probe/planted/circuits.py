"""Planted circuits: two tasks, the heads and edges that carry each, and how many of them both use.

`planted_circuits(shared)` is a small Llama-style model that does `recall` and `translate` (`probe.tasks.pairs`), each
on four heads of 32, `shared` of which are the same for both, and on a backup of its own. `planted_truth` names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from probe.circuits.graph import INPUT, LOGITS, head_node
from probe.errors import TokensError
from probe.hooks.heads import Head
from probe.models import load
from probe.planted.circuit_heads import PLACES, SHARE_ORDER
from probe.planted.circuit_model import check_shared
from probe.planted.circuit_model import planted_circuits as planted_circuits
from probe.planted.circuit_words import TASK_NAMES
from probe.tasks.build import build
from probe.tasks.task import Task

Edge = tuple[str, str]
"""(source, target) by `probe.circuits.graph`'s names, such as ("a0.h0", "a2.h0<k>")."""


@dataclass(frozen=True)
class PlantedCircuit:
    """What carries a planted task, where activations are replaced by those of its `new_pairs` twins.

    heads: (layer, head) → job, of the four that work while nothing is removed: `previous_token`, `question`, `mover`
        (the carriers, without which the task suffers) and `negative_mover` (without which it gains).
    backups: backup → the head whose removal wakes it; it makes good half of that loss and does nothing before.
    edges: edge → +1 where corrupting it hurts the task, −1 where it helps. An edge whose two ends belong to the
        circuit but carries nothing that differs between twins, such as a query made of the constant, is not one.
    waking: edges that matter as the others do, but only once the mover is gone.
    mlps: layers whose MLP the task needs.
    """

    task: str
    shared: int
    heads: Mapping[Head, str]
    backups: Mapping[Head, Head]
    edges: Mapping[Edge, int]
    waking: tuple[Edge, ...]
    mlps: tuple[int, ...]

    @property
    def carriers(self) -> tuple[Head, ...]:
        """Heads that the task needs, in order."""
        return tuple(sorted(head for head, job in self.heads.items() if job != "negative_mover"))

    @property
    def negatives(self) -> tuple[Head, ...]:
        """Heads that work against the task."""
        return tuple(sorted(head for head, job in self.heads.items() if job == "negative_mover"))


def planted_truth(task: str, *, shared: int = 2) -> PlantedCircuit:
    """The circuit of `recall` or `translate` in `planted_circuits(shared)`.

    Raises TokensError for another task, ModelError for another `shared`.
    """
    _check_task(task)
    check_shared(shared)
    common = SHARE_ORDER[:shared]
    at = {job: places[0 if job in common else TASK_NAMES.index(task)] for job, places in PLACES.items()}
    backup, mover = at["backup_mover"], at["mover"]
    return PlantedCircuit(
        task=task,
        shared=shared,
        heads={at[job]: job for job in sorted(SHARE_ORDER, key=lambda job: at[job])},
        backups={backup: mover},
        edges=_edges(task, {job: head_node(*head) for job, head in at.items()}),
        waking=(
            (head_node(*at["previous_token"]), f"{head_node(*backup)}<k>"),
            (head_node(*at["question"]), f"{head_node(*backup)}<q>"),
            (INPUT, f"{head_node(*backup)}<v>"),
            (head_node(*backup), LOGITS),
        ),
        mlps=(0,) if task == "translate" else (),
    )


def _edges(task: str, at: Mapping[str, str]) -> dict[Edge, int]:
    """Edge → sign; `at`: job → node."""
    previous, question, mover, backup = (at[job] for job in ("previous_token", "question", "mover", "backup_mover"))
    edges = {(INPUT, f"{previous}<v>"): 1}
    if task == "translate":
        edges |= {(INPUT, "m0"): 1, ("m0", f"{question}<v>"): 1}
    else:
        edges |= {(INPUT, f"{question}<v>"): 1}
    for job, sign in (("mover", 1), ("negative_mover", -1)):
        node = at[job]
        edges |= {(previous, f"{node}<k>"): sign, (question, f"{node}<q>"): sign}
        edges |= {(INPUT, f"{node}<v>"): sign, (node, LOGITS): sign}
    # By these two the backup knows that the mover has answered the right key: without one it wakes, and helps.
    return edges | {(previous, f"{mover}<v>"): -1, (mover, f"{backup}<k>"): -1}


def planted_task(
    name: str, *, prompts: int = 32, held_out: int | None = None, seed: int = 0, metric: str = "logit_diff",
    length: int | None = None,
) -> Task:  # fmt: skip
    """`recall` or `translate` with twins (`probe.tasks.pairs`); the same for every `planted_circuits(shared)`.

    Arguments and errors as `probe.tasks.build.build`. Raises TokensError for another task.
    """
    _check_task(name)
    loaded = load("planted-circuits")
    return build(name, loaded, prompts=prompts, held_out=held_out, seed=seed, metric=metric, length=length)


def _check_task(name: str) -> None:
    if name not in TASK_NAMES:
        raise TokensError(f"unknown planted task {name!r}; wanted one of {', '.join(TASK_NAMES)}")


CIRCUIT_HEADS: dict[str, Mapping[Head, str]] = {task: planted_truth(task).heads for task in TASK_NAMES}
"""Task → (layer, head) → job in `load("planted-circuits")`, which shares two heads."""
CIRCUIT_EDGES: dict[str, Mapping[Edge, int]] = {task: planted_truth(task).edges for task in TASK_NAMES}
"""Task → edge → sign of its effect in `load("planted-circuits")`."""
