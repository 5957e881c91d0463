"""How a circuit is looked for: the choices that decide the result, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from probe.analyses.edge_attribution import EDGE_METHODS
from probe.analyses.head_faithfulness import SIZES
from probe.analyses.selection import SHARES
from probe.circuits.circuit import CurvePoint
from probe.errors import TokensError

HEAD_METHODS = (*EDGE_METHODS, "exact")
_EDGE_RUN = 3.0
"""A run of an edge circuit, in plain forwards: ports that read different things are projected one by one."""


@dataclass(frozen=True)
class CircuitPlan:
    """Choices of a circuit study.

    method: how edges are scored. head_method: how heads are ranked: as their edges, or `exact`, by the effect of each
    head's z on the twin in its place ("noising"). steps: of eap-ig. faithful: a circuit is the smallest found whose
    faithfulness f is as near to 1 as this is: |1 - f| at most 1 - faithful. judged: prompts at most that faithfulness
    is measured on; they are others than those that scored the heads where the task holds enough out. sizes, shares: of
    head and edge circuits. head_draws, edge_draws: random circuits of each size. tests: completeness and minimality of
    the head circuit too. seed: of everything drawn.
    """

    method: str = "eap-ig"
    head_method: str = ""
    steps: int = 5
    faithful: float = 0.8
    judged: int = 32
    sizes: tuple[int, ...] = SIZES
    shares: tuple[float, ...] = SHARES
    head_draws: int = 5
    edge_draws: int = 1
    tests: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises TokensError for choices that nothing can be made of."""
        if self.method not in EDGE_METHODS or self.ranking not in HEAD_METHODS:
            raise TokensError(
                f"method {self.method!r}, heads by {self.ranking!r}; wanted {' or '.join(EDGE_METHODS)}, and heads by "
                "the same or exact"
            )
        if self.ranking not in (self.method, "exact"):
            raise TokensError(f"edges by {self.method} and heads by {self.ranking}; wanted the same, or heads exact")
        if (
            not 0 < self.faithful <= 1
            or self.judged < 2
            or min(self.steps, self.head_draws, self.edge_draws) < 1
            or self.seed < 0
        ):
            raise TokensError(
                f"faithful {self.faithful}, judged {self.judged}, steps {self.steps}, draws {self.head_draws} and "
                f"{self.edge_draws}, seed {self.seed}; wanted faithful above 0 and up to 1, judged 2 or more, steps "
                "and draws 1 or more, seed 0 or more"
            )

    @property
    def ranking(self) -> str:
        """How heads are ranked."""
        return self.head_method or self.method

    def holds(self, point: CurvePoint) -> bool:
        """Whether a circuit does as much of the task as was asked, and no more than the model by as much."""
        # Sizes are of the order of 1: a rounding of 1 - faithful must not decide.
        return abs(1 - point.faithfulness) <= 1 - self.faithful + 1e-12

    def forwards(self, heads: int, scored: int) -> float:
        """Cost in forwards of one prompt, of a model of so many heads and `scored` prompts; a backward counts two.

        Tests of the circuit are not counted: they depend on how many heads it has.
        """
        gradients = 2 + 3 * (self.steps if self.method == "eap-ig" else 1)
        ranked = heads / 2 if self.ranking == "exact" else 0
        head_sets = 3 + len(self.sizes) * (1 + self.head_draws)
        edge_sets = 2 + len(self.shares) * (2 + self.edge_draws)
        return (gradients + ranked) * scored + (head_sets + _EDGE_RUN * edge_sets) * min(self.judged, scored)
