"""Keys, values and queries stand in order; the twin is a right prompt of its own; planted induction recalls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from probe.errors import TokensError
from probe.models import Loaded
from probe.tasks.baseline import baseline
from probe.tasks.build import build
from probe.tasks.task import Prompt


def pairs(ids: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(ids[::2], ids[1::2], strict=True))


def test_every_key_is_asked_once_and_answered(planted: Loaded, differing: Callable[[Prompt], list[int]]):
    task = build("mqar", planted, prompts=16)
    assert task.length == 65
    orders = set()
    for prompt in task.prompts:
        for ids in (prompt.clean_ids, prompt.corrupted_ids):
            assert ids is not None
            told, asked = pairs(ids[1:33]), pairs(ids[33:])
            assert sorted(told) == sorted(asked)
            assert len(set(ids[1:33])) == 32
        assert prompt.metric_positions == tuple(range(33, 65, 2))
        assert prompt.target_ids == prompt.clean_ids[34::2]
        assert prompt.answer_ids == (prompt.clean_ids[64],)
        assert set(prompt.wrong_ids) == set(prompt.clean_ids[2:33:2]) - set(prompt.answer_ids)
        # Keys stay, every value changes: values stand at the even places.
        assert differing(prompt) == list(range(2, 65, 2))
        orders.add(tuple(prompt.clean_ids[1:33:2].index(key) for key in prompt.clean_ids[33::2]))
    assert len(orders) == 16


def test_the_planted_model_recalls_and_so_it_does_in_the_twins(planted: Loaded):
    task = build("mqar", planted, prompts=8)
    assert baseline(planted.model, task).accuracy == 1
    twins = [
        replace(p, clean_ids=p.corrupted_ids, target_ids=p.corrupted_ids[34::2])  # type: ignore[arg-type, index]
        for p in task.prompts
    ]
    assert baseline(planted.model, replace(task, prompts=tuple(twins))).accuracy == 1


@pytest.mark.parametrize(("length", "left"), [(66, 65), (5, 4)])
def test_lengths_that_do_not_fit(length: int, left: int, planted: Loaded):
    with pytest.raises(TokensError, match=f"length {length} leaves {left} tokens for pairs"):
        build("mqar", planted, length=length)
    assert build("mqar", planted, prompts=2, length=9).parameters["pairs"] == 2
