"""Random ids for tasks without words: ordinary ones, after the model's BOS where it has one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from probe.tasks.ask import Ask
from probe.tokens import special_ids, token_strings


class RandomIds:
    """The ids that a model may be shown at random.

    bos: the model's BOS, or None; `first`: the same as the prompt's beginning. ordinary: every id that is neither
    BOS nor special. text: ids as a reader sees them.
    """

    def __init__(self, ask: Ask) -> None:
        """As METRICS' `_random` sequences: BOS if the model has one, whether or not its tokenizer adds it."""
        self.ask = ask
        self.bos = ask.bos
        self.first = () if ask.bos is None else (ask.bos,)
        special = special_ids(ask.tokenizer) if ask.tokenizer is not None else frozenset()
        size = ask.vocabulary if ask.tokenizer is None else min(ask.vocabulary, len(ask.tokenizer))
        self.ordinary = np.setdiff1d(np.arange(size), np.array(sorted({*special, *self.first}), dtype=int))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of how a prompt begins."""
        if self.bos is None:
            return ("no BOS: the model has none",)
        return (f"BOS {self.bos} first: the model has one, and random sequences begin with it",)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[int, ...]:
        """`count` different ordinary ids. Raises TokensError where the vocabulary has fewer."""
        if count > len(self.ordinary):
            raise self.ask.error(f"{count} different ids wanted, found {len(self.ordinary)}; ask for fewer")
        return tuple(int(token) for token in rng.choice(self.ordinary, size=count, replace=False))

    def text(self, ids: Sequence[int]) -> str:
        """The ids as strings with blanks between, for the reader."""
        return " ".join(token_strings(self.ask.tokenizer, ids))
