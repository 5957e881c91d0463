"""`with edit(model, [Edit(heads, rule)]):` heads that give something else than they would, and back again after.

An edit changes z, what a head gives to the output projection, of named heads, at named positions, in named rows
of the batch. Edits are applied in the order given, each to the z that the one before left. Other heads, rows and
positions keep their z to the bit, and with an empty list the model is not touched at all.

In families without sdpa attention (gemma2, gpt_oss) any instrumented run differs from the plain one by rounding:
compare an edited run with one whose edits change nothing, such as `Scale(1.0)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from . import attention, lens
from .call import AttentionCall, Site
from .edit_force import ForcePattern
from .edit_keys import KnockOut, SinkScale, SinkValueZero
from .edit_patterns import ByDistance, FrozenPattern, FrozenValues, Identity, SelfOnly, Uniform
from .edit_rules import MeanSelf, Replace, Scale, Zero
from .errors import HookError
from .heads import Head, all_heads, by_layer, head_sites, kv_group, whole_layer
from .part import Part, Rule, as_index
from .positions import Positions, checked, marked

__all__ = [
    "ByDistance",
    "Edit",
    "ForcePattern",
    "FrozenPattern",
    "FrozenValues",
    "Head",
    "Identity",
    "KnockOut",
    "MeanSelf",
    "Part",
    "Positions",
    "Replace",
    "Rule",
    "Scale",
    "SelfOnly",
    "SinkScale",
    "SinkValueZero",
    "Uniform",
    "Zero",
    "all_heads",
    "edit",
    "kv_group",
    "whole_layer",
]

PHASES = ("prefill", "decode", "both")


@dataclass(frozen=True, eq=False)
class Edit:
    """What to do to which heads, where.

    heads: (layer, head) pairs of the main stack's self-attention; the rule is called once a layer.
    positions: query positions in the sequence, counted from its first token, padding included; a tensor gives
        other ones to each row of the edit; None: all. A position that is not in a call is not edited there.
    rows: rows of the batch; None: all.
    phase: "prefill" (calls that begin a sequence), "decode" (calls past a cache, whatever their length), "both".
    Raises HookError for an unknown phase, and for positions and rows that no call could have.
    """

    heads: tuple[Head, ...]
    rule: Rule
    positions: Positions | None = None
    rows: slice | None = None
    phase: str = "both"

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise HookError(f"phase {self.phase!r}; wanted one of {', '.join(PHASES)}")
        if self.rows is not None and self.rows.step is not None and self.rows.step < 1:
            raise HookError(f"rows {self.rows}; wanted a slice with a positive step")
        if self.positions is not None:
            checked(self.positions, "positions")


@contextmanager
def edit(model: nn.Module, edits: Sequence[Edit]) -> Iterator[None]:
    """Edit heads of a transformers or TransformerLens model in every forward inside; undone at the end.

    Raises HookError at once for layers and heads that the model does not have; at a call for rows that the batch
    does not have and for a rule that returns another shape or dtype than z's; and at the end, if no error is on
    its way, for an edited layer that never ran, and for a position that no prompt reached and no decoding followed.
    """
    plans: dict[Site, list[_Plan]] = {}
    known = head_sites(model) if edits else {}
    for one in edits:
        for site, heads in by_layer(known, one.heads).items():
            plans.setdefault(site, []).append(_Plan(one, site.layer, torch.tensor(heads)))
    if not plans:
        yield
        return

    def handle(call: AttentionCall) -> Tensor:
        z = call.attend()
        # Without a graph `attend` gives the inner result itself, which another handler may have kept.
        z = z.clone() if call.inner is not None and not z.requires_grad else z
        for plan in plans[call.site]:
            plan.apply(call, z)
        return z

    start: Any = lens.instrument if lens.is_lens_model(model) else attention.instrument
    with start(model, handle, sites=plans.__contains__):
        yield
    for site in plans:
        for plan in plans[site]:
            plan.check_reached(site)


@dataclass
class _Plan:
    """One edit in one layer, and how far the calls that it saw reached."""

    edit: Edit
    layer: int
    heads: Int[Tensor, "h"]
    reached: int = field(default=0)
    decoded: bool = field(default=False)

    def apply(self, call: AttentionCall, z: Tensor) -> None:
        """Write the rule's z into the layer's, in place, where the edit says so."""
        decoding = call.start > 0
        self.reached = max(self.reached, call.start + call.q.shape[2])
        self.decoded = self.decoded or decoding
        if self.edit.phase == ("prefill" if decoding else "decode"):
            return
        rows = self._rows(z.shape[0])
        part = Part(call, z, rows, self.heads, self.layer)
        where = self._where(part)
        if where is not None and not bool(where.any()):
            return
        given = self.edit.rule(part)
        if not isinstance(given, Tensor) or given.shape != part.shape or given.dtype != z.dtype:
            got = f"{tuple(given.shape)} {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
            raise HookError(
                f"layer {self.layer}: {type(self.edit.rule).__name__} returned {got}; "
                f"wanted z of {part.shape} {z.dtype}"
            )
        if where is not None:
            given = torch.where(where[:, None, :, None], given, part.z)
        z[rows][:, as_index(self.heads)] = given

    def _rows(self, batch: int) -> slice:
        rows = slice(None) if self.edit.rows is None else self.edit.rows
        first, stop, step = rows.indices(batch)
        beyond = rows.stop is not None and rows.stop > batch
        if beyond or not len(range(first, stop, step)):
            raise HookError(f"layer {self.layer}: an edit of rows {rows} in a batch of {batch}")
        return slice(first, stop, step)

    def _where(self, part: Part) -> Bool[Tensor, "b T"] | None:
        """Which of the call's queries are edited, row by row; None: all."""
        if self.edit.positions is None:
            return None
        positions = checked(self.edit.positions, "positions").to(part.current.device)
        batch, _, queries, _ = part.shape
        if len(positions) not in (1, batch):
            raise HookError(f"layer {self.layer}: positions for {len(positions)} rows in an edit of {batch}")
        if self.edit.phase == "prefill" and int(positions.max()) >= queries:
            raise HookError(f"layer {self.layer}: position {int(positions.max())} in a prompt of {queries} tokens")
        return marked(positions, part.start, queries)

    def check_reached(self, site: Site) -> None:
        """Raises HookError for a layer that never ran, or a position that was never there."""
        if not self.reached:
            raise HookError(f"{site.name}: never ran while its heads were edited; was the model run?")
        last = self.last_position()
        if last >= self.reached and not self.decoded and self.edit.phase != "decode":
            raise HookError(f"{site.name}: position {last} is named, and no prompt was longer than {self.reached}")

    def last_position(self) -> int:
        """The furthest position that the edit or its rule names; -1 where neither names one."""
        own = -1 if self.edit.positions is None else int(checked(self.edit.positions, "positions").max())
        rule = self.edit.rule
        return max(own, rule.last_position) if isinstance(rule, KnockOut | ForcePattern) else own
