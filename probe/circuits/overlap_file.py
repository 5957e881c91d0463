"""What two circuits share, read back from its JSON and the two circuits that it is about."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from probe.analyses.overlap import EdgeOverlap, Overlap, RoleOverlap
from probe.analyses.overlap_chance import Measure
from probe.analyses.overlap_noise import Noise
from probe.circuits.circuit import Circuit
from probe.circuits.graph import head_node
from probe.errors import ResultsError
from probe.strict import Fields


def overlap_of(document: Any, a: Circuit, b: Circuit, where: str) -> Overlap:
    """The overlap that `Overlap.json` wrote, of circuits a and b; where: the file that errors name.

    Raises ResultsError for a document of another form, or of other circuits than these.
    """
    row = Fields(document, where)
    names = row.text("model"), row.text("task_a"), row.text("task_b")
    shared, derived = row.items("shared_heads"), {name: row.any(name) for name in _DERIVED}
    found = Overlap(
        *names, row.whole("n_heads"), a.heads, b.heads, _count(row), _measure(row.object("weighted_jaccard")),
        _measure(row.object("rank_biased")), _measure(row.object("spearman")),
        tuple(map(_role, row.objects("roles"))), _edges(row.any("edges"), where), _noise(row.any("noise"), where),
        row.whole("draws"), row.whole("seed"), row.texts("notes"),
    )  # fmt: skip
    row.text("sentence")
    row.end()
    if names != (a.model, a.task, b.task) or b.model != a.model:
        raise ResultsError(f"{where}: of {' and '.join(names[1:])} in {names[0]}; wanted {a.task} and {b.task} in "
                           f"{a.model}")  # fmt: skip
    sizes = derived["size_a"], derived["size_b"]
    if shared != [head_node(*head) for head in found.shared] or sizes != (len(a.heads), len(b.heads)):
        raise ResultsError(f"{where}: {names[1]} and {names[2]} have other heads here than in their circuit files")
    return found


_DERIVED = ("size_a", "size_b", "share_a", "share_b", "jaccard", "expected_plain")
"""Numbers of the document that follow from the circuits."""


def _count(row: Fields) -> Measure:
    """The measure of shared heads, which the document has flat."""
    names = ("shared", "expected", "null_low", "null_high", "p_value", "p_less")
    return Measure(*(row.number(name) for name in names))


def _measure(row: Fields) -> Measure:
    found = Measure(*(row.number(one.name) for one in fields(Measure)))
    row.end()
    return found


def _role(row: Fields) -> RoleOverlap:
    counts = (row.whole(name) for name in ("size_a", "size_b", "shared", "elsewhere"))
    found = RoleOverlap(row.text("role"), *counts)
    row.end()
    return found


def _edges(value: Any, where: str) -> EdgeOverlap | None:
    if value is None:
        return None
    row = Fields(value, f"{where}: edges")
    found = EdgeOverlap(row.whole("size_a"), row.whole("size_b"), _measure(row.object("shared")))
    row.number("jaccard")
    row.end()
    return found


def _noise(value: Any, where: str) -> Noise | None:
    if value is None:
        return None
    row = Fields(value, f"{where}: noise")
    values = {one.name: row.number(one.name) if str(one.type) == "float" else row.whole(one.name)
              for one in fields(Noise)}  # fmt: skip
    row.number("bias")
    row.end()
    return Noise(**values)  # type: ignore[arg-type]  # numbers of their fields' types
