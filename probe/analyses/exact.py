"""The exact way: remove each unit and run the model again, with what lies below the edit computed once.

Units of one layer run as one batch, a copy of the prompts for each. What enters the layer is the same for all of
them and comes from a clean run (`hooks.blocks`), so that an edit in layer l of L costs L − l blocks: over all
heads (L + 1) / 2L of the plain loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.analyses.replacement import Replacement
from probe.analyses.units import Head, Unit, set_unit
from probe.hooks.blocks import Prefix, record_prefix, resumed, same_start
from probe.hooks.edits import Edit, edit
from probe.running import Running
from probe.tasks.evaluate import logits_at, logits_decoded
from probe.tasks.metrics import measure
from probe.tasks.task import Prompt, Task, clean_ids, metric_positions, named_positions

BATCH_TOKENS = 1_536
"""Tokens that run together: on a CPU more is slower, for what passes between the layers then leaves the caches."""

DEVICE_BATCH_TOKENS = 1 << 16
"""The same on an accelerator, which wants large batches."""

LOGIT_BYTES = 1 << 28
"""Bytes of logits that are made at once."""

PREFIX_BYTES = 1 << 29
"""Bytes of residual stream to keep: where all of a task's prompts fit, what enters the blocks is computed once."""


@dataclass(frozen=True)
class Where:
    """Which positions and calls a removal touches.

    positions: None for all; a name of the task's (S2, END, …), resolved for every prompt; or positions as numbers.
    phase: prefill (what comes before the first judged position), decode (the rest, read past a cache) or both.
    """

    positions: str | tuple[int, ...] | None = None
    phase: str = "both"

    def of(self, prompts: Sequence[Prompt]) -> Int[Tensor, "n 1"] | tuple[int, ...] | None:
        """The positions, every prompt's own where they are named. Raises TokensError where one lacks the name."""
        if not isinstance(self.positions, str):
            return self.positions
        return named_positions(prompts, self.positions)


@dataclass
class ExactSweep:
    """Measures a task with units removed.

    given: heads that are removed in every run, the clean one included: a second pass, with a carrier gone.
    share_prefix: start every run at the edited layer (None: where that gives the same bits; see `shares`).
    """

    running: Running
    task: Task
    where: Where = field(default_factory=Where)
    given: tuple[Head, ...] = ()
    share_prefix: bool | None = None

    def __post_init__(self) -> None:
        self._kept: tuple[tuple[int, int], Prefix | None, Tensor] | None = None
        self._layers = [site.layer for site in self.running.sites]

    @property
    def shares(self) -> bool:
        """Whether runs start at the edited layer: where a forward started at any block gives the whole one's bits."""
        if self.share_prefix is None:
            able = not self.running.is_lens and self.where.phase == "both"
            self.share_prefix = able and same_start(self._model, lambda: self._logits(self.task.prompts[:1], 1))
        return self.share_prefix

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return max(self._layers) + 1

    def cost(self, unit: Unit) -> float:
        """Layer-forwards that removing a unit takes, over all prompts."""
        lowest = min([unit.layer, *(layer for layer, _ in self.given)])
        return self.depth - (lowest if self.shares else 0)

    def clean(self, rows: slice, replacement: Replacement | None = None) -> Float[np.ndarray, "n"]:
        """The task's metric of prompts[rows] with nothing but `given` removed, float64.

        replacement: what stands in the place of `given`; not asked for where there are none.
        """
        if self.given and replacement is not None:
            found = self._removed([set_unit("given", self.given)], replacement, rows)
            return np.asarray(found[0])
        values = [self._judged(self._clean_run(part)[1], part, 1) for part in self._chunks(rows, 1)]
        return np.asarray(np.concatenate(values, axis=1)[0])

    def ablated(self, units: Sequence[Unit], replacement: Replacement, rows: slice) -> Float[np.ndarray, "units n"]:
        """The metric of prompts[rows] with each unit (and `given`) removed, float64, units in the order given."""
        both = [Unit(unit.name, unit.kind, tuple(sorted({*unit.heads, *self.given}))) for unit in units]
        return self._removed(both, replacement, rows)

    def _removed(self, units: Sequence[Unit], replacement: Replacement, rows: slice) -> Float[np.ndarray, "units n"]:
        start = rows.indices(len(self.task.prompts))[0]
        count = len(self.task.prompts[rows])
        result = np.full((len(units), count), np.nan)
        by_layer: dict[int, list[int]] = {}
        for index, unit in enumerate(units):
            by_layer.setdefault(unit.layer if self.shares else 0, []).append(index)
        for part in self._chunks(rows, max(map(len, by_layer.values()), default=1)):
            columns = slice(part.start - start, part.stop - start)
            for layer, members in sorted(by_layer.items()):
                for batch in self._batches(members, part):
                    removed = [units[index] for index in batch]
                    result[batch, columns] = self._run(layer, removed, replacement, part)
        return result

    @property
    def _model(self) -> Any:
        return self.running.model

    def _logits(self, prompts: Sequence[Prompt], copies: int) -> Float[Tensor, "rows K V"]:
        ids, positions = clean_ids(prompts).repeat(copies, 1), metric_positions(prompts).repeat(copies, 1)
        run = logits_at if self.where.phase == "both" else logits_decoded
        return run(self._model, ids, positions)

    def _rows_at_once(self) -> int:
        """Rows that fit one run: by their tokens and by the logits that the metric reads."""
        tokens = BATCH_TOKENS if self.running.device.type == "cpu" else DEVICE_BATCH_TOKENS
        return max(1, min(tokens // self.task.length, LOGIT_BYTES // self._logit_bytes()))

    def _logit_bytes(self) -> int:
        """Of one row, in float32."""
        return len(self.task.prompts[0].metric_positions) * self.running.vocabulary * 4

    def _chunks(self, rows: slice, copies: int) -> Iterator[slice]:
        """Stretches of prompts for which `copies` of each fit one run, or as many prompts as fit where none does."""
        first, stop, _ = rows.indices(len(self.task.prompts))
        step = max(1, self._rows_at_once() // copies, min(self._rows_at_once(), 4))
        for start in range(first, stop, step):
            yield slice(start, min(start + step, stop))

    def _batches(self, members: Sequence[int], part: slice) -> Iterator[list[int]]:
        step = max(1, self._rows_at_once() // (part.stop - part.start))
        for start in range(0, len(members), step):
            yield list(members[start : start + step])

    def _clean_run(self, part: slice) -> tuple[Prefix | None, Tensor]:
        """What enters every block, and the logits, of a stretch of prompts, cut from what is kept."""
        kept = slice(0, len(self.task.prompts)) if self._fits else part
        if self._kept is None or self._kept[0] != (kept.start, kept.stop):
            prompts = self.task.prompts[kept]
            with torch.no_grad():
                if self.shares:
                    prefix, logits = record_prefix(self._model, lambda: self._logits(prompts, 1))
                else:
                    prefix, logits = None, self._logits(prompts, 1)
            self._kept = ((kept.start, kept.stop), prefix, logits)
        (first, _), prefix, logits = self._kept
        rows = slice(part.start - first, part.stop - first)
        if prefix is not None:
            prefix = Prefix(tuple(hidden[rows] for hidden in prefix.hidden), prefix.outputs)
        return prefix, logits[rows]

    @cached_property
    def _fits(self) -> bool:
        """Whether what enters the blocks can be kept for all prompts at once, and their logits with it."""
        weights = next(self._model.parameters())
        width = 0 if self.running.is_lens else int(self._model.config.get_text_config().hidden_size)
        stream = len(self.task.prompts) * self.task.length * self.depth * width * weights.element_size()
        logits = len(self.task.prompts) * self._logit_bytes()
        return stream <= PREFIX_BYTES and logits <= LOGIT_BYTES

    def _run(self, layer: int, units: Sequence[Unit], replacement: Replacement, part: slice) -> np.ndarray:
        """One batch: row u · n + p is prompt p with unit u removed."""
        prompts, copies = self.task.prompts[part], len(units)
        prefix = self._clean_run(part)[0] if self.shares else None
        edits = [one for u, unit in enumerate(units) for one in self._edits(u, unit, replacement, part)]
        start = (
            nullcontext() if prefix is None
            else resumed(self._model, prefix, layer, prefix.hidden[layer].repeat(copies, 1, 1))
        )  # fmt: skip
        with torch.no_grad(), start, edit(self._model, edits):
            logits = self._logits(prompts, copies)
        return self._judged(logits, part, copies)

    def _edits(self, copy: int, unit: Unit, replacement: Replacement, part: slice) -> Iterator[Edit]:
        prompts = self.task.prompts[part]
        rows = slice(copy * len(prompts), (copy + 1) * len(prompts))
        positions, phase = self.where.of(prompts), self.where.phase
        for layer in sorted({layer for layer, _ in unit.heads}):
            heads = tuple(head for head in unit.heads if head[0] == layer)
            yield Edit(heads, replacement.rule(layer, part), positions=positions, rows=rows, phase=phase)

    def _judged(self, logits: Float[Tensor, "rows K V"], part: slice, copies: int) -> Float[np.ndarray, "copies n"]:
        prompts = self.task.prompts[part]
        clean = None
        if self.task.metric == "neg_kl":
            clean = self._clean_run(part)[1].repeat(copies, 1, 1)
        values = measure(logits, list(prompts) * copies, self.task.metric, clean=clean)
        return values.double().cpu().numpy().reshape(copies, len(prompts))
