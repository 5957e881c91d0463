"""What stands in a head's place: METRICS' ablation modes as rules for `hooks.edits`, made from a task's prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.analyses.means import MEANS, means_note, means_of, observe
from probe.errors import TokensError
from probe.hooks.attention import AttentionCall
from probe.hooks.edit_force import ForcePattern
from probe.hooks.edit_keys import KnockOut, SinkScale, SinkValueZero
from probe.hooks.edit_patterns import ByDistance, FrozenPattern, FrozenValues, Identity, SelfOnly, Uniform
from probe.hooks.edit_rules import MeanSelf, Replace, Scale, Zero
from probe.hooks.part import Rule
from probe.kernels.inputs import Request
from probe.observe import observed
from probe.running import Running
from probe.tasks.task import Task, clean_ids, corrupted_ids, named_positions

LIVE: Mapping[str, Callable[[], Rule]] = {
    "zero": Zero,
    "mean_self": MeanSelf,
    "uniform": Uniform,
    "self": SelfOnly,
    "sink_knockout": lambda: SinkScale(0.0),
    "sink_value_zero": SinkValueZero,
}
"""Modes that need no other run: the rule reads what the edited forward itself computes."""

GRADED: Mapping[str, Callable[[float], Rule]] = {"scale": Scale, "identity": Identity, "sink_scale": SinkScale}
"""Modes with a number after a colon, such as `scale:0.5`."""

TWINS = ("resample", "frozen_pattern", "frozen_values")
"""Modes that take something of each prompt's corrupted twin."""

MODES = (
    *MEANS, *LIVE, *TWINS, "static", *(f"{name}:NUMBER" for name in GRADED),
    "knock_out:QUERY>KEY", "force:QUERY>KEY/KEY",
)  # fmt: skip
"""METRICS, Studies: `mean` per position (and template), `mean_all` over prompts and positions ≥ 1,
`mean_corrupted` as `mean` over the corrupted prompts, `mean_token` by the token at the position, `mean_self` over
the prompt's own positions ≥ 1, `resample` z of the paired corrupted prompt, `zero`. METHODS §15: `uniform`, `self`
and `static` (the head's own mean profile over distances) change where a head looks; `sink_knockout` renormalises,
`sink_value_zero` does not, `sink_scale:β` gives what it frees to the other keys; `frozen_pattern` and
`frozen_values` take the pattern (q and k) or the values of the corrupted twin and leave the rest live;
`knock_out:END>S2` cuts the edge from one named position to another (or to several, `END>S1/S2`), `force:END>S1/S2`
makes the one look at the others in equal shares and nowhere else (METHODS §10); `scale:f` multiplies z, `identity:u`
moves it to the token's own v."""

EDGES: Mapping[str, type[KnockOut] | type[ForcePattern]] = {"knock_out": KnockOut, "force": ForcePattern}
"""Modes with named positions after a colon, a query and its keys, such as `knock_out:END>S2`."""


class Replacement(ABC):
    """What stands in the place of heads, for the measured prompts of one task.

    mode: its name.
    """

    mode: str

    @abstractmethod
    def rule(self, layer: int, rows: slice) -> Rule:
        """The rule for heads of `layer` in a batch whose rows are the task's prompts `rows`, in order."""


@dataclass
class _Same(Replacement):
    """One rule for every layer and prompt."""

    mode: str
    made: Rule

    def rule(self, layer: int, rows: slice) -> Rule:
        return self.made


@dataclass
class _Static(Replacement):
    """A profile over distances for every head, by layer [H, T]."""

    mode: str
    profiles: dict[int, Float[Tensor, "H T"]]

    def rule(self, layer: int, rows: slice) -> Rule:
        return ByDistance(self.profiles[layer])


@dataclass
class _Table(Replacement):
    """Values by group: `tables[layer]` [groups, H, T or 1, Dv], and the group of every measured prompt."""

    mode: str
    tables: dict[int, Float[Tensor, "groups H #T Dv"]]
    group: Int[Tensor, "N"]

    def rule(self, layer: int, rows: slice) -> Rule:
        return Replace(self.tables[layer][self.group[rows]])


@dataclass
class _Frozen(Replacement):
    """Tensors of the corrupted twins, per layer."""

    mode: str
    kept: dict[int, tuple[Tensor, ...]]

    def rule(self, layer: int, rows: slice) -> Rule:
        parts = [tensor[rows] for tensor in self.kept[layer]]
        return FrozenPattern(*parts) if self.mode == "frozen_pattern" else FrozenValues(*parts)


@dataclass
class _Edge(Replacement):
    """Key positions that one query position loses or is made to look at, in every prompt its own."""

    mode: str
    made: type[KnockOut] | type[ForcePattern]
    queries: Int[Tensor, "N 1"]
    keys: Int[Tensor, "N k"]

    def rule(self, layer: int, rows: slice) -> Rule:
        return self.made(self.queries[rows], self.keys[rows])


def replacement(running: Running, task: Task, mode: str) -> Replacement:
    """Make a mode for a task: one forward over the prompts that it reads, none for modes that read the live run.

    Raises TokensError for an unknown mode, one that needs twins or named positions that the task lacks, and a
    mean over no other prompt.
    """
    check_mode(mode)
    name, _, detail = mode.partition(":")
    if mode in LIVE:
        return _Same(mode, LIVE[mode]())
    if name in GRADED:
        return _Same(mode, GRADED[name](_number(mode, detail)))
    if mode in MEANS:
        means = means_of(running, task, mode)
        return _Table(mode, means.tables, means.group)
    if mode in TWINS:
        return _from_twins(running, task, mode)
    if mode == "static":
        return _static(running, task)
    query, _, keys = detail.partition(">")
    columns = [named_positions(task.prompts, key) for key in keys.split("/")]
    return _Edge(mode, EDGES[name], named_positions(task.prompts, query), torch.cat(columns, 1))


def replacement_note(task: Task, mode: str) -> str:
    """What a mode puts in the place of heads on this task, in words; nothing is run."""
    if mode in MEANS:
        return means_note(task, mode)
    if mode in TWINS:
        return f"{mode}: from each prompt's corrupted twin"
    if mode == "static":
        count, kind = (len(task.held_out), "held-out") if task.held_out else (len(task.prompts), "measured")
        return f"static: each head's mean profile over distances on {count} {kind} prompts"
    return f"{mode}: nothing of another run"


def check_mode(mode: str) -> None:
    """Raises TokensError for a mode that no task could have, before anything is loaded."""
    name, _, detail = mode.partition(":")
    if name in GRADED:
        _number(mode, detail)
    elif mode not in (*MEANS, *LIVE, *TWINS, "static") and not (name in EDGES and ">" in detail):
        raise TokensError(f"ablation mode {mode!r}; wanted one of {', '.join(MODES)}")


def _number(mode: str, detail: str) -> float:
    try:
        return float(detail)
    except ValueError:
        raise TokensError(f"ablation mode {mode!r}; wanted a number after the colon, as in scale:0.5") from None


def _from_twins(running: Running, task: Task, mode: str) -> Replacement:
    kept: dict[int, list[tuple[Tensor, ...]]] = {}

    def keep(call: AttentionCall, z: Tensor, _rows: slice) -> None:
        wanted = {"resample": (z,), "frozen_pattern": (call.q, call.k), "frozen_values": (call.v,)}[mode]
        kept.setdefault(call.site.layer, []).append(tuple(tensor.clone() for tensor in wanted))

    observe(running, corrupted_ids(task.prompts), keep)
    joined = {layer: tuple(torch.cat(parts) for parts in zip(*batches, strict=True)) for layer, batches in kept.items()}
    if mode == "resample":
        tables = {layer: z for layer, (z,) in joined.items()}
        return _Table(mode, tables, torch.arange(len(task.prompts)))
    return _Frozen(mode, joined)


def _static(running: Running, task: Task) -> Replacement:
    """Each head's mean attention by distance over the held-out prompts (the measured ones where there are none).

    Distance is all that it keeps, so a prompt's own part in the mean says nothing of the prompt's content.
    """
    sources = task.held_out or task.prompts
    sums: dict[int, Tensor] = {}

    def add(call: AttentionCall, _z: Tensor, _rows: slice) -> None:
        by_distance = observed(call, Request(bands=0))[1].by_distance.sum(0)
        sums[call.site.layer] = sums.get(call.site.layer, torch.zeros_like(by_distance)) + by_distance

    observe(running, clean_ids(sources), add)
    # A query at position p sees distances to p: divided by how many can see it, a profile is not tilted to the near.
    length = task.length
    seen = torch.arange(length, 0, -1).clamp(max=length - 1)
    profiles = {layer: total / seen.to(total) / len(sources) for layer, total in sums.items()}
    return _Static("static", profiles)
