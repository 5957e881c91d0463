"""Activation patching by position: one head's output at one place, taken from the other run of each pair.

Noising puts the corrupted twin's z into the clean run and asks what is lost; denoising puts the clean z into the
corrupted run and asks what comes back (Heimersheim and Nanda, arXiv 2404.15255, sections 2 and 4). Everything that
comes after the place is live, so that an effect is that of all paths from the head together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from probe.analyses.exact import ExactSweep, Where
from probe.analyses.replacement import replacement
from probe.analyses.twins import check_apart, paired_prompts
from probe.analyses.units import Head, named, units_of
from probe.errors import TokensError
from probe.models import Loaded
from probe.running import Running
from probe.table import head_name
from probe.tasks.task import Prompt, Task

if TYPE_CHECKING:
    import plotly.graph_objects as go

DIRECTIONS = ("noising", "denoising")

EVERY = "every"
"""In place of positions: each position of the prompts, by number."""

Place = str | int | None
"""A name of the task's, a number, or None for all positions together."""


@dataclass(frozen=True, eq=False)
class Patched:
    """What patching each head at each place did.

    heads, places: what was patched, in order. clean, corrupted: [n] the metric of each prompt's two runs. patched:
    [heads, places, n] the metric of the base run (clean when noising, corrupted when denoising) with that head's z at
    that place taken from the other run. All float64, in the metric's unit; the metric is the clean prompt's in every
    run. layer_forwards: the cost; one is one block run over these prompts.
    """

    task: str
    metric: str
    direction: str
    heads: tuple[Head, ...]
    places: tuple[Place, ...]
    clean: Float[np.ndarray, "n"]
    corrupted: Float[np.ndarray, "n"]
    patched: Float[np.ndarray, "heads places n"]
    layer_forwards: float

    @property
    def effect(self) -> Float[np.ndarray, "heads places n"]:
        """Positive where the head helps: clean − patched when noising, patched − corrupted when denoising."""
        noising = self.direction == "noising"
        return np.asarray(self.clean - self.patched if noising else self.patched - self.corrupted)

    @property
    def normalised(self) -> Float[np.ndarray, "heads places"]:
        """(patched − corrupted) / (clean − corrupted), a ratio of means over prompts (METHODS 0).

        Of what separates the two runs, the share that is there: 1 − it is what noising took away, it is what
        denoising brought back.
        """
        base = self.corrupted.mean()
        return np.asarray((self.patched.mean(-1) - base) / (self.clean.mean() - base))

    def plot(self) -> go.Figure:
        """Heads × places: the share of what parts the two runs that patching takes away or brings back."""
        from probe.plots.sources import patched_map

        return patched_map(self)


def activation_patch(
    loaded: Loaded,
    task: Task,
    *,
    heads: Sequence[Head] | None = None,
    positions: Sequence[Place] | str | None = None,
    direction: str = "noising",
    rows: slice = slice(None),
) -> Patched:
    """Patch each head (None: all) at each position on task.prompts[rows].

    positions: names of the task's, numbers, None among them for all positions at once; None alone: every name that
    all prompts have; "every": each position by number. Runs begin at the patched head's layer where that gives the
    same bits (`ExactSweep`): heads × places × half the depth. In a causal model z is the same in both runs before the
    first token that differs: such places are not run, and their effect is 0.

    Raises TokensError for a direction, head or position that does not exist, for prompts without twins, for twins
    that are judged alike (nothing to normalise by), and for neg_kl, whose reference is the clean run itself.
    """
    base = _based(task, direction, rows)
    places = _places(base, positions)
    running = Running(loaded.model)
    everyone = units_of(running)
    units = everyone if heads is None else named(everyone, [head_name(*head) for head in heads])
    made, sweep = replacement(running, base, "resample"), ExactSweep(running, base)
    other = ExactSweep(running, _swapped(base), share_prefix=sweep.shares)
    own, others = sweep.clean(slice(None)), other.clean(slice(None))
    clean, corrupted = (own, others) if direction == "noising" else (others, own)
    check_apart(task, clean, corrupted)
    causal = running.sites[0].stack == "decoder"
    run = [not causal or _differs(base, place) for place in places]
    patched = np.tile(own, (len(units), len(places), 1))
    for column in np.flatnonzero(run):
        here = replace(sweep, where=_where(places[column]), share_prefix=sweep.shares)
        patched[:, column] = here.ablated(units, made, slice(None))
    cost = sum(run) * sum(sweep.cost(unit) for unit in units) + 3 * sweep.depth
    chosen = tuple(unit.heads[0] for unit in units)
    return Patched(task.name, task.metric, direction, chosen, places, clean, corrupted, patched, cost)


def _based(task: Task, direction: str, rows: slice) -> Task:
    """The task with only these prompts, and with the base run's ids in the clean one's place."""
    if direction not in DIRECTIONS:
        raise TokensError(f"direction {direction!r}; wanted one of {', '.join(DIRECTIONS)}")
    own = replace(task, prompts=paired_prompts(task, rows))
    return own if direction == "noising" else _swapped(own)


def _swapped(task: Task) -> Task:
    """Twins in each other's place; what is asked and where stays the clean prompt's."""
    return replace(task, prompts=tuple(_turned(prompt) for prompt in task.prompts))


def _turned(prompt: Prompt) -> Prompt:
    other = prompt.clean_ids if prompt.corrupted_ids is None else prompt.corrupted_ids
    return replace(
        prompt, clean_ids=other, corrupted_ids=prompt.clean_ids, clean=prompt.corrupted or "", corrupted=prompt.clean
    )


def _places(task: Task, positions: Sequence[Place] | str | None) -> tuple[Place, ...]:
    if positions == EVERY:
        return tuple(range(task.length))
    if isinstance(positions, str):
        raise TokensError(f"positions {positions!r}; wanted a list of names or numbers, or {EVERY!r}")
    if positions is not None:
        chosen = tuple(positions)
    else:
        shared = set.intersection(*(set(prompt.positions) for prompt in task.prompts))
        chosen = tuple(name for name in task.prompts[0].positions if name in shared)
    if not chosen:
        raise TokensError(f"task {task.name}: its prompts name no position in common; give numbers, or {EVERY!r}")
    for place in chosen:
        _where(place).of(task.prompts)  # a name that some prompt lacks
        if isinstance(place, int) and not 0 <= place < task.length:
            raise TokensError(f"position {place}; wanted 0 to {task.length - 1}")
    return chosen


def _differs(task: Task, place: Place) -> bool:
    """Whether some prompt differs from its twin at the place or before."""
    for prompt in task.prompts:
        at = prompt.positions[place] if isinstance(place, str) else task.length - 1 if place is None else place
        if prompt.corrupted_ids is None or prompt.clean_ids[: at + 1] != prompt.corrupted_ids[: at + 1]:
            return True
    return False


def _where(place: Place) -> Where:
    return Where((place,) if isinstance(place, int) else place)
