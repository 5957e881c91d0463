"""The needle's answer is judged token by token; the twin tells another one; the planted model finds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from probe.errors import TokensError
from probe.models import Loaded
from probe.planted.prompts import planted_text
from probe.planted.words import BOS, NEEDLE_WORDS
from probe.tasks.baseline import baseline
from probe.tasks.build import build
from probe.tasks.task import Prompt


def test_answers_are_in_the_haystack_and_after_the_question(planted: Loaded, differing: Callable[[Prompt], list[int]]):
    task = build("needle", planted, prompts=10, length=96)
    assert task.length == 96
    for prompt in task.prompts:
        ids, start = prompt.clean_ids, prompt.positions["ANSWER"]
        answer = ids[start : start + 4]
        assert ids[0] == BOS
        assert set(answer) <= set(NEEDLE_WORDS)
        assert prompt.target_ids == answer
        assert prompt.metric_positions == tuple(range(92, 96))
        assert ids[93:] == answer[:3], "the answer but its last token is fed in"
        assert prompt.answer_ids == (answer[3],)
        asked = prompt.positions["ASKED"]
        assert ids[asked:93] == ids[start - 2 : start], "the question repeats the needle's beginning"
        twin = prompt.corrupted_ids
        assert twin is not None
        assert differing(prompt) == [*range(start, start + 4), *range(93, 96)]
        assert twin[93:] == twin[start : start + 3]
        assert prompt.wrong_ids == (twin[start + 3],)
    assert len({prompt.group for prompt in task.prompts}) == 10, "needles take turns"
    depths = Counter(round(prompt.positions["ANSWER"] / 85 * 4) for prompt in task.prompts)
    assert len(depths) >= 4


def test_the_planted_model_finds_needles(models: Callable[[str], Loaded]):
    for name, able in (("planted", True), ("planted-shuffled", False)):
        loaded = models(name)
        found = baseline(loaded.model, build("needle", loaded, prompts=10, length=96))
        assert found.able == able
        assert (found.accuracy == 1) == able


def test_a_text_of_ones_own(planted: Loaded):
    text = planted_text(300, seed=9)
    task = build("needle", planted, prompts=3, length=64, text=text)
    assert "haystack: the text given" in task.notes
    with pytest.raises(TokensError, match="the haystack has 300 tokens"):
        build("needle", planted, prompts=3, length=512, text=text)


def test_too_short(planted: Loaded):
    with pytest.raises(TokensError, match="leaves 0 for the haystack"):
        build("needle", planted, length=10)


@pytest.mark.real
def test_the_real_model_finds_needles(real: Loaded):
    task = build("needle", real, prompts=10, held_out=0, length=96)
    assert task.parameters["needles"] >= 20
    found = baseline(real.model, task)
    assert found.able
    assert found.accuracy > 0.5
