"""R + R: what is judged can be foretold, what the twin has instead cannot, and planted induction does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from probe.errors import TokensError
from probe.models import Loaded
from probe.tasks.baseline import baseline
from probe.tasks.build import build
from probe.tasks.task import Prompt


def test_copies_targets_and_twins(planted: Loaded, differing: Callable[[Prompt], list[int]]):
    task = build("induction", planted, prompts=16)
    assert task.parameters["distinct"] == 32
    assert task.length == 65
    for prompt in task.prompts:
        ids = prompt.clean_ids
        first, second = ids[1:33], ids[33:]
        assert ids[0] == 0
        assert first == second
        assert len(set(first)) == 32
        assert prompt.metric_positions == tuple(range(33, 64))
        assert prompt.target_ids == tuple(ids[place + 1] for place in prompt.metric_positions)
        assert prompt.answer_ids == (ids[-1],)
        twin = prompt.corrupted_ids
        assert twin is not None
        assert all(1 <= place < 33 for place in differing(prompt))
        assert sorted(twin[1:33]) == sorted(first)
        assert not set(pairwise(twin[1:33])) & set(pairwise(first))
        asked = ids[prompt.positions["END"]]
        assert prompt.wrong_ids == (twin[twin.index(asked) + 1],)
        assert twin.index(asked) < 32


@pytest.mark.parametrize("name", ["planted", "planted-gpt2"])
def test_planted_models_solve_it(name: str, models: Callable[[str], Loaded]):
    loaded = models(name)
    found = baseline(loaded.model, build("induction", loaded, prompts=8))
    assert found.able
    assert found.accuracy == 1
    assert found.chance == 1 / 32


def test_the_shuffled_twin_does_not(models: Callable[[str], Loaded]):
    loaded = models("planted-shuffled")
    assert not baseline(loaded.model, build("induction", loaded, prompts=8)).able


def test_without_a_bos_none_is_added(wordy: Loaded):
    config = LlamaConfig(
        vocab_size=100, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    loaded = replace(wordy, model=LlamaForCausalLM(config), tokenizer=None)
    task = build("induction", loaded, prompts=2)
    assert task.length == 64
    assert task.notes == ("no BOS: the model has none",)


@pytest.mark.parametrize(("length", "left"), [(64, 63), (7, 6)])
def test_lengths_that_do_not_fit(length: int, left: int, planted: Loaded):
    with pytest.raises(TokensError, match=f"length {length} leaves {left} tokens for two equal copies"):
        build("induction", planted, length=length)
    assert build("induction", planted, prompts=2, length=9).parameters["distinct"] == 4
