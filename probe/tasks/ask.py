"""What a builder of prompts is asked for and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from probe.errors import TokensError
from probe.tasks.task import Prompt

MAX_TRIES = 50
"""Draws a wanted prompt may take before the task says that it cannot make as many different ones."""


@dataclass(frozen=True)
class Ask:
    """One request for prompts.

    tokenizer, vocabulary, bos (of the model's configuration, None without one) and limit (most tokens the model
    reads, None where unstated) are the model's; the rest is asked for. held_out: None for the builder's own choice.
    length: tokens of a prompt, None for the task's default. text: what `lm` and `needle` read, None for their own.
    """

    task: str
    tokenizer: PreTrainedTokenizerBase | None
    vocabulary: int
    bos: int | None
    limit: int | None
    prompts: int
    held_out: int | None
    seed: int
    corruption: str | None
    length: int | None
    text: str | None

    @property
    def total(self) -> int:
        """Prompts to make where as many can be held out as are measured."""
        return self.prompts + (self.prompts if self.held_out is None else self.held_out)

    def generator(self, stream: int = 0) -> np.random.Generator:
        """Random numbers of this seed; streams are independent, so that twins do not move the clean prompts."""
        return np.random.default_rng([self.seed, stream])

    def error(self, message: str) -> TokensError:
        """A refusal that names the task."""
        return TokensError(f"task {self.task}: {message}")

    def draw(self, count: int, one: Callable[[int], Prompt]) -> tuple[Prompt, ...]:
        """`count` prompts no two of which are alike, one(0), one(1), …; a repeated one is drawn again.

        Raises TokensError where the task cannot make so many.
        """
        made: dict[tuple[int, ...], Prompt] = {}
        for _ in range(MAX_TRIES * count):
            if len(made) == count:
                break
            prompt = one(len(made))
            made.setdefault(prompt.clean_ids, prompt)
        if len(made) < count:
            raise self.error(f"{count} different prompts wanted, {len(made)} found; ask for fewer or longer ones")
        return tuple(made.values())


@dataclass(frozen=True)
class Made:
    """Prompts as a builder hands them back: the measured ones first, `measured` of them; the rest are held out."""

    prompts: tuple[Prompt, ...]
    measured: int
    chance: float
    notes: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
