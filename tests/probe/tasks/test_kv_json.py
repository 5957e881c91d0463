"""A JSON object that is one, a key of it, and the value that belongs to it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from probe.models import Loaded
from probe.tasks.baseline import baseline
from probe.tasks.build import build
from probe.tasks.task import Prompt


def test_the_answer_is_the_keys_value(wordy: Loaded, differing: Callable[[Prompt], list[int]]):
    task = build("kv_json", wordy, prompts=32)
    words = wordy.tokenizer.convert_ids_to_tokens  # type: ignore[union-attr]
    asked = Counter()
    for prompt in task.prompts:
        place, ids = prompt.positions, prompt.clean_ids
        told = json.loads(prompt.clean.split("\n")[1])
        key = words(ids[place["ASKED"]])
        assert ids[place["KEY"]] == ids[place["ASKED"]]
        assert words(ids[place["VALUE"]]) == words(prompt.answer_ids[0]) == told[key]
        assert set(words(list(prompt.wrong_ids))) == set(told.values()) - {told[key]}
        assert len({*told, *told.values()}) == 16
        assert differing(prompt) == [place["ASKED"]]
        assert prompt.corrupted_ids is not None
        assert words(prompt.corrupted_ids[place["ASKED"]]) in set(told) - {key}
        asked[list(told).index(key)] += 1
    assert set(asked.values()) == {4}


@pytest.mark.real
def test_the_real_model_looks_keys_up(real: Loaded):
    found = baseline(real.model, build("kv_json", real, prompts=16, held_out=0))
    assert found.able
    assert found.accuracy > 0.4
