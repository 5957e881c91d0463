"""A piece of a study's work: small enough to lose, named so that its result can be found again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probe.formats import canonical


@dataclass(frozen=True, eq=False)
class Piece:
    """What one step computes, in names and numbers only: it can be written down and sent to another process.

    task, mode: as in METRICS, Studies. kind: what is computed ("clean", "ablated", "gradient", …). units: names
    of the units that it concerns ("L3H5", "L3G1", "L3", "set:…"), empty where it concerns the model as it is.
    prompts: the half-open range of the task's prompts. parameters: whatever else decides the result (positions,
    phase, the seed of a draw); JSON values only.
    Two pieces are equal when their keys are.
    """

    task: str
    mode: str
    kind: str
    units: tuple[str, ...]
    prompts: tuple[int, int]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The one JSON text of the piece. Raises ResultsError for parameters that JSON cannot hold."""
        return canonical(vars(self))

    @classmethod
    def from_key(cls, fields: Mapping[str, Any]) -> Piece:
        """The piece whose key holds these fields."""
        units, (first, after) = tuple(fields["units"]), fields["prompts"]
        return cls(fields["task"], fields["mode"], fields["kind"], units, (first, after), fields["parameters"])

    def __eq__(self, other: object) -> bool:
        """Whether the keys are equal."""
        return isinstance(other, Piece) and self.key == other.key

    def __hash__(self) -> int:
        """Of the key."""
        return hash(self.key)


Compute = Callable[[Piece], np.ndarray]
"""Computes one piece, in this process."""

Ask = Callable[[Sequence[Piece]], list[np.ndarray]]
"""The results of many pieces, in their order, from wherever they are: remembered, computed here or elsewhere."""
