"""The runs of path patching: heads held at what they gave in a clean run, one of them at what it gave in another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from probe.analyses.exact import Where
from probe.circuits.graph import LOGITS as LOGITS
from probe.circuits.graph import head_of
from probe.hooks.attention import AttentionCall
from probe.hooks.blocks import Prefix, record_prefix, resumed, same_start
from probe.hooks.edits import Edit, Part, edit
from probe.hooks.positions import checked, marked
from probe.running import Running
from probe.tasks.evaluate import logits_at
from probe.tasks.metrics import measure
from probe.tasks.task import Prompt, clean_ids, corrupted_ids, metric_positions


@dataclass(frozen=True)
class Receivers:
    """Ports by layer and head: {layer: {head: "qkv" letters}}; empty: the logits."""

    ports: dict[int, dict[int, str]]

    @classmethod
    def of(cls, targets: Sequence[str]) -> Receivers:
        """From names of ports, or from `logits` alone."""
        ports: dict[int, dict[int, str]] = {}
        for name in targets:
            head = head_of(name)
            if head is not None:
                own = ports.setdefault(head[0], {})
                own[head[1]] = own.get(head[1], "") + name[-2]
        return cls(ports)

    def above(self, layer: int) -> dict[int, dict[int, str]]:
        """Those that a sender of that layer comes before."""
        return {own: heads for own, heads in self.ports.items() if own > layer}


@dataclass(frozen=True, eq=False)
class Runs:
    """Some prompts and their twins, run. z, other: by layer, [n, H, T, Dv] of the clean and the corrupted run. mlp:
    what each MLP gave in the clean run, where it will be held. clean, corrupted: [n] the metric.
    """

    prompts: Sequence[Prompt]
    prefix: Prefix | None
    z: dict[int, Float[Tensor, "n H T Dv"]]
    other: dict[int, Float[Tensor, "n H T Dv"]]
    mlp: dict[int, Tensor]
    clean: Float[np.ndarray, "n"]
    corrupted: Float[np.ndarray, "n"]


class _Enough(Exception):
    """All receivers have been read: the rest of the forward is not needed."""


@dataclass(frozen=True)
class _Reading:
    """A rule: the head attends with q, k or v as recorded, the rest as the run has it; [b, 1, T, D*] each."""

    recorded: dict[str, Tensor]

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        changes: dict[str, Any] = self.recorded
        return replace(part.call, **changes).attend()


@dataclass
class HeldRuns:
    """Runs in which other heads (and MLPs, where their modules are given) keep what they gave in the clean run.

    where: at which positions a sender is patched. hold: where heads are held: "everywhere", "position" or "nothing".
    """

    running: Running
    metric: str
    where: Where
    hold: str
    mlps: Sequence[nn.Module] | None
    _shares: bool | None = field(default=None, init=False)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return max(site.layer for site in self.running.sites) + 1

    def cost(self, layer: int, asked: Receivers) -> float:
        """Layer-forwards that one sender of that layer takes, over all prompts."""
        above = asked.above(layer)
        if asked.ports and not above:
            return 0
        low = max(layer, 0) if self._shares else 0
        if not above:
            return self.depth - low
        # The second run ends before the highest receiver's MLP: counted as a whole block.
        return max(above) + 1 - low + self.depth - (min(above) if self._shares else 0)

    def read(self, prompts: Sequence[Prompt]) -> Runs:
        """Step 1: the prompts and their twins."""
        ids = clean_ids(prompts)
        model: Any = self.running.model
        if self._shares is None:
            first = list(prompts[:1])
            self._shares = not self.running.is_lens and same_start(model, lambda: self._logits(ids[:1], first))
        z: dict[int, Tensor] = {}
        other: dict[int, Tensor] = {}
        mlp: dict[int, Tensor] = {}
        prefix = None
        with torch.no_grad(), self.running.instrument(_keeping(z)), _watching(self.mlps or (), mlp):
            if self._shares:
                prefix, logits = record_prefix(model, lambda: self._logits(ids, prompts))
            else:
                logits = self._logits(ids, prompts)
        with torch.no_grad(), self.running.instrument(_keeping(other)):
            twins = self._logits(corrupted_ids(prompts), prompts)
        return Runs(prompts, prefix, z, other, mlp, self._judged(logits, prompts, 1)[0],
                    self._judged(twins, prompts, 1)[0])  # fmt: skip

    def patched(self, runs: Runs, layer: int, heads: Sequence[int], asked: Receivers) -> Float[np.ndarray, "senders n"]:
        """Steps 2 and 3 for the heads of a layer, or for the embedding (layer -1, no heads)."""
        copies = max(1, len(heads))
        above = asked.above(layer)
        if asked.ports and not above:
            return np.tile(runs.clean, (copies, 1))
        recorded: dict[int, AttentionCall] = {}
        sent = self._sent(runs, layer, heads, max(above, default=None), recorded)
        logits = self._received(runs, copies, above, recorded) if sent is None else sent
        return self._judged(logits, runs.prompts, copies)

    def _sent(
        self, runs: Runs, layer: int, heads: Sequence[int], last: int | None, recorded: dict[int, AttentionCall]
    ) -> Tensor | None:
        """Step 2: the logits, or None where the run ends at the last receiver's layer."""
        copies, length = max(1, len(heads)), len(runs.prompts[0].clean_ids)
        patch = self._places(runs.prompts, length).to(self.running.device)
        held = torch.full_like(patch, self.hold == "everywhere") | (patch & (self.hold == "position"))

        def handler(call: AttentionCall) -> Tensor:
            here = call.site.layer
            if here > layer:
                recorded[here] = call
            if here == last:
                raise _Enough
            if here < layer:
                return call.attend()
            z = runs.z[here].repeat(copies, 1, 1, 1)
            if not bool(held.all()):
                z = torch.where(held.repeat(copies, 1)[:, None, :, None], z, call.attend())
            if here == layer:
                for copy, head in enumerate(heads):
                    rows = slice(copy * len(runs.prompts), (copy + 1) * len(runs.prompts))
                    z[rows, head] = torch.where(patch[:, :, None], runs.other[here][:, head], z[rows, head])
            return z

        ids = clean_ids(runs.prompts)
        if layer < 0:
            ids = torch.where(patch.cpu(), corrupted_ids(runs.prompts), ids)
        with ExitStack() as stack:
            for context in (torch.no_grad(), self._started(runs, layer, copies), self.running.instrument(handler)):
                stack.enter_context(context)
            for number, module in enumerate(self.mlps or ()):
                if number >= layer:
                    stack.callback(module.register_forward_hook(_holding(runs.mlp[number], held, copies)).remove)
            with suppress(_Enough):
                return self._logits(ids.repeat(copies, 1), runs.prompts)
        return None

    def _received(
        self, runs: Runs, copies: int, above: dict[int, dict[int, str]], recorded: dict[int, AttentionCall]
    ) -> Tensor:
        """Step 3: the logits where the receivers read what was recorded."""
        edits = [
            Edit(((layer, head),), _Reading({port: _of_head(recorded[layer], port, head) for port in ports}))
            for layer, heads in above.items()
            for head, ports in heads.items()
        ]
        with torch.no_grad(), self._started(runs, min(above), copies), edit(self.running.model, edits):
            return self._logits(clean_ids(runs.prompts).repeat(copies, 1), runs.prompts)

    def _started(self, runs: Runs, layer: int, copies: int) -> Any:
        """Forwards begin at the layer, where they can."""
        if runs.prefix is None or layer < 0:
            return nullcontext()
        model: Any = self.running.model
        return resumed(model, runs.prefix, layer, runs.prefix.hidden[layer].repeat(copies, 1, 1))

    def _places(self, prompts: Sequence[Prompt], length: int) -> Bool[Tensor, "n T"]:
        positions = self.where.of(prompts)
        if positions is None:
            return torch.ones(len(prompts), length, dtype=torch.bool)
        return marked(checked(positions, "position"), 0, length).expand(len(prompts), -1)

    def _logits(self, ids: Int[Tensor, "rows T"], prompts: Sequence[Prompt]) -> Float[Tensor, "rows K V"]:
        return logits_at(self.running.model, ids, metric_positions(prompts).repeat(len(ids) // len(prompts), 1))

    def _judged(self, logits: Float[Tensor, "rows K V"], prompts: Sequence[Prompt], copies: int) -> np.ndarray:
        values = measure(logits, list(prompts) * copies, self.metric)
        return values.double().cpu().numpy().reshape(copies, len(prompts))


def _keeping(kept: dict[int, Tensor]) -> Any:
    def handler(call: AttentionCall) -> Tensor:
        z = call.attend()
        kept[call.site.layer] = z.clone()
        return z

    return handler


@contextmanager
def _watching(modules: Sequence[nn.Module], kept: dict[int, Tensor]) -> Iterator[None]:
    """Keeps what each module gives."""
    with ExitStack() as stack:
        for number, module in enumerate(modules):

            def note(_module: nn.Module, _args: object, output: Any, number: int = number) -> None:
                kept[number] = output[0] if isinstance(output, tuple) else output

            stack.callback(module.register_forward_hook(note).remove)
        yield


def _holding(clean: Tensor, held: Bool[Tensor, "n T"], copies: int) -> Any:
    """A hook that puts the clean output where it is held; the output's first axes are [n, T], or joined."""

    def hook(_module: nn.Module, _args: object, output: Any) -> Any:
        live = output[0] if isinstance(output, tuple) else output
        wide = clean.reshape(*held.shape, -1).repeat(copies, 1, 1)
        kept = torch.where(held.repeat(copies, 1)[:, :, None], wide, live.reshape(wide.shape)).reshape(live.shape)
        return (kept, *output[1:]) if isinstance(output, tuple) else kept

    return hook


def _of_head(call: AttentionCall, port: str, head: int) -> Tensor:
    """q of a query head, or k or v that it reads, [B, 1, T, D]."""
    tensor: Tensor = getattr(call, port)
    own = head // (call.q.shape[1] // tensor.shape[1])
    return tensor[:, own : own + 1]
