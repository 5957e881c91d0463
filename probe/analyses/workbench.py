"""A model and a task on the bench: computes any piece of an ablation study, and says beforehand what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from probe.analyses.exact import ExactSweep, Where
from probe.analyses.gradient import GradientResult, gradient
from probe.analyses.importance import importance
from probe.analyses.integrated import integrated
from probe.analyses.pieces import Ask, Piece
from probe.analyses.replacement import Replacement, replacement
from probe.analyses.units import Head, Unit, named, set_unit, units_of
from probe.errors import TokensError
from probe.models import Loaded
from probe.running import Running
from probe.tasks.task import Task

PIECE_TOKENS = 1_280
"""Prompts of about this many tokens make a piece: with a copy for every head of a layer they fill a batch."""


class Workbench:
    """What the methods of an ablation study compute with.

    loaded, task: the model and its prompts. units: what is removed, one after the other. where: positions and
    phase of every removal. given: heads that are gone throughout. steps: of integrated gradients.

    Pieces (`pieces.Piece`) hold names and numbers only, so that they can be computed here, in another process, or
    not at all where a ledger remembers them. Equal pieces give equal arrays.
    """

    def __init__(
        self,
        loaded: Loaded,
        task: Task,
        *,
        unit: str = "head",
        where: Where | None = None,
        given: Sequence[Head] = (),
        steps: int = 5,
        share_prefix: bool | None = None,
    ) -> None:
        """Raises TokensError for a unit, head or position that does not exist."""
        self.loaded, self.task, self.steps = loaded, task, steps
        self.where = Where() if where is None else where
        self.running = Running(loaded.model)
        self.units = units_of(self.running, unit)
        self.heads: tuple[Head, ...] = tuple(sorted({head for one in self.units for head in one.heads}))
        self.given = tuple(sorted(set(given)))
        strangers = [head for head in self.given if head not in self.heads]
        if strangers:
            raise TokensError(f"no head L{strangers[0][0]}H{strangers[0][1]} in {loaded.name}")
        self.where.of(task.prompts)
        self.sweep = ExactSweep(self.running, task, self.where, self.given, share_prefix)
        self._replacements: dict[str, Replacement] = {}

    def replacement(self, mode: str) -> Replacement:
        """What stands in the place of heads in a mode; made once."""
        if mode not in self._replacements:
            self._replacements = {mode: replacement(self.running, self.task, mode)}
        return self._replacements[mode]

    def clean_pieces(self, mode: str) -> list[Piece]:
        """The task with nothing removed but `given`."""
        return [self._piece("clean", mode if self.given else "", (), rows) for rows in self._stretches]

    def ablation_pieces(self, mode: str, units: Sequence[Unit], prompts: slice = slice(None)) -> list[Piece]:
        """The units, those of a layer together, on a stretch of prompts."""
        layers: dict[int, list[Unit]] = {}
        for unit in units:
            layers.setdefault(unit.layer, []).append(unit)
        return [
            self._piece("ablated", mode, [unit.name for unit in layers[layer]], rows, _sets(layers[layer]))
            for rows in self._within(prompts)  # outside: what enters the layers is kept for one stretch
            for layer in sorted(layers)
        ]

    def estimate_pieces(self, method: str, mode: str) -> list[Piece]:
        """First-order estimates of every unit: method `gradient` or `integrated`. Raises TokensError with `given`."""
        if self.given:
            raise TokensError(f"{method} with heads gone already; wanted method exact for a second pass")
        extra = {"steps": self.steps} if method == "integrated" else {}
        return [self._piece(method, mode, (), rows, extra) for rows in self._stretches]

    def importance_pieces(self, criteria: Sequence[str]) -> list[Piece]:
        """Importance criteria of every head on all prompts, one piece a criterion."""
        everyone = (0, len(self.task.prompts))
        return [self._piece("importance", "", (), everyone, {"criterion": name}) for name in criteria]

    def compute(self, piece: Piece) -> Float[np.ndarray, "*shape"]:
        """A piece's result, float64: clean [n]; ablated and estimates [units, n]; importance [units, L, H].

        Raises TokensError for a piece of another task or of an unknown kind.
        """
        if piece.task != self.task.name or piece.kind not in _KINDS:
            raise TokensError(f"a {piece.kind} piece of task {piece.task}; this bench has {self.task.name}")
        return _KINDS[piece.kind](self, piece, slice(*piece.prompts))

    def cost(self, piece: Piece) -> float:
        """Layer-forwards of a piece; one is one block run over all of the task's prompts, a backward counts 2."""
        share = (piece.prompts[1] - piece.prompts[0]) / len(self.task.prompts)
        if piece.kind == "ablated":
            return share * sum(self.sweep.cost(unit) for unit in self._units_of(piece))
        passes = {"clean": 1, "gradient": 3, "integrated": 2 + 3 * self.steps, "importance": 3}
        return share * self.sweep.depth * passes[piece.kind]

    @cached_property
    def _stretches(self) -> list[tuple[int, int]]:
        return self._within(slice(None))

    def _within(self, prompts: slice) -> list[tuple[int, int]]:
        """Stretches of `prompts` that each make a piece; the borders do not depend on where `prompts` ends."""
        first, stop, _ = prompts.indices(len(self.task.prompts))
        step = max(1, PIECE_TOKENS // self.task.length)
        return [(start, min(start + step, stop)) for start in range(first, stop, step)]

    def _piece(
        self, kind: str, mode: str, units: Sequence[str], rows: tuple[int, int], extra: Mapping[str, Any] | None = None
    ) -> Piece:
        positions = list(self.where.positions) if isinstance(self.where.positions, tuple) else self.where.positions
        parameters: dict[str, Any] = {"positions": positions, "phase": self.where.phase, **(extra or {})}
        if self.given:
            parameters["given"] = [list(head) for head in self.given]
        return Piece(self.task.name, mode, kind, tuple(units), rows, parameters)

    def _units_of(self, piece: Piece) -> tuple[Unit, ...]:
        sets = piece.parameters.get("sets", {})
        made = {name: set_unit(name[4:], [(layer, head) for layer, head in heads]) for name, heads in sets.items()}
        plain = {unit.name: unit for unit in named(self.units, [name for name in piece.units if name not in made])}
        return tuple((made | plain)[name] for name in piece.units)

    def _clean(self, piece: Piece, rows: slice) -> Float[np.ndarray, "n"]:
        return self.sweep.clean(rows, self.replacement(piece.mode) if piece.mode else None)

    def _ablated(self, piece: Piece, rows: slice) -> Float[np.ndarray, "units n"]:
        return self.sweep.ablated(self._units_of(piece), self.replacement(piece.mode), rows)

    def _estimated(self, piece: Piece, rows: slice) -> Float[np.ndarray, "units n"]:
        made = self.replacement(piece.mode)
        positions = self.where.of(self.task.prompts[rows])
        found: GradientResult
        if piece.kind == "gradient":
            found = gradient(
                self.loaded.model, self.task, rows, lambda layer: made.rule(layer, rows), positions=positions
            )
        else:
            found = integrated(
                self.loaded.model, self.task, rows, lambda layer: made.rule(layer, rows),
                steps=self.steps, positions=positions,
            )  # fmt: skip
        place = {layer: index for index, layer in enumerate(found.layers)}
        # Estimates are linear: those of heads that go together add up.
        return np.stack([sum(found.z[place[layer], head] for layer, head in unit.heads) for unit in self.units])

    def _importance(self, piece: Piece, _rows: slice) -> Float[np.ndarray, "units L H"]:
        name = str(piece.parameters["criterion"])
        return importance(self.loaded.model, self.task, [name])[name].values


_KINDS: dict[str, Callable[[Workbench, Piece, slice], np.ndarray]] = {
    "clean": Workbench._clean,
    "ablated": Workbench._ablated,
    "gradient": Workbench._estimated,
    "integrated": Workbench._estimated,
    "importance": Workbench._importance,
}


def _sets(units: Sequence[Unit]) -> dict[str, Any]:
    """The members of the units that are sets, so that another process knows them by the piece alone."""
    sets = {unit.name: [list(head) for head in unit.heads] for unit in units if unit.kind == "set"}
    return {"sets": sets} if sets else {}


def here(bench: Workbench, progress: Callable[[float, float, str], None] | None = None) -> Ask:
    """Answers pieces by computing them in this process, one after the other."""

    def ask(pieces: Sequence[Piece]) -> list[np.ndarray]:
        total, done, found = sum(bench.cost(piece) for piece in pieces), 0.0, []
        for piece in pieces:
            found.append(bench.compute(piece))
            done += bench.cost(piece)
            if progress is not None:
                progress(done, total, f"{piece.task}, {piece.kind}")
        return found

    return ask
