"""Draws are different, repeatable, and end where there is nothing more to draw."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from probe.errors import TokensError
from probe.tasks.ask import Ask
from probe.tasks.task import Prompt


def test_totals(make_ask: Callable[..., Ask]):
    assert make_ask(prompts=5).total == 10
    assert make_ask(prompts=5, held_out=3).total == 8
    assert make_ask(prompts=5, held_out=0).total == 5


def test_streams_are_repeatable_and_different(make_ask: Callable[..., Ask]):
    def first(**asked: int) -> int:
        stream = asked.pop("stream", 0)
        return int(make_ask(**asked).generator(stream).integers(1 << 62))

    assert first() == first()
    assert len({first(), first(stream=1), first(seed=1), first(seed=1, stream=1)}) == 4


def test_repeated_prompts_are_drawn_again(make_ask: Callable[..., Ask]):
    numbers = iter([3, 3, 5, 3, 7])
    asked: list[int] = []

    def one(index: int) -> Prompt:
        asked.append(index)
        return Prompt((next(numbers),), (1,), (2,), (0,), "")

    made = make_ask().draw(3, one)
    assert [prompt.clean_ids for prompt in made] == [(3,), (5,), (7,)]
    assert asked == [0, 1, 1, 2, 2]


def test_it_says_how_many_there_are(make_ask: Callable[..., Ask]):
    with pytest.raises(TokensError, match="task trial: 5 different prompts wanted, 1 found"):
        make_ask().draw(5, lambda _: Prompt((3,), (1,), (2,), (0,), ""))
