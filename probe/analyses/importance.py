"""Importance criteria: one number a head that says, without removing it, how much the task would miss it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from probe.analyses.importance_attention import attention_baselines
from probe.analyses.importance_fluctuation import fluctuation
from probe.analyses.importance_gates import gate_gradients
from probe.analyses.importance_norms import output_norms
from probe.errors import TokensError
from probe.tasks.task import Task

if TYPE_CHECKING:
    import plotly.graph_objects as go

Values = dict[str, Float[np.ndarray, "units L H"]]


@dataclass(frozen=True)
class Criterion:
    """What a criterion measures, in one line, and what it is computed with: criteria of one kind share their runs."""

    title: str
    kind: str


CRITERIA: dict[str, Criterion] = {
    "michel_example": Criterion("Michel's gate gradient, absolute value per prompt (the paper's)", "gates"),
    "michel_token": Criterion("Michel's gate gradient, absolute value per token (the authors' code)", "gates"),
    "michel_batch": Criterion("Michel's gate gradient, absolute value per batch (run_bertology)", "gates"),
    "z_norm": Criterion("Size of the head's output before the output projection", "norms"),
    "write_norm": Criterion("Size (L2) of what the head writes to the stream", "norms"),
    "write_l1": Criterion("Size (L1) of what the head writes to the stream (AMP)", "norms"),
    "fluctuation": Criterion("Weighted variance of the head's output (FLAP's WIFV), mean over channels", "fluctuation"),
    "fluctuation_flap": Criterion("WIFV squared and z-scored within the layer, as FLAP ranks heads", "fluctuation"),
    "streaming_error": Criterion("Relative error of keeping only sinks and a window", "attention"),
    "focus": Criterion("Minus the entropy of attention, as a share of its maximum", "attention"),
}
"""Every criterion by name; a higher value means a more important head."""


@dataclass(frozen=True, eq=False)
class Importance:
    """One criterion on one task. values: [units, L, H] float64, one unit a prompt ("prompt"), a batch of prompts
    ("batch") or all of them ("task"); intervals can be made over prompts.
    """

    name: str
    unit: str
    values: Float[np.ndarray, "units L H"]

    @property
    def score(self) -> Float[np.ndarray, "L H"]:
        """Mean over the units: higher is more important."""
        return np.asarray(self.values.mean(axis=0))

    def plot(self) -> go.Figure:
        """The score of every head, as a map."""
        from probe.plots.sources import importance_map

        return importance_map(self)


def importance(
    model: Any, task: Task, names: Sequence[str] = tuple(CRITERIA), *, batch: int = 16
) -> dict[str, Importance]:
    """The named criteria of every head on the task's prompts, `batch` prompts a forward.

    The batch is a unit of michel_batch alone; no other value depends on it but by rounding. Raises TokensError
    for unknown names, and where a criterion has no value on the task (see each).
    """
    unknown = sorted(set(names) - set(CRITERIA))
    if unknown or batch < 1:
        raise TokensError(
            f"criteria {', '.join(unknown) or 'in batches of ' + str(batch)}; wanted {', '.join(CRITERIA)}"
        )
    kinds = {CRITERIA[name].kind for name in names}
    found: Values = {}
    for kind in (kind for kind in _KINDS if kind in kinds):
        found |= _KINDS[kind](model, task, batch)
    units = {"michel_batch": "batch", "fluctuation_flap": "task"}
    return {name: Importance(name, units.get(name, "prompt"), found[name]) for name in names}


def _slices(task: Task, batch: int) -> list[slice]:
    return [slice(start, min(start + batch, len(task.prompts))) for start in range(0, len(task.prompts), batch)]


def _gates(model: Any, task: Task, batch: int) -> Values:
    parts = [gate_gradients(model, task, rows) for rows in _slices(task, batch)]
    size = len(task.prompts)
    # A batch's unit is |sum over its prompts| scaled so that the mean over batches is the score.
    sums = [part.scores("batch")[0] * len(part.signed) * len(parts) / size for part in parts]
    return {
        "michel_example": np.concatenate([part.scores("example") for part in parts]),
        "michel_token": np.concatenate([part.scores("token") for part in parts]),
        "michel_batch": np.stack(sums),
    }


def _norms(model: Any, task: Task, batch: int) -> Values:
    parts = [output_norms(model, task, rows) for rows in _slices(task, batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _fluctuation(model: Any, task: Task, batch: int) -> Values:
    found = fluctuation(model, task, batch=batch)
    return {"fluctuation": found.per_prompt, "fluctuation_flap": found.published()[None]}


def _attention(model: Any, task: Task, batch: int) -> Values:
    parts = [attention_baselines(model, task, rows) for rows in _slices(task, batch)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {"streaming_error": joined["streaming_error"], "focus": -joined["entropy_normalised"]}


_KINDS: dict[str, Callable[[Any, Task, int], Values]] = {
    "gates": _gates,
    "norms": _norms,
    "fluctuation": _fluctuation,
    "attention": _attention,
}
