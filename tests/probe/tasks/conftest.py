"""Models for the tasks: the planted ones, the real one, and an untrained one that reads words as real ones do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from probe.models import Loaded, load
from probe.tasks import capital, colored_objects, greater_than, ioi, kv_json, mcq
from probe.tasks.ask import Ask
from probe.tasks.task import Prompt

WORDS = r"| ?[A-Za-z]+|[^\sA-Za-z\d]|\s"
DIGITS = {"one": r"\d", "pairs": r" ?\d\d", "threes": r"\d{1,3}"}


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


def toy_tokenizer(digits: str = "one", bos: bool = False, without: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """One token a word of the tasks', its space in front included, and digits cut in one of three ways."""
    texts = [
        text
        for module in (capital, colored_objects, greater_than, ioi, kv_json, mcq)
        for name, value in vars(module).items()
        if name.isupper()
        for text in _strings(value)
    ]
    words = {word for text in texts for word in re.findall(r"[A-Za-z]+", text)}
    words |= {word.capitalize() for word in words} | {"a", "an", *mcq.LETTERS}
    words -= set(without)
    numbers = {"one": [str(n) for n in range(10)], "pairs": [f"{n:02d}" for n in range(100)]}
    numbers["threes"] = [*numbers["one"], *numbers["pairs"], *(f"{n:03d}" for n in range(1000))]
    pieces = sorted(words) + numbers[digits]
    marks = sorted({mark for text in texts for mark in re.findall(r"[^\sA-Za-z\d]", text)} | {'"', "{", "}", ":"})
    vocabulary = ["<unk>", "<s>", " ", "\n", *marks, *pieces, *(f" {piece}" for piece in pieces)]
    ids = {word: index for index, word in enumerate(dict.fromkeys(vocabulary))}
    made = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = Split(Regex(DIGITS[digits] + WORDS), behavior="isolated")
    if bos:
        made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    make: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    return make(tokenizer_object=made, bos_token="<s>", unk_token="<unk>")


def toy(tokenizer: PreTrainedTokenizerFast | None = None) -> Loaded:
    """A small untrained model with that tokenizer."""
    tokenizer = toy_tokenizer() if tokenizer is None else tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=1, pad_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    return load(model, tokenizer=tokenizer)


def changed(prompt: Prompt) -> list[int]:
    """Positions at which the twin differs."""
    assert prompt.corrupted_ids is not None
    pairs = zip(prompt.clean_ids, prompt.corrupted_ids, strict=True)
    return [place for place, (clean, other) in enumerate(pairs) if clean != other]


def ask(tokenizer: PreTrainedTokenizerFast | None = None, **asked: Any) -> Ask:
    """A request with everything left to the builder."""
    given = {"vocabulary": 4096, "bos": None, "limit": None, "prompts": 4, "held_out": None, "seed": 0}
    given |= {"corruption": None, "length": None, "text": None, **asked}
    return Ask("trial", tokenizer, **given)


@pytest.fixture(scope="session")
def wordy() -> Loaded:
    return toy()


@pytest.fixture(scope="session")
def models() -> Callable[[str], Loaded]:
    """Planted models by name, each made once."""
    return cache(load)


@pytest.fixture(scope="session")
def planted(models: Callable[[str], Loaded]) -> Loaded:
    return models("planted")


@pytest.fixture(scope="session")
def real() -> Loaded:
    return load("smollm2-135m")


@pytest.fixture
def make_toy() -> Callable[..., Loaded]:
    return lambda **how: toy(toy_tokenizer(**how))


@pytest.fixture
def make_ask() -> Callable[..., Ask]:
    return ask


@pytest.fixture
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return toy_tokenizer


@pytest.fixture
def differing() -> Callable[[Prompt], list[int]]:
    return changed
