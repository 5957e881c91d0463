"""Capitals: as many prompts as there are facts, none held out, every other capital wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from probe.models import Loaded
from probe.tasks.baseline import baseline
from probe.tasks.build import build
from probe.tasks.capital import CAPITALS, TEMPLATES
from probe.tasks.task import Prompt


def test_answers_and_twins(wordy: Loaded, differing: Callable[[Prompt], list[int]]):
    task = build("capital", wordy, prompts=64)
    assert len(task.prompts) == 64
    assert task.held_out == ()
    ids = wordy.tokenizer.convert_tokens_to_ids  # type: ignore[union-attr]
    countries = {ids(f" {country}"): country for country in CAPITALS}
    for prompt in task.prompts:
        place = prompt.positions["COUNTRY"]
        country = countries[prompt.clean_ids[place]]
        assert prompt.group == country
        assert prompt.answer_ids == (ids(f" {CAPITALS[country]}"),)
        assert set(prompt.wrong_ids) == {ids(f" {city}") for city in CAPITALS.values()} - set(prompt.answer_ids)
        assert differing(prompt) == [place]
        assert prompt.corrupted_ids is not None
        assert prompt.corrupted_ids[place] in countries
    assert len(set(task.groups or ())) > 30


def test_fewer_facts_than_asked_for_is_said(wordy: Loaded):
    most = len(CAPITALS) * len(TEMPLATES)
    task = build("capital", wordy, prompts=1000)
    assert len(task.prompts) == most
    assert f"1000 prompts asked for, {most} can be made" in task.notes
    assert not any("can be made" in note for note in build("capital", wordy, prompts=most).notes)


def test_a_capital_of_several_tokens_is_left_out(make_toy: Callable[..., Loaded]):
    task = build("capital", make_toy(without=["Paris", "Berlin"]), prompts=1000)
    assert len(task.prompts) == (len(CAPITALS) - 2) * len(TEMPLATES)
    assert f"2 of {len(CAPITALS)} countries left out: not one token of this tokenizer" in task.notes
    assert not any("France" in prompt.clean for prompt in task.prompts)


def test_no_city_is_capital_twice():
    assert len(set(CAPITALS.values())) == len(CAPITALS)


@pytest.mark.real
def test_the_real_model_knows_capitals(real: Loaded):
    found = baseline(real.model, build("capital", real, prompts=12))
    assert found.able
    assert found.accuracy >= 0.8
