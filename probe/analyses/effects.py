"""What removing each unit did to a task: one number a unit and prompt, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from probe.analyses.units import Unit

ESTIMATES = ("gradient", "integrated")
"""Methods that estimate an effect to first order: their column is `attribution_<task>`, others' `ablation_<task>`."""


@dataclass(frozen=True, eq=False)
class Effects:
    """One method's answer for one task and mode.

    units: what was removed, one after the other. clean: [N] the task's metric of every prompt, unablated.
    ablated: [units, N] the metric with that unit removed; NaN where it was not measured. An estimating method
    gives clean − estimate, so that `effect` has one meaning and one sign everywhere: positive = the unit helps.
    layer_forwards: the cost; one is one block run over all of the task's prompts, a backward through it counts 2.
    notes: what was decided on the way, in words: where means come from, how certain `hybrid` is.
    """

    task: str
    mode: str
    method: str
    units: tuple[Unit, ...]
    clean: Float[np.ndarray, "N"]
    ablated: Float[np.ndarray, "units N"]
    layer_forwards: float
    notes: tuple[str, ...] = ()

    @property
    def effect(self) -> Float[np.ndarray, "units N"]:
        """clean − ablated, in the metric's unit."""
        return np.asarray(self.clean[None, :] - self.ablated)
