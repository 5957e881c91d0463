"""How a task's metric answers to every head's output: z and d metric / d z at every attention call, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.errors import TokensError
from probe.hooks.attention import AttentionCall
from probe.hooks.edits import Part
from probe.running import Running
from probe.tasks.evaluate import logits_at
from probe.tasks.metrics import measure
from probe.tasks.task import Prompt, Task, metric_positions

Positions = Sequence[int] | Int[Tensor, "rows n"] | None
"""Query positions that count: the same ones in every prompt, other ones in each, or (None) all of them."""

Judge = Callable[[Float[Tensor, "n K V"]], Float[Tensor, "n"]]
"""One number a prompt from its logits at the judged positions."""

Embedded = Callable[[Float[Tensor, "n T d_model"]], Tensor]
"""Takes the token embeddings of a run, returns those that it goes on with."""


def unchanged(embeddings: Float[Tensor, "n T d_model"]) -> Float[Tensor, "n T d_model"]:
    """The embeddings as they are."""
    return embeddings


@dataclass(frozen=True)
class Node:
    """One attention call of a run, out of the graph: its inputs, its output z, and d (summed metric) / d z."""

    call: AttentionCall
    z: Float[Tensor, "n H T Dv"]
    grad: Float[Tensor, "n H T Dv"]

    def part(self) -> Part:
        """The call as an edit of all of its heads would see it."""
        heads = torch.arange(self.call.q.shape[1], device=self.call.q.device)
        return Part(self.call, self.z, slice(None), heads, self.call.site.layer)

    def through(self, path: str, other: Node) -> Float[Tensor, "n H T Dv"]:
        """z with the other call's "q", "k" or "v" in place of this one's, the softmax recomputed."""
        call = replace(self.call)
        setattr(call, path, getattr(other.call, path))
        return call.attend()

    def project(self, other: Float[Tensor, "#n H #T Dv"], counted: Bool[Tensor, "n T"]) -> Float[np.ndarray, "n H"]:
        """<d metric / d z, z − other> of each prompt and head, summed over the counted positions in float64."""
        per_position = (self.grad.double() * (self.z.double() - other.double())).sum(-1)
        total: np.ndarray = (per_position * counted[:, None]).sum(-1).cpu().numpy()
        return total


def head_gradients(
    running: Running,
    ids: Int[Tensor, "n T"],
    positions: Int[Tensor, "n K"],
    judge: Judge,
    embedded: Embedded = unchanged,
) -> tuple[Float[np.ndarray, "n"], list[Node]]:
    """One forward and one backward: the metric of every prompt, float64, and a node for every attention call.

    z of prompt n takes part in the metric of prompt n alone, so that the gradient of the sum over prompts holds
    each prompt's own. The gradient is that of a zero added to z: parameters take no part, whatever their
    `requires_grad`, and no `.grad` is written. embedded: what the token embeddings become first. Memory: the
    graph of one forward over these prompts.
    """
    held: list[tuple[AttentionCall, Tensor, Tensor]] = []

    def handler(call: AttentionCall) -> Tensor:
        z = call.attend()
        leaf = torch.zeros_like(z, requires_grad=True)
        held.append((_detached(call), z.detach(), leaf))
        return z + leaf

    with torch.enable_grad(), running.instrument(handler), _embedding(running, embedded):
        values = judge(logits_at(running.model, ids, positions))
        grads = torch.autograd.grad(values.sum(), [leaf for _, _, leaf in held])
    nodes = [Node(call, z, grad) for (call, z, _), grad in zip(held, grads, strict=True)]
    return values.detach().double().cpu().numpy(), nodes


def plain_run(
    running: Running, ids: Int[Tensor, "n T"], positions: Int[Tensor, "n K"], embedded: Embedded = unchanged
) -> tuple[Float[Tensor, "n K V"], list[Node]]:
    """Logits and attention calls of a forward outside any graph; the nodes' gradients are 0."""
    held: list[Node] = []

    def handler(call: AttentionCall) -> Tensor:
        z = call.attend()
        held.append(Node(_detached(call), z, torch.zeros_like(z)))
        return z

    with torch.no_grad(), running.instrument(handler), _embedding(running, embedded):
        logits = logits_at(running.model, ids, positions)
    return logits, held


def judge_of(task: Task, prompts: Sequence[Prompt], clean: Float[Tensor, "n K V"] | None = None) -> Judge:
    """The task's metric on these prompts, as a function of their logits."""

    def judge(logits: Float[Tensor, "n K V"]) -> Float[Tensor, "n"]:
        return measure(logits, prompts, task.metric, clean=clean)

    return judge


def judged_positions(prompts: Sequence[Prompt]) -> Int[Tensor, "n K"]:
    """Where the prompts are judged; raises TokensError for no prompts."""
    if not prompts:
        raise TokensError("gradients of no prompts; wanted at least one")
    return metric_positions(prompts)


def check_gradient(task: Task, method: str, *, at_clean: bool) -> None:
    """Refuse by name a metric without a useful gradient: TokensError.

    at_clean: whether the gradient is taken at the clean run alone, where that of neg_kl is 0 by definition.
    """
    if task.metric == "accuracy":
        raise TokensError(f"task {task.name}: accuracy has no gradient, so {method} says nothing; use exact")
    if task.metric == "neg_kl" and at_clean:
        raise TokensError(
            f"task {task.name}: the gradient of neg_kl is 0 at the clean run, so {method} says nothing; "
            "use integrated or exact"
        )


def counted(positions: Positions, rows: int, length: int) -> Bool[Tensor, "rows T"]:
    """Which query positions count in which prompt. Raises TokensError for positions outside the prompts."""
    mask = torch.zeros(rows, length, dtype=torch.bool)
    if positions is None:
        return ~mask
    index = torch.as_tensor(positions)
    if index.ndim == 1:
        index = index.expand(rows, -1)
    if index.ndim != 2 or len(index) != rows or index.numel() == 0:
        raise TokensError(f"positions of shape {tuple(index.shape)} for {rows} prompts; wanted [n] or [{rows}, n]")
    if not bool(((index >= 0) & (index < length)).all()):
        raise TokensError(f"positions {int(index.min())} to {int(index.max())}; wanted 0 to {length - 1}")
    return mask.scatter(1, index, True)


@contextmanager
def _embedding(running: Running, change: Embedded) -> Iterator[None]:
    """Send what the token embedding gives through `change`; undone at the end."""
    model: Any = running.model
    module = model.get_submodule("hook_embed") if running.is_lens else model.get_input_embeddings()
    handle = module.register_forward_hook(lambda _module, _inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def _detached(call: AttentionCall) -> AttentionCall:
    return replace(call, q=call.q.detach(), k=call.k.detach(), v=call.v.detach(), inner=None, asked=False)
