"""What happens to a strip of scores between the product with k and the end of its sums: one interface, two makers.

A stage hides what is out of sight, turns scores into weights, multiplies them with v and adds up everything that is
counted. `torch_stage` does it in some forty tensor operations, on any device and by every rule; `numba_stage` in a few
passes over each row, on a CPU.
"""

from __future__ import annotations

from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from probe.kernels.sequences import Sequence
from probe.kernels.strips import Strip
from probe.kernels.sums import Sums


class Strips(Protocol):
    """The strips of one item, in order, in buffers of one thread."""

    def run(self, start: int, stop: int) -> None:
        """Rows [start, stop): outputs and row sums are written, sums by key, band and distance added."""

    def last(self) -> tuple[Strip, Float[Tensor, "r rows"]]:
        """The strip run last, while its weights last, and 1 / total of its rows, 0 where a row sees no key: for what
        only some calls ask for (see `sweep`)."""


class Stage(Protocol):
    """One way to do it; without state of its own, as several threads share it."""

    def workspace(self, served: list[Sequence], like: Tensor) -> Any:
        """Buffers for the strips of any of these sequences, for one thread."""

    def strips(self, sums: Sums, work: Any) -> Strips:
        """What computes the strips of an item, in these buffers."""
