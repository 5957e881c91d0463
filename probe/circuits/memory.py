"""What a circuit study has computed, kept in its folder's ledger as soon as it is there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from probe.analyses.known import Known
from probe.analyses.pieces import Piece
from probe.analyses.units import Head
from probe.studies.ledger import Ledger
from probe.studies.prompts import prompts_jsonl
from probe.table import head_name
from probe.tasks.task import Task

Key = TypeVar("Key")


class Memory:
    """Results of one folder, or (ledger None) of this run alone."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ledger = ledger

    def heads(self, task: Task) -> Known[frozenset[Head]]:
        """What the task scores with each set of heads replaced by their z on the twins."""
        digest = prompts_sha256(task)

        def piece(heads: frozenset[Head]) -> Piece:
            names = tuple(head_name(*head) for head in sorted(heads))
            return Piece(task.name, "resample", "replaced", names, (0, len(task.prompts)), {"prompts_sha256": digest})

        return {} if self._ledger is None else _Kept(self._ledger, piece)

    def edges(self, task: Task) -> Known[str]:
        """What the task scores with each circuit of edges."""
        digest = prompts_sha256(task)

        def piece(circuit: str) -> Piece:
            parameters = {"prompts_sha256": digest, "circuit": circuit}
            return Piece(task.name, "resample", "edges", (), (0, len(task.prompts)), parameters)

        return {} if self._ledger is None else _Kept(self._ledger, piece)

    def several(
        self, task: Task, kind: str, parameters: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]
    ) -> Mapping[str, np.ndarray]:
        """Arrays that are made together, by name: those kept where all are, else new ones."""
        if self._ledger is None:
            return make()
        digest = prompts_sha256(task)

        def piece(part: str) -> Piece:
            told = {**parameters, "prompts_sha256": digest, "part": part}
            return Piece(task.name, "resample", kind, (), (0, len(task.prompts)), told)

        kept = _Kept(self._ledger, piece)
        if "names" not in kept:
            made = make()
            for name, values in made.items():
                kept[name] = values
            # Last of all: without it the others are not looked at.
            kept["names"] = np.array(len(made), dtype=np.int64)
            return made
        return _Parts(kept)


class _Kept(Generic[Key]):
    """A ledger seen through the pieces that keys stand for."""

    def __init__(self, ledger: Ledger, piece: Callable[[Key], Piece]) -> None:
        self._ledger, self._piece = ledger, piece

    def __contains__(self, key: Any) -> bool:
        return self._piece(key) in self._ledger

    def __getitem__(self, key: Key) -> np.ndarray:
        return self._ledger.result(self._piece(key))

    def __setitem__(self, key: Key, result: np.ndarray) -> None:
        self._ledger.put(self._piece(key), result)


class _Parts(dict[str, np.ndarray]):
    """Arrays read from a ledger when they are asked for."""

    def __init__(self, kept: _Kept[str]) -> None:
        super().__init__()
        self._kept = kept

    def __missing__(self, name: str) -> np.ndarray:
        return self._kept[name]


def prompts_sha256(task: Task) -> str:
    """SHA-256 of the measured prompts as prompts.jsonl has them."""
    return hashlib.sha256(prompts_jsonl([task])).hexdigest()
