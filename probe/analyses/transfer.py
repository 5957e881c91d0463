"""What sharing means causally: one task's circuit on another task, and removing what two circuits share or do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedModel

from probe.analyses.faithfulness import carried, faithfulness
from probe.analyses.head_faithfulness import random_circuits
from probe.analyses.head_runs import HeadRuns
from probe.analyses.retrieval_ablation import matched_draw
from probe.analyses.units import Head
from probe.circuits.circuit import Circuit
from probe.errors import TokensError
from probe.models import Loaded, load
from probe.ratio import ratio_of_means
from probe.statistics import bootstrap
from probe.tasks.build import build
from probe.tasks.task import Task

if TYPE_CHECKING:
    import plotly.graph_objects as go

DRAWS = 20
PARTS = ("shared", "only_a", "only_b")


@dataclass(frozen=True, eq=False)
class Transfer:
    """How much of a task another task's heads do.

    source: the task that the circuit was found on, empty where unknown. task: the one it is measured on. heads: the
    circuit. faithfulness, low, high: f with its 95 % interval over prompts. random: f of as many random heads of the
    same layers [draws]. p_value: (1 + draws at least as faithful) / (1 + draws), one-sided.
    """

    source: str
    task: str
    heads: tuple[Head, ...]
    faithfulness: float
    low: float
    high: float
    random: Float[np.ndarray, "draws"]
    p_value: float

    @property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        whose = f"The circuit of {self.source}" if self.source else "A circuit"
        return (
            f"{whose} ({len(self.heads)} heads) does {self.faithfulness:.2f} [{self.low:.2f}, {self.high:.2f}] of "
            f"{self.task}; {len(self.random)} random circuits of the same layers do {self.random.mean():.2f} "
            f"(from {self.random.min():.2f} to {self.random.max():.2f}; p = {self.p_value:.3g}, one-sided)."
        )

    def plot(self) -> go.Figure:
        """Faithfulness with its interval, beside the draws of random heads."""
        from probe.plots.beside import transfer_draws

        return transfer_draws(self)


@dataclass(frozen=True, eq=False)
class PartEffect:
    """What a task loses with a part of two circuits' heads replaced.

    task: on which it is measured. part: one of `PARTS`. heads: those replaced. effect, low, high: clean − replaced in
    the metric's unit, positive where they help, with its 95 % interval over prompts. share, share_low, share_high: of
    what the task loses with every head replaced. random: mean effect of as many random heads of the same layers, in
    neither circuit [draws]. p_value: (1 + draws of at least that effect) / (1 + draws), one-sided.
    Parts have unequal numbers of heads: each is to be compared with its own random heads, not with another part.
    """

    task: str
    part: str
    heads: tuple[Head, ...]
    effect: float
    low: float
    high: float
    share: float
    share_low: float
    share_high: float
    random: Float[np.ndarray, "draws"]
    p_value: float

    def plot(self) -> go.Figure:
        """What is lost with its interval, beside the draws of random heads."""
        from probe.plots.beside import part_draws

        return part_draws(self)


def transfer(
    model: str | Path | PreTrainedModel | nn.Module | Loaded,
    circuit: Circuit | Sequence[Head],
    task: str | Task,
    *,
    prompts: int = 64,
    draws: int = DRAWS,
    seed: int = 0,
    runs: HeadRuns | None = None,
) -> Transfer:
    """Faithfulness of a circuit's heads on a task that it was not found on (or on its own, to compare with).

    Every head outside the circuit is replaced by its z on the prompt's corrupted twin, MLPs live; f as in
    `head_faithfulness`; against random circuits with the same number of heads in every layer. prompts, seed: how a
    task given by name is built. runs: measurements to go on with, of this model and task.

    Cost: 4 + draws forwards over all prompts; less what `runs` knows already. Raises TokensError for a circuit of no
    head, fewer than one draw, heads that the model lacks, a task without twins, and one to whose score the heads
    contribute nothing.
    """
    if runs is None:
        loaded = model if isinstance(model, Loaded) else load(model)
        runs = HeadRuns(loaded, task if isinstance(task, Task) else build(task, loaded, prompts=prompts, seed=seed))
    if isinstance(circuit, Circuit) and circuit.model != runs.loaded.name:
        raise TokensError(f"a circuit of {circuit.model} on {runs.loaded.name}; wanted one of the same model")
    heads = tuple(sorted(set(circuit.heads if isinstance(circuit, Circuit) else circuit)))
    if not heads or draws < 1:
        raise TokensError(f"transfer of {len(heads)} heads, {draws} random draws; wanted 1 or more of each")
    runs.kept([heads])  # refuses heads that the model lacks before any circuit is drawn like them
    found = faithfulness(runs, [heads, *random_circuits(runs, heads, draws, seed=seed)], seed=seed)
    random = found.mean[1:]
    p_value = (1 + int((random >= found.mean[0]).sum())) / (1 + draws)
    source = circuit.task if isinstance(circuit, Circuit) else ""
    mean, low, high = float(found.mean[0]), float(found.low[0]), float(found.high[0])
    return Transfer(source, runs.task.name, heads, mean, low, high, random, p_value)


def parts_of(heads_a: Sequence[Head], heads_b: Sequence[Head]) -> dict[str, tuple[Head, ...]]:
    """The heads that two circuits share, and those of each alone; parts without a head are left out."""
    a, b = set(heads_a), set(heads_b)
    parts = dict(zip(PARTS, (a & b, a - b, b - a), strict=True))
    return {name: tuple(sorted(members)) for name, members in parts.items() if members}


def part_effects(
    runs: HeadRuns, heads_a: Sequence[Head], heads_b: Sequence[Head], *, draws: int = DRAWS, seed: int = 0
) -> tuple[PartEffect, ...]:
    """What the task of `runs` loses with the heads replaced that two circuits share, and those of each alone.

    To be called for both tasks. The random heads of each part have its number in every layer (the nearest layer
    where one runs out, `retrieval_ablation.matched_draw`) and come from neither circuit; where the circuits leave too
    few others, a part has no random heads and its p-value is NaN.

    Cost: 2 + 3 · (1 + draws) forwards over all prompts at most, each less the blocks below its lowest head. Raises
    TokensError for fewer than one draw, heads that the model lacks, and where the heads contribute nothing to the task.
    """
    if draws < 1:
        raise TokensError(f"{draws} random draws; wanted 1 or more")
    parts, union = parts_of(heads_a, heads_b), {*heads_a, *heads_b}
    replaced = runs.replaced(list(parts.values()))
    whole = carried(runs, seed=seed)
    return tuple(
        _part_effect(runs, name, members, runs.clean - values, whole, _others(runs, members, union, draws, seed), seed)
        for (name, members), values in zip(parts.items(), replaced, strict=True)
    )


def _others(runs: HeadRuns, members: Sequence[Head], union: set[Head], draws: int, seed: int) -> list[tuple[Head, ...]]:
    pool = [head for head in runs.heads if head not in union or head in members]
    if 2 * len(members) > len(pool):
        return []
    return [matched_draw(members, pool, np.random.default_rng([seed, draw])) for draw in range(draws)]


def _part_effect(
    runs: HeadRuns,
    part: str,
    members: tuple[Head, ...],
    effect: Float[np.ndarray, "n"],
    whole: Float[np.ndarray, "n"],
    drawn: Sequence[Sequence[Head]],
    seed: int,
) -> PartEffect:
    random = (runs.clean - runs.replaced(drawn)).mean(axis=1) if drawn else np.empty(0)
    spread = bootstrap(effect[:, None], groups=runs.task.groups, seed=seed)
    share = ratio_of_means(effect[:, None], whole, groups=runs.task.groups, seed=seed)
    p_value = (1 + int((random >= spread.mean[0]).sum())) / (1 + len(drawn)) if drawn else float("nan")
    return PartEffect(
        runs.task.name, part, members,
        float(spread.mean[0]), float(spread.low[0]), float(spread.high[0]),
        float(share.mean[0]), float(share.low[0]), float(share.high[0]),
        random, p_value,
    )  # fmt: skip
