"""The ways to an effect: exact, gradient, integrated, hybrid; each from pieces to `Effects`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from probe.analyses.effects import Effects
from probe.analyses.hybrid import hybrid
from probe.analyses.pieces import Ask, Piece
from probe.analyses.replacement import replacement_note
from probe.analyses.units import Unit
from probe.analyses.workbench import Workbench
from probe.errors import TokensError


def effects(bench: Workbench, mode: str, method: str, ask: Ask, *, top: int = 10, seed: int = 0) -> Effects:
    """One method's answer for every unit of the bench.

    top: how many of the strongest units `hybrid` must be certain of. Raises TokensError for an unknown method.
    """
    if method not in METHODS:
        raise TokensError(f"method {method!r}; wanted one of {', '.join(METHODS)}")
    clean, cost = clean_scores(bench, mode, ask)
    ablated, spent, *notes = METHODS[method](bench, mode, ask, clean, top, seed)
    said = (replacement_note(bench.task, mode), *notes)
    return Effects(bench.task.name, mode, method, bench.units, clean, ablated, cost + spent, said)


def clean_scores(bench: Workbench, mode: str, ask: Ask) -> tuple[Float[np.ndarray, "N"], float]:
    """The metric of every prompt with nothing removed (but what is given), and its cost."""
    pieces = bench.clean_pieces(mode)
    return np.concatenate(ask(pieces)), sum(bench.cost(piece) for piece in pieces)


def removed(
    bench: Workbench, mode: str, units: Sequence[Unit], ask: Ask, prompts: slice = slice(None)
) -> tuple[Float[np.ndarray, "units n"], float]:
    """The metric of prompts with each unit removed, and its cost in layer-forwards."""
    pieces = bench.ablation_pieces(mode, units, prompts)
    first, stop, _ = prompts.indices(len(bench.task.prompts))
    place = {unit.name: index for index, unit in enumerate(units)}
    result = np.full((len(units), stop - first), np.nan)
    for piece, found in zip(pieces, ask(pieces), strict=True):
        rows = [place[name] for name in piece.units]
        result[rows, piece.prompts[0] - first : piece.prompts[1] - first] = found
    return result, sum(bench.cost(piece) for piece in pieces)


Answer = tuple[Float[np.ndarray, "units N"], float] | tuple[Float[np.ndarray, "units N"], float, str]
"""The metric with each unit removed, the cost in layer-forwards, and what is to be said about it."""


def _exact(bench: Workbench, mode: str, ask: Ask, clean: np.ndarray, top: int, seed: int) -> Answer:
    return removed(bench, mode, bench.units, ask)


def _estimate(method: str) -> Callable[[Workbench, str, Ask, np.ndarray, int, int], Answer]:
    def run(bench: Workbench, mode: str, ask: Ask, clean: np.ndarray, top: int, seed: int) -> Answer:
        pieces: list[Piece] = bench.estimate_pieces(method, mode)
        estimates = np.concatenate(ask(pieces), axis=1)
        return clean[None] - estimates, sum(bench.cost(piece) for piece in pieces)

    return run


def _hybrid(bench: Workbench, mode: str, ask: Ask, clean: np.ndarray, top: int, seed: int) -> Answer:
    ablated, spent, *_ = _estimate("gradient")(bench, mode, ask, clean, top, seed)
    costs = np.array([bench.sweep.cost(unit) for unit in bench.units])

    def measure(chosen: Sequence[int], prompts: slice) -> Float[np.ndarray, "chosen n"]:
        found, _ = removed(bench, mode, [bench.units[index] for index in chosen], ask, prompts)
        return np.asarray(clean[None, prompts] - found)

    answer = hybrid(clean[None] - ablated, measure, top=top, costs=costs, seed=seed)
    # What a few prompts said served to choose; a table that mixed means over few and over all would mislead.
    whole = ~np.isnan(answer.effects).any(1)
    found = np.where(whole[:, None], clean[None] - answer.effects, np.nan)
    verdict = "certain" if answer.certain else "not certain"
    names = ", ".join(bench.units[index].name for index in answer.top)
    note = (
        f"hybrid: the {top} strongest are {verdict} (doubt {answer.doubt:.3f}, {answer.rounds} rounds): {names}; "
        f"{int(whole.sum())} of {len(whole)} measured on all prompts, the others on some, which chose among them"
    )
    return found, spent + answer.layer_forwards, note


METHODS: dict[str, Callable[[Workbench, str, Ask, np.ndarray, int, int], Answer]] = {
    "exact": _exact,
    "gradient": _estimate("gradient"),
    "integrated": _estimate("integrated"),
    "hybrid": _hybrid,
}
"""`exact`: every unit removed and the model run again. `gradient`: one forward, one backward. `integrated`:
gradients along the path from the corrupted to the clean prompt. `hybrid`: gradient for all, exact for every unit
that could still be among the strongest."""
