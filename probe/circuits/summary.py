"""A circuit in a few lines, for a terminal and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from probe.circuits.circuit import Circuit, CurvePoint
from probe.table import head_name

if TYPE_CHECKING:
    from probe.hooks.heads import Head

SHOWN = 20
"""Heads that the lines list."""


def circuit_summary(found: Circuit) -> dict[str, Any]:
    """A circuit in numbers: JSON values only."""
    return {
        "model": found.model,
        "task": found.task,
        "method": found.method,
        "heads": [
            {"name": head_name(*head), "score": found.score_of(head), "role": found.node_of(head).role}
            for head in _strongest(found)
        ],
        "edges": _edges(found),
        "curve": [vars(point) for point in found.curve],
        **found.summary,
        "notes": list(found.notes),
    }


def circuit_lines(found: Circuit) -> list[str]:
    """A circuit in words, one line a finding, the whole of it in the first."""
    heads, graph = _strongest(found), found.graph
    lines = [
        f"{found.model}, {found.task}: {len(heads)} of {len(graph.heads)} heads{_does(found, 'heads', len(heads))}; "
        f"{_edges(found):,} of {graph.n_edges:,} edges{_does(found, 'edges_absolute', _edges(found))}"
    ]
    for head in heads[:SHOWN]:
        node = found.node_of(head)
        lines.append(f"{head_name(*head)} {node.score:+.3f} [{node.low:.3f}, {node.high:.3f}] {node.role}".rstrip())
    if len(heads) > SHOWN:
        lines.append(f"and {len(heads) - SHOWN} more")
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _does(found: Circuit, arm: str, count: int) -> str:
    """How much of the task the circuit of that arm and size does."""
    point: CurvePoint | None = next((one for one in found.curve if one.arm == arm and one.count == count), None)
    return "" if point is None else f" do {point.faithfulness:.2f} [{point.low:.2f}, {point.high:.2f}] of the task"


def _edges(found: Circuit) -> int:
    return sum(edge.in_circuit for edge in found.edges)


def _strongest(found: Circuit) -> list[Head]:
    return sorted(found.heads, key=lambda head: (-abs(found.score_of(head)), head))
