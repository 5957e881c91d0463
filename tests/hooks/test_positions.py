"""Positions as callers write them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from probe.hooks.errors import HookError
from probe.hooks.positions import checked, marked


@pytest.mark.parametrize(
    ("given", "wanted"),
    [([3, 0, 3], [[3, 0, 3]]), (range(2), [[0, 1]]), (torch.tensor([[1], [4]]), [[1], [4]])],
)
def test_positions_become_rows(given: Any, wanted: list[list[int]]) -> None:
    assert checked(given, "positions").tolist() == wanted
    assert checked(given, "positions").dtype == torch.int64


@pytest.mark.parametrize("given", [[], [-1], [0.5], [True, False], torch.zeros(1, 1, 1).long(), torch.tensor(3)])
def test_anything_else_is_refused_by_name(given: Any) -> None:
    with pytest.raises(HookError, match=r"queries .* wanted one or more integers from 0"):
        checked(given, "queries")


def test_marks_of_those_in_the_span() -> None:
    positions = torch.tensor([[2, 9, 2, 4], [3, 3, 0, 5]])
    assert marked(positions, 2, 3).tolist() == [[True, False, True], [False, True, False]]
    assert not bool(marked(positions, 10, 4).any())
