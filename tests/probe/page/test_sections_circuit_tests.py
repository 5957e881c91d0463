from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from probe.analyses.circuit_tests import Completeness, Difference, Minimality
from probe.circuits.circuit import Circuit
from probe.page.report_circuit import write_circuit_report
from probe.page.sections_circuit_tests import completeness_chapter

COMPLETE = (
    Completeness("none", "", (), 4.0, 5.0, Difference(-1.0, -1.2, -0.8, -0.2)),
    Completeness("group", "<b>", ((1, 2), (3, 4)), 0.5, 2.5, Difference(-2.0, -2.3, -1.7, -0.4)),
    Completeness("random", "3", ((5, 5),), 3.9, 4.0, Difference(-0.1, -0.3, 0.1, -0.02)),
)
MINIMAL = (
    Minimality((1, 2), "none", (), Difference(0.1, -0.1, 0.3, 0.02)),
    Minimality((3, 4), "induction", ((1, 2),), Difference(1.5, 1.2, 1.8, 0.3)),
)


def test_what_parts_circuit_and_model_is_counted(make_circuit: Callable[..., Circuit]) -> None:
    complete, minimal = completeness_chapter(make_circuit(), COMPLETE, MINIMAL).findings
    assert complete.figure == "0.40"
    assert complete.text.startswith("2 of 3 sets of heads leave the circuit and the model with different scores")
    assert "the largest difference is -2.00 [-2.30, -1.70] logits, 0.40 of the task" in complete.text
    assert complete.heads[0] == "<b>: L1H2, L3H4:  -2.00 [-2.30, -1.70]"
    assert minimal.figure == "1"
    assert minimal.heads == ("L1H2  0.10 [-0.10, 0.30], with all others there",)
    (none,) = completeness_chapter(make_circuit(), (), MINIMAL[1:]).findings
    assert none.text == (
        "1 of 1 heads are worth something to the circuit beside some set of others (95 % interval without 0)."
    )


def test_only_what_was_tested_has_a_place(make_circuit: Callable[..., Circuit]) -> None:
    for complete, minimal in ((COMPLETE, MINIMAL), (COMPLETE, ()), ((), MINIMAL)):
        chapter = completeness_chapter(make_circuit(), complete, minimal)
        markup = chapter.sections["tests"][1]
        assert set(re.findall(r'data-figure="([^"]*)"', markup)) == set(chapter.figures)
        assert "<b>" not in markup


def test_the_page_of_a_circuit_has_its_tests(make_circuit: Callable[..., Circuit], tmp_path: Path) -> None:
    text = write_circuit_report(make_circuit(), tmp_path, completeness=COMPLETE, minimality=MINIMAL).read_text()
    assert '<a href="#tests">Completeness and minimality</a>' in text
    assert '"completeness":' in text
