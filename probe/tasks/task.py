"""What a task is: clean prompts, their corrupted twins, the answers, and the metric that judges a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from probe.errors import TokensError

METRICS = ("logit_diff", "prob_diff", "accuracy", "neg_loss", "neg_kl")
"""Higher is better in each; `probe.tasks.metrics` has the formulas."""


@dataclass(frozen=True)
class Prompt:
    """One question to the model, as ids; nothing is added to them.

    corrupted_ids: the twin whose right answer is another, of the same length; None where a task has none.
    answer_ids, wrong_ids: right and wrong next tokens at the last metric position.
    metric_positions: positions whose next-token prediction is judged. target_ids: the right next token at each
        of them (None: the metric asks `answer_ids` only).
    positions: names of places, such as S2 or END. template: prompts of one template have the same words at the
        same places and share a mean per position.
    group: prompts of one group (a needle, a template, a fact) are no independent witnesses: intervals draw them
        together. Empty: the prompt stands for itself.
    clean, corrupted: the texts, for the reader.
    """

    clean_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    wrong_ids: tuple[int, ...]
    metric_positions: tuple[int, ...]
    clean: str
    template: str = ""
    group: str = ""
    target_ids: tuple[int, ...] | None = None
    positions: Mapping[str, int] = field(default_factory=dict)
    corrupted_ids: tuple[int, ...] | None = None
    corrupted: str | None = None


@dataclass(frozen=True)
class Task:
    """Prompts of equal length and the metric to judge them by.

    prompts: those that are measured. held_out: others of the same kind, from which means are taken; empty where
    there are too few (means then leave the measured prompt out). chance: `accuracy` of guessing. notes: what was
    dropped or changed in making the prompts, in words. parameters: what the prompts were made with.
    """

    name: str
    metric: str
    prompts: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...] = ()
    chance: float = 0.0
    seed: int = 0
    notes: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises TokensError for prompts that no batch, metric or mean can be made of."""
        if self.metric not in METRICS:
            raise TokensError(f"task {self.name}: metric {self.metric!r}; wanted one of {', '.join(METRICS)}")
        if not self.prompts:
            raise TokensError(f"task {self.name}: found no prompt, wanted at least one")
        everyone = (*self.prompts, *self.held_out)
        self._check_lengths(everyone)
        counts = sorted({len(prompt.metric_positions) for prompt in everyone})
        if len(counts) > 1 or not counts[0]:
            raise TokensError(f"task {self.name}: prompts are judged at {counts} positions; wanted the same number ≥ 1")
        for index, prompt in enumerate(everyone):
            self._check_prompt(index, prompt)

    def _check_lengths(self, prompts: Sequence[Prompt]) -> None:
        lengths = Counter(len(prompt.clean_ids) for prompt in prompts)
        if len(lengths) > 1:
            found = ", ".join(f"{count} of {length}" for length, count in sorted(lengths.items()))
            raise TokensError(f"task {self.name}: prompts of unequal length ({found} tokens); wanted one length")
        for index, prompt in enumerate(prompts):
            if prompt.corrupted_ids is not None and len(prompt.corrupted_ids) != len(prompt.clean_ids):
                raise TokensError(
                    f"task {self.name}, prompt {index}: {len(prompt.corrupted_ids)} corrupted tokens beside "
                    f"{len(prompt.clean_ids)} clean ones; wanted twins of equal length"
                )

    def _check_prompt(self, index: int, prompt: Prompt) -> None:
        where = f"task {self.name}, prompt {index}"
        outside = [p for p in prompt.metric_positions if not 0 <= p < len(prompt.clean_ids)]
        if outside:
            raise TokensError(f"{where}: metric position {outside[0]}; wanted 0 to {len(prompt.clean_ids) - 1}")
        if prompt.target_ids is not None and len(prompt.target_ids) != len(prompt.metric_positions):
            raise TokensError(
                f"{where}: {len(prompt.target_ids)} targets for {len(prompt.metric_positions)} positions; "
                "wanted one each"
            )
        if self.metric in ("logit_diff", "prob_diff") and not (prompt.answer_ids and prompt.wrong_ids):
            raise TokensError(f"{where}: {self.metric} compares right and wrong next tokens; wanted one of each")
        if self.metric == "neg_loss" and prompt.target_ids is None:
            raise TokensError(f"{where}: neg_loss wants a target at every metric position; found none")
        if self.metric == "accuracy" and prompt.target_ids is None and not prompt.answer_ids:
            raise TokensError(f"{where}: accuracy wants targets or answers; found neither")

    @property
    def length(self) -> int:
        """Tokens of every prompt."""
        return len(self.prompts[0].clean_ids)

    @property
    def groups(self) -> tuple[str, ...] | None:
        """One label a measured prompt for `probe.statistics.bootstrap`; None where every prompt stands for itself."""
        if not any(prompt.group for prompt in self.prompts):
            return None
        return tuple(prompt.group or f"prompt {index}" for index, prompt in enumerate(self.prompts))

    @property
    def paired(self) -> bool:
        """Whether every measured prompt has a corrupted twin."""
        return all(prompt.corrupted_ids is not None for prompt in self.prompts)


def clean_ids(prompts: Sequence[Prompt]) -> Int[Tensor, "N T"]:
    """The clean prompts as one tensor, int64."""
    return torch.tensor([prompt.clean_ids for prompt in prompts])


def corrupted_ids(prompts: Sequence[Prompt]) -> Int[Tensor, "N T"]:
    """The corrupted twins as one tensor, int64. Raises TokensError where one is missing."""
    missing = [index for index, prompt in enumerate(prompts) if prompt.corrupted_ids is None]
    if missing:
        raise TokensError(f"prompt {missing[0]} has no corrupted twin; choose a mode or a task that needs or has one")
    return torch.tensor([prompt.corrupted_ids for prompt in prompts])


def metric_positions(prompts: Sequence[Prompt]) -> Int[Tensor, "N K"]:
    """Where each prompt is judged, int64."""
    return torch.tensor([prompt.metric_positions for prompt in prompts])


def named_positions(prompts: Sequence[Prompt], name: str) -> Int[Tensor, "N 1"]:
    """Where each prompt has its position of that name, int64. Raises TokensError naming those that it has."""
    for prompt in prompts:
        if name not in prompt.positions:
            known = ", ".join(prompt.positions) or "none"
            raise TokensError(f"no position {name!r} in the prompt {prompt.clean[:40]!r}; it has: {known}")
    return torch.tensor([[prompt.positions[name]] for prompt in prompts])
