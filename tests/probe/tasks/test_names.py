"""The planted indirect-object task: solved by the planted models, not by the shuffled twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from probe.errors import TokensError
from probe.models import Loaded
from probe.planted.words import BOS, END, NAMES, planted_tokenizer
from probe.tasks.baseline import baseline
from probe.tasks.build import build
from probe.tasks.names import is_planted
from probe.tasks.task import Prompt


@pytest.mark.parametrize("corruption", ["s2_io", "abc"])
def test_names_stand_where_they_are_said_to(corruption: str, planted: Loaded, differing: Callable[[Prompt], list[int]]):
    for prompt in build("names", planted, prompts=32, corruption=corruption).prompts:
        place = prompt.positions
        io, s1, s2 = (prompt.clean_ids[place[name]] for name in ("IO", "S1", "S2"))
        assert s1 == s2 != io
        assert {io, s1} <= set(NAMES)
        assert (prompt.answer_ids, prompt.wrong_ids) == ((io,), (s1,))
        assert (prompt.clean_ids[0], prompt.clean_ids[-1], place["END"]) == (BOS, END, 23)
        assert prompt.corrupted_ids is not None
        if corruption == "s2_io":
            assert differing(prompt) == [place["S2"]]
            assert prompt.corrupted_ids[place["S2"]] == io
        else:
            assert differing(prompt) == sorted([place["IO"], place["S1"], place["S2"]])
            others = {prompt.corrupted_ids[place[name]] for name in ("IO", "S1", "S2")}
            assert len(others) == 3
            assert others <= set(NAMES) - {io, s1}


@pytest.mark.parametrize("name", ["planted", "planted-gpt2"])
def test_planted_models_solve_it(name: str, models: Callable[[str], Loaded]):
    loaded = models(name)
    found = baseline(loaded.model, build("names", loaded, prompts=16))
    assert found.able
    assert found.accuracy == 1
    assert found.low > 10


def test_the_twin_answers_the_other_name_when_s2_is_io(planted: Loaded):
    """The corruption does what it is for: the right answer of the s2_io twin is S."""
    task = build("names", planted, prompts=16)
    turned = replace(
        task,
        prompts=tuple(
            replace(p, clean_ids=p.corrupted_ids, answer_ids=p.wrong_ids, wrong_ids=p.answer_ids)  # type: ignore[arg-type]
            for p in task.prompts
        ),
    )
    assert baseline(planted.model, turned).accuracy == 1


def test_the_shuffled_twin_does_not(models: Callable[[str], Loaded]):
    loaded = models("planted-shuffled")
    assert not baseline(loaded.model, build("names", loaded, prompts=16)).able


def test_length_is_as_asked(planted: Loaded):
    assert build("names", planted, prompts=2, length=40).length == 40
    with pytest.raises(TokensError, match="found length 7, wanted 8 or more"):
        build("names", planted, prompts=2, length=7)


def test_planted_tokenizers_are_told_by_their_words(wordy: Loaded):
    assert is_planted(planted_tokenizer())
    assert not is_planted(wordy.tokenizer)
    assert not is_planted(None)
    other = planted_tokenizer()
    other.add_tokens(["another"])
    assert not is_planted(other)
