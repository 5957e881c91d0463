"""Two names, one of them twice: places, twins and answers are what they are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from probe.models import Loaded
from probe.tasks.baseline import baseline
from probe.tasks.build import build
from probe.tasks.ioi import NAMES, TEMPLATES
from probe.tasks.task import Prompt


def at(prompt: Prompt, *names: str) -> list[int]:
    return [prompt.clean_ids[prompt.positions[name]] for name in names]


@pytest.mark.parametrize("corruption", ["s2_io", "abc"])
def test_names_stand_where_they_are_said_to(corruption: str, wordy: Loaded, differing: Callable[[Prompt], list[int]]):
    for prompt in build("ioi", wordy, prompts=32, corruption=corruption).prompts:
        io, s1, s2 = at(prompt, "IO", "S1", "S2")
        place = prompt.positions
        assert s1 == s2 != io
        assert prompt.clean_ids.count(io) == 1
        assert prompt.clean_ids.count(s1) == 2
        assert (prompt.answer_ids, prompt.wrong_ids) == ((io,), (s1,))
        assert place["S1+1"] == place["S1"] + 1
        assert place["END"] == len(prompt.clean_ids) - 1
        assert prompt.corrupted_ids is not None
        if corruption == "s2_io":
            assert differing(prompt) == [place["S2"]]
            assert prompt.corrupted_ids[place["S2"]] == io
        else:
            assert differing(prompt) == sorted([place["IO"], place["S1"], place["S2"]])
            others = {prompt.corrupted_ids[place[name]] for name in ("IO", "S1", "S2")}
            assert len(others | {io, s1}) == 5


def test_templates_and_orders_take_turns(wordy: Loaded):
    task = build("ioi", wordy, prompts=32)
    counts = Counter(prompt.template for prompt in task.prompts)
    assert len(counts) == 2 * len(TEMPLATES)
    assert set(counts.values()) == {2}
    for prompt in task.prompts:
        order = prompt.template.split()[1]
        assert (order == "ABBA") == (prompt.positions["IO"] < prompt.positions["S1"])
        assert prompt.group == prompt.template
    # Alike outside the names, the place and the object: what a mean by position relies on.
    same = [prompt for prompt in [*task.prompts, *task.held_out] if prompt.template == "0 ABBA"]
    differ = [len({prompt.clean_ids[place] for prompt in same}) > 1 for place in range(task.length)]
    assert sum(differ) <= 5


def test_a_name_of_several_tokens_is_left_out_and_said(make_toy: Callable[..., Loaded]):
    task = build("ioi", make_toy(without=["Mary", "John"]), prompts=16)
    assert f"2 of {len(NAMES)} names left out: not one token of this tokenizer" in task.notes
    assert not any("Mary" in prompt.clean or "John" in prompt.clean for prompt in task.prompts)


def test_a_bos_that_the_tokenizer_adds_moves_everything_by_one(make_toy: Callable[..., Loaded]):
    plain, begun = (build("ioi", make_toy(bos=bos), prompts=4) for bos in (False, True))
    assert begun.length == plain.length + 1
    for one, other in zip(plain.prompts, begun.prompts, strict=True):
        assert other.clean_ids == (1, *one.clean_ids)
        assert other.positions == {name: place + 1 for name, place in one.positions.items()}


@pytest.mark.real
def test_the_real_model_solves_it(real: Loaded):
    task = build("ioi", real, prompts=16)
    assert task.length == 18
    found = baseline(real.model, task)
    assert found.able
    assert found.accuracy >= 0.9
    assert 3 < found.mean < 7
