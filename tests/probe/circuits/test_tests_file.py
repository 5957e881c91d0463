"""Tests of a circuit come back from their file as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.analyses.circuit_tests import Completeness, Difference, Minimality
from probe.circuits.tests_file import TESTS_FILE, circuit_tests_json, read_tests
from probe.errors import ResultsError

COMPLETE = (Completeness("random", "3", ((0, 1), (2, 3)), 1.25, 1.5, Difference(-0.25, -0.5, float("nan"), 0.125)),)
MINIMAL = (Minimality((2, 3), "none", (), Difference(0.1, 0.0, 0.2, 0.05)),)


def test_tests_come_back(tmp_path: Path):
    (tmp_path / TESTS_FILE).write_bytes(circuit_tests_json(COMPLETE, MINIMAL))
    complete, minimal = read_tests(tmp_path)
    assert minimal == MINIMAL
    assert (complete[0].removed, complete[0].model) == (COMPLETE[0].removed, 1.5)
    assert complete[0].difference.high != complete[0].difference.high  # NaN stays NaN
    assert circuit_tests_json(complete, minimal) == circuit_tests_json(COMPLETE, MINIMAL)


def test_no_file_is_no_test(tmp_path: Path):
    assert read_tests(tmp_path) == ((), ())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"kind": "random"', '"kind": 1', "kind: found 1"), ('"circuit": 1.25', '"circuit": "a"', "circuit: found 'a'"),
        ('"minimality"', '"other"', "no field 'minimality'"), ('"low": 0.0', '"lowest": 0.0', "no field 'low'"),
    ],
)  # fmt: skip
def test_another_form_is_refused_by_name(tmp_path: Path, old: str, new: str, said: str):
    text = circuit_tests_json(COMPLETE, MINIMAL).decode()
    assert old in text
    (tmp_path / TESTS_FILE).write_text(text.replace(old, new))
    with pytest.raises(ResultsError, match=said):
        read_tests(tmp_path)
