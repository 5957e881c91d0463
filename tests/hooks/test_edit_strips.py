"""Weights by strips give what whole weights give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from probe.hooks import edit_strips
from probe.hooks.edit_strips import kept_rows, left_keys, shown, z_by_strips
from probe.hooks.edits import Part


@pytest.mark.parametrize("size", [1, 300, 1 << 21])
def test_strips_of_any_size(size: int, part_of: Callable[..., Part], dense: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(edit_strips, "STRIP", size)
    part = part_of("llama")
    asked: list[int] = []

    def weights(rows: torch.Tensor) -> torch.Tensor:
        asked.append(len(rows))
        return part.call.pattern(rows)

    given = z_by_strips(part.call, weights)
    wanted = (dense.weights(part.whole) @ dense.values(part.whole))[:, part.heads]
    assert (given - wanted).abs().max() <= dense.bound(part.whole)
    # One row takes 2 sequences x 3 heads x 12 keys.
    assert asked == {1: [1] * 12, 300: [4] * 3, 1 << 21: [12]}[size]


def test_dropout_reaches_the_weights(part_of: Callable[..., Part]) -> None:
    part = part_of("gpt2")
    torch.manual_seed(0)
    dropped = z_by_strips(replace(part.call, dropout=0.5), part.call.pattern)
    assert (dropped - z_by_strips(part.call, part.call.pattern)).abs().max() > 1e-3


def test_a_row_left_with_nothing_sees_its_own_but_for_learned_sinks(part_of: Callable[..., Part]) -> None:
    rows, none = torch.arange(12), torch.zeros(1, 1, 1, 12, dtype=torch.bool)
    part = part_of("gpt2", rows=slice(0, 1))
    assert torch.equal(left_keys(part.call, rows, none)[0, 0], torch.eye(12, dtype=torch.bool))
    assert torch.equal(kept_rows(part.call, rows, none)[0, 0], torch.eye(12, dtype=torch.float64))
    part = part_of("gpt_oss", rows=slice(0, 1))
    assert not bool(left_keys(part.call, rows, none).any())
    assert kept_rows(part.call, rows, none).abs().max() == 0


def test_minus_infinity_in_a_bias_is_hidden() -> None:
    floor = torch.finfo(torch.float32).min
    assert shown(torch.tensor([0.0, -80.0, floor, -torch.inf])).tolist() == [True, True, False, False]
