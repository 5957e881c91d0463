"""The planted circuits' tasks: prompts hold what they say, twins differ in all that is asked, the models solve both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from probe.errors import TokensError
from probe.models import Loaded
from probe.planted.circuit_words import KEYS, QUESTIONS, TASK_NAMES, VALUES, circuit_tokenizer, domain_of
from probe.tasks.baseline import baseline
from probe.tasks.build import build


@pytest.fixture
def circuits(models: Callable[[str], Loaded]) -> Loaded:
    return models("planted-circuits")


@pytest.mark.parametrize("name", TASK_NAMES)
def test_prompts_and_twins_ask_for_a_value(name: str, circuits: Loaded):
    keys, questions, values = (words[domain_of(name)] for words in (KEYS, QUESTIONS, VALUES))
    for prompt in build(name, circuits, prompts=32).prompts:
        place = prompt.positions
        assert prompt.corrupted is not None
        clean, twin = prompt.clean.split(), prompt.corrupted.split()
        assert circuit_tokenizer().convert_tokens_to_ids(clean) == list(prompt.clean_ids)
        assert circuit_tokenizer().convert_tokens_to_ids(twin) == list(prompt.corrupted_ids or ())
        asked = keys[questions.index(clean[place["QUESTION"]])]
        assert clean[place["KEY"]] == asked
        assert place["VALUE"] == place["KEY"] + 1
        said = circuit_tokenizer().convert_ids_to_tokens([*prompt.answer_ids, *prompt.wrong_ids])
        assert said == [clean[place["VALUE"]], clean[place["OTHER"]]]
        assert (clean[0], clean[place["QUESTION"] - 1], clean[-1], place["END"]) == ("<bos>", "<sep>", "<ask>", 15)
        for words in (keys, questions, values):
            there, other = ([word for word in text if word in words] for text in (clean, twin))
            assert len(there) == len(other) == len(set(there)) == (1 if words is questions else 4)
            assert not set(there) & set(other)
        # At the same places, but another pair is asked for: what a head moves comes from elsewhere.
        assert [word in keys for word in clean] == [word in keys for word in twin]
        assert twin.index(keys[questions.index(twin[place["QUESTION"]])]) != place["KEY"]
        foreign = {word for words in (KEYS, QUESTIONS, VALUES) for word in words} - {*keys, *questions, *values}
        assert not foreign & {*clean, *twin}


@pytest.mark.parametrize("model", ["planted-circuits", "planted-circuits-apart"])
@pytest.mark.parametrize("name", TASK_NAMES)
def test_the_planted_circuits_solve_both(name: str, model: str, models: Callable[[str], Loaded]):
    loaded = models(model)
    task = build(name, loaded, prompts=16)
    found = baseline(loaded.model, task)
    assert found.able
    assert found.accuracy == 1
    # The answer's logit is 10 (1 − 0.3) times a clarity of 0.7 to 1.3, less what the softmaxes leave to the rest.
    assert 3.5 < found.values.min() < found.values.max() < 9.1
    twins = tuple(replace(prompt, clean_ids=prompt.corrupted_ids) for prompt in task.prompts)
    assert abs(baseline(loaded.model, replace(task, prompts=twins)).mean) < 0.1, "the twin says neither"


def test_length_is_as_asked(circuits: Loaded):
    for length in (12, 64):
        task = build("translate", circuits, prompts=4, length=length)
        assert task.length == length
        assert baseline(circuits.model, task).accuracy == 1
    for length in (11, 65):
        with pytest.raises(TokensError, match=f"task recall: prompts of {length} tokens; wanted 12 to 64"):
            build("recall", circuits, prompts=2, length=length)


def test_other_vocabularies_are_refused(planted: Loaded, wordy: Loaded):
    for loaded in (planted, wordy, replace(planted, tokenizer=None)):
        with pytest.raises(TokensError, match="task recall: it is made of the planted circuits' words"):
            build("recall", loaded)
