"""An overlap comes back from its JSON and its two circuits, and from no others."""

from __future__ import annotations

import json

import pytest

from probe.analyses.overlap import Overlap
from probe.circuits.circuit import Circuit
from probe.circuits.overlap_file import overlap_of
from probe.errors import ResultsError


def test_an_overlap_comes_back(several_circuits: tuple[Circuit, ...], several_overlaps: tuple[Overlap, ...]):
    a, b, _ = several_circuits
    made = several_overlaps[0]
    document = json.loads(json.dumps(made.json()))
    found = overlap_of(document, a, b, "x.json")
    assert found.json() == made.json()
    assert found.sentence == made.sentence
    assert found.count == made.count
    assert found.edges == made.edges


def test_other_circuits_and_other_forms_are_refused(
    several_circuits: tuple[Circuit, ...], several_overlaps: tuple[Overlap, ...]
):
    a, b, c = several_circuits
    document = several_overlaps[0].json()
    with pytest.raises(ResultsError, match=r"x\.json: of ioi and greater_than in invented; wanted ioi and induction"):
        overlap_of(document, a, c, "x.json")
    with pytest.raises(ResultsError, match="other heads here"):
        overlap_of({**document, "shared_heads": []}, a, b, "x.json")
    with pytest.raises(ResultsError, match="unknown field 'more'"):
        overlap_of({**document, "more": 1}, a, b, "x.json")
    with pytest.raises(ResultsError, match="no field 'p_less'"):
        overlap_of({name: value for name, value in document.items() if name != "p_less"}, a, b, "x.json")
