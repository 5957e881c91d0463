"""Means of z over a task's prompts: by place, over all places, by token.

They come from the task's held-out prompts; where it has none, from the other measured prompts (leave-one-out).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import TokensError
from probe.hooks.attention import AttentionCall
from probe.running import Running
from probe.tasks.task import Prompt, Task, clean_ids, corrupted_ids

BATCH_TOKENS = 8_192

MEANS = ("mean", "mean_all", "mean_corrupted", "mean_token")


@dataclass(frozen=True)
class Means:
    """What stands at every place: `tables[layer]` [groups, H, T or 1, Dv] in the model's dtype, and the group of
    every measured prompt.
    """

    tables: dict[int, Float[Tensor, "groups H #T Dv"]]
    group: Int[Tensor, "N"]


def means_of(running: Running, task: Task, mode: str) -> Means:
    """The means of a mode of METRICS, Studies, from one run over the prompts that they are taken from.

    Where METRICS is silent: `mean_token` at a token that those prompts do not show is `mean_all`; `means_note` says
    how often. Raises TokensError where a mean would be over no other prompt.
    """
    sources, held_out = _sources(task, mode)
    ids = corrupted_ids(sources) if mode == "mean_corrupted" else clean_ids(sources)
    if mode == "mean_token":
        return _by_token(running, task, ids, held_out)
    labels, groups = _groups(task, sources, mode)
    sums = _Sums(labels, len(groups), everywhere=mode == "mean_all", own=not held_out)
    observe(running, ids, sums.add)
    if held_out:
        where = torch.tensor([groups[_label(prompt, mode)] for prompt in task.prompts])
        return Means(sums.means(), where)
    return Means(sums.leave_one_out(), torch.arange(len(task.prompts)))


def means_note(task: Task, mode: str) -> str:
    """Where a mode's means come from, in words; nothing is run. Raises TokensError as `means_of` does."""
    sources, held_out = _sources(task, mode)
    whence = "held-out prompts" if held_out else "measured prompts, each left out of its own"
    note = f"{mode}: over {len(sources)} {whence}"
    if mode == "mean_token":
        _, _, _, left = _tokens(clean_ids(sources), clean_ids(task.prompts), own=not held_out)
        unseen = float((left == 0).double().mean())
        return f"{note}; {unseen:.0%} of the places hold a token that those do not show: mean_all there"
    count = len(_groups(task, sources, mode)[1])
    return f"{note}, {count} template{'s' if count > 1 else ''}"


def observe(running: Running, ids: Int[Tensor, "N T"], see: Callable[[AttentionCall, Tensor, slice], None]) -> None:
    """Run prompts in batches without a graph; `see` gets every call of the main stack, its z, and which rows."""
    step = max(1, BATCH_TOKENS // ids.shape[1])
    for start in range(0, len(ids), step):
        rows = slice(start, min(start + step, len(ids)))

        def note(call: AttentionCall, rows: slice = rows) -> Tensor:
            z = call.attend()
            see(call, z, rows)
            return z

        with running.instrument(note):
            running.forward(ids[rows])


def _sources(task: Task, mode: str) -> tuple[tuple[Prompt, ...], bool]:
    """The prompts that means are taken from, and whether they are others than those measured."""
    if task.held_out:
        measured = {_label(prompt, mode) for prompt in task.prompts}
        missing = sorted(measured - {_label(prompt, mode) for prompt in task.held_out})
        if not missing:
            return task.held_out, True
        raise TokensError(
            f"task {task.name}: no held-out prompt of template {missing[0]!r} to take a mean from; "
            "ask for more prompts, or for mode mean_all"
        )
    return task.prompts, False


def _label(prompt: Prompt, mode: str) -> str:
    return "" if mode in ("mean_all", "mean_token") else prompt.template


def _groups(task: Task, sources: Sequence[Prompt], mode: str) -> tuple[Int[Tensor, "M"], dict[str, int]]:
    groups = {label: index for index, label in enumerate(dict.fromkeys(_label(prompt, mode) for prompt in sources))}
    labels = torch.tensor([groups[_label(prompt, mode)] for prompt in sources])
    if sources is task.prompts:
        alone = [name for name, index in groups.items() if int((labels == index).sum()) < 2]
        if alone:
            raise TokensError(
                f"task {task.name}: one prompt alone {f'of template {alone[0]!r} ' if alone[0] else ''}leaves no "
                "other to take a mean over; ask for more prompts, or for mode mean_self or zero"
            )
    return labels, groups


@dataclass
class _Sums:
    """Sums of z by group (float64), and each prompt's own share where it will have to be left out.

    everywhere: over positions ≥ 1 together, else position by position.
    """

    labels: Int[Tensor, "M"]
    groups: int
    everywhere: bool
    own: bool

    def __post_init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._own: dict[int, list[Tensor]] = {}
        self._places = 1
        self._dtype = torch.float32

    def add(self, call: AttentionCall, z: Float[Tensor, "b H T Dv"], rows: slice) -> None:
        layer, self._dtype = call.site.layer, z.dtype
        self._places = z.shape[2] - 1 if self.everywhere else 1
        value = z[:, :, 1:].double().sum(2, keepdim=True) if self.everywhere else z.double()
        total = self._sums.setdefault(layer, value.new_zeros(self.groups, *value.shape[1:]))
        total.index_add_(0, self.labels[rows].to(z.device), value)
        if self.own:
            self._own.setdefault(layer, []).append(value)

    def _counts(self, like: Tensor) -> Float[Tensor, "groups 1 1 1"]:
        return torch.bincount(self.labels, minlength=self.groups).to(like)[:, None, None, None] * self._places

    def means(self) -> dict[int, Float[Tensor, "groups H T Dv"]]:
        """Per layer, the mean of every group, in the model's dtype."""
        return {layer: (total / self._counts(total)).to(self._dtype) for layer, total in self._sums.items()}

    def leave_one_out(self) -> dict[int, Float[Tensor, "M H T Dv"]]:
        """Per layer, the mean of every prompt's group without that prompt, in the model's dtype."""
        result = {}
        for layer, total in self._sums.items():
            own = torch.cat(self._own.pop(layer))
            labels = self.labels.to(own.device)
            others = total[labels] - own
            result[layer] = (others / (self._counts(total)[labels] - self._places)).to(self._dtype)
        return result


def _by_token(running: Running, task: Task, ids: Int[Tensor, "M T"], held_out: bool) -> Means:
    """The mean of z over all places ≥ 1 of the sources that hold the same token.

    A token that the sources do not show (leaving the prompt itself out) has the mean over all places ≥ 1.
    """
    wanted = clean_ids(task.prompts)
    own = not held_out
    source, target, counts, left = _tokens(ids, wanted, own=own)
    size = len(counts)
    sums: dict[int, Tensor] = {}
    dtypes: dict[int, torch.dtype] = {}
    mine: dict[int, list[Tensor]] = {}

    def add(call: AttentionCall, z: Tensor, rows: slice) -> None:
        dtypes[call.site.layer] = z.dtype
        later = z[:, :, 1:].transpose(1, 2).double()
        total = sums.setdefault(call.site.layer, later.new_zeros(size, *later.shape[2:]))
        total.index_add_(0, source[rows, 1:].flatten().to(z.device), later.flatten(0, 1))
        if own:
            mine.setdefault(call.site.layer, []).append(z.clone())

    observe(running, ids, add)
    tables = {}
    for layer, total in sums.items():
        place = target.to(total.device)
        value, everything = total[place], total.sum(0).expand(len(wanted), 1, *total.shape[1:])
        number: Any = counts.sum()
        if own:
            z = torch.cat(mine.pop(layer)).double().transpose(1, 2)
            same = (target[:, :, None] == target[:, None, 1:]).to(z)
            value = value - torch.einsum("nts,nshd->nthd", same, z[:, 1:])
            everything = everything - z[:, 1:].sum(1, keepdim=True)
            number = number - (target.shape[1] - 1)
        seen = left.to(total.device)[:, :, None, None]
        mean = torch.where(seen > 0, value / seen.clamp(min=1), everything / number)
        tables[layer] = mean.transpose(1, 2).to(dtypes[layer])
    return Means(tables, torch.arange(len(wanted)))


def _tokens(
    ids: Int[Tensor, "M T"], wanted: Int[Tensor, "N T"], *, own: bool
) -> tuple[Int[Tensor, "M T"], Int[Tensor, "N T"], Int[Tensor, "tokens"], Int[Tensor, "N T"]]:
    """Source and wanted ids numbered alike; how often each token stands at places ≥ 1 of the sources; and for every
    wanted place how often its token does, the prompt itself left out where the sources are its `own`.
    """
    tokens, index = torch.unique(torch.cat([ids, wanted]), return_inverse=True)
    source, target = index[: len(ids)], index[len(ids) :]
    counts = torch.bincount(source[:, 1:].flatten(), minlength=len(tokens))
    mine = (target[:, :, None] == target[:, None, 1:]).sum(-1) if own else 0
    return source, target, counts, counts[target] - mine
