"""How much of a task a part of the model does: f(C) = (m(C) − m(∅)) / (m(N) − m(∅)), at the grain of heads or edges.

m(N): nothing replaced; m(C): everything outside C replaced by what it is on the corrupted twins; m(∅): everything.
A ratio of means over the prompts, as in the MIB circuit track (METHODS 12.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from probe.circuits.circuit import CurvePoint
from probe.errors import TokensError
from probe.models import Loaded
from probe.ratio import clearly_positive, ratio_of_means
from probe.statistics import Summary
from probe.tasks.task import Task


class Runs(Protocol):
    """A task measured with parts of a model replaced; what a part is, a set of heads or of edges, is the runs' own."""

    loaded: Loaded
    task: Task
    mode: str

    def kept(self, sets: Sequence[Any]) -> Float[np.ndarray, "sets n"]:
        """The metric of every prompt with everything outside each part replaced."""

    @property
    def clean(self) -> Float[np.ndarray, "n"]:
        """m(N)."""

    @property
    def empty(self) -> Float[np.ndarray, "n"]:
        """m(∅)."""


def faithfulness(runs: Runs, circuits: Sequence[Any], *, seed: int = 0) -> Summary:
    """f of each circuit with its 95 % bootstrap interval over prompts (groups together), numerator and denominator
    drawn together. 1 for all and 0 for none by construction; above 1 and below 0 are possible.

    Cost: one forward over the prompts a circuit. Raises TokensError as `carried` does.
    """
    whole = carried(runs, seed=seed)
    part = runs.kept(circuits) - runs.empty
    return ratio_of_means(part.T, whole, groups=runs.task.groups, seed=seed)


def measured(arm: str, size: float, count: int, found: Summary, place: int) -> CurvePoint:
    """One circuit of `faithfulness` as a point of a curve."""
    mean, low, high = (float(part[place]) for part in (found.mean, found.low, found.high))
    return CurvePoint(arm, size, count, mean, low, high)


def carried(runs: Runs, *, seed: int = 0) -> Float[np.ndarray, "n"]:
    """m(N) − m(∅) of each prompt, in the metric's unit: what all parts together do.

    Raises TokensError where its mean is not above 0 or its interval reaches 0 (a task the model fails; twins that are
    equal to their prompts): there is nothing to be faithful to.
    """
    if runs.mode == "resample" and all(prompt.corrupted_ids == prompt.clean_ids for prompt in runs.task.prompts):
        raise TokensError(f"task {runs.task.name}: its corrupted twins are the prompts themselves; wanted other ones")
    whole = np.asarray(runs.clean - runs.empty)
    if not clearly_positive(whole, groups=runs.task.groups, seed=seed):
        raise TokensError(
            f"task {runs.task.name}: {runs.task.metric} is {runs.clean.mean():.3g} in {runs.loaded.name} and "
            f"{runs.empty.mean():.3g} with everything replaced ({runs.mode}); wanted it clearly lower there, or "
            "there is nothing to be faithful to: choose another task or corruption, or more prompts"
        )
    return whole
