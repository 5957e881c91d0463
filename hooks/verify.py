"""Prove a model's hook points before its numbers are believed.

One forward of a dozen random tokens, in a batch whose rows differ only in what is done to them: rows 0 and 1
are left alone, and every further row has the odd heads of one attention site zeroed. From it, for every site:

1. it fired, with the head counts that the config states;
2. dense float64 attention of the captured q, k, v, under the rule that the kernels would be given, equals
   what entered the output projection; or, in gated families, zeroed heads enter it as zeros and others
   unchanged;
3. that, through W_O head by head plus the bias, equals what the projection and the module gave;
4. zeroing those heads moved the model's output.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attention import instrument
from .bounds import output_bound, z_bound
from .call import AttentionCall, Site
from .dense import pattern_rows
from .errors import HookError
from .mask import MaskRule
from .sample import random_inputs
from .spec import head_count, output_projection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Verified:
    """What was proved: `sites` names each site's proof, `error` the largest deviation of z over its bound."""

    model: str
    sites: dict[str, str]
    error: float


@dataclass
class _Seen:
    """What one site showed in the forward."""

    z: Tensor
    bound: float
    heads_in: Tensor | None = None
    projected: Tensor | None = None
    output: Tensor | None = None


def verify(
    model: PreTrainedModel,
    *,
    inputs: dict[str, Tensor] | None = None,
    layers: Collection[int] | None = None,
    sites: Callable[[Site], bool] | None = None,
    seed: int = 0,
) -> Verified:
    """Prove every chosen site of a model in evaluation mode, or raise HookError naming those that cannot be.

    inputs: one row of the model's inputs (None: random ones of 12 tokens, see `sample`).
    """
    if model.training:
        raise HookError(f"{type(model).__name__} is in training mode, where dropout hides errors; call .eval()")
    row = random_inputs(model, seed=seed) if inputs is None else inputs
    trial = _Trial(model)
    try:
        with torch.no_grad(), instrument(model, trial.handle, layers=layers, sites=sites) as studied:
            trial.watch(studied)
            batch = {name: tensor.repeat(2 + len(studied), *[1] * (tensor.ndim - 1)) for name, tensor in row.items()}
            outputs = model(**batch)
    finally:
        trial.remove()
    moved = _moved(outputs, 2 + len(studied))
    proofs, failures = {}, []
    for place, site in enumerate(studied):
        proof, failure = trial.judge(site, 2 + place)
        if failure is None and not moved[2 + place]:
            failure = "zeroing heads did not move the output"
        proofs[site.name] = proof
        if failure is not None:
            failures.append(f"{site.name} ({failure})")
    if failures:
        raise HookError(
            f"{type(model).__name__}: {len(failures)} of {len(studied)} attention sites cannot be proved: "
            + "; ".join(failures[:4])
        )
    return Verified(type(model).__name__, proofs, trial.worst)


class _Trial:
    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.worst = 0.0
        self._seen: dict[Site, _Seen] = {}
        self._rows: dict[Site, int] = {}
        self._weights: dict[Site, tuple[nn.Module, Tensor]] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def watch(self, studied: list[Site]) -> None:
        """Follow each site's projection and module."""
        for place, site in enumerate(studied):
            self._rows[site] = 2 + place
            projection, weight = output_projection(self.model, site)
            self._weights[site] = projection, weight
            self._handles.append(projection.register_forward_hook(self._keep_projection(site)))
            self._handles.append(self.model.get_submodule(site.name).register_forward_hook(self._keep_output(site)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def handle(self, call: AttentionCall) -> Tensor:
        """Recompute the call in float64, and zero the odd heads in the site's own row."""
        columns = call.k.shape[2]
        visible = rule_block(call.rule(), call.q.shape[2], columns, call.q.device)
        weights = pattern_rows(_widened(call), visible=visible)
        groups = call.k.shape[1]
        grouped = weights.view(weights.shape[0], groups, -1, *weights.shape[2:])
        z64 = (grouped @ call.v.double()[:, :, None]).flatten(1, 2)
        z = call.attend()
        odd = slice(1, None, 2) if z.shape[1] > 1 else slice(None)
        z[self._rows[call.site], odd] = 0
        self._seen[call.site] = _Seen(z64.transpose(1, 2), z_bound(call))
        return z

    def judge(self, site: Site, row: int) -> tuple[str, str | None]:
        """(the proof, None) or ("", why not)."""
        seen = self._seen.get(site)
        if seen is None or seen.heads_in is None or seen.projected is None:
            return "", "never fired"
        projection, weight = self._weights[site]
        heads, width = seen.z.shape[2:]
        stated = head_count(self.model, site)
        if stated != heads or tuple(weight.shape[:2]) != (heads, width):
            return "", f"{heads} heads of {width} at the call, {stated} stated, W_O {tuple(weight.shape)}"
        entered = seen.heads_in.reshape(seen.z.shape).double()
        deviation = float((entered[0] - seen.z[0]).abs().max()) / seen.bound
        bound, how = seen.bound, "float64 attention through W_O"
        if deviation <= 1:
            self.worst = max(self.worst, deviation)
        else:
            odd = slice(1, None, 2) if heads > 1 else slice(None)
            clean, zeroed = entered[0].clone(), entered[row]
            clean[:, odd] = 0
            if not torch.allclose(zeroed, clean, rtol=1e-4, atol=seen.bound):
                return "", f"recomputed attention is off by {deviation:.3g} times its error bound"
            bound, how = 0.0, "gated heads through W_O"
        flat = weight.double().flatten(0, 1)
        bias = getattr(projection, "bias", None)
        wanted = entered[0].flatten(-2) @ flat + (0 if bias is None else bias.double())
        given = seen.projected.reshape(*seen.z.shape[:2], -1)[0]
        limit = output_bound(entered[0].flatten(-2), flat, bias, bound, seen.projected.dtype)
        if bool(((given.double() - wanted).abs() > limit).any()):
            return "", "the projection does not give the sum of its heads"
        inside = any(module is projection for module in self.model.get_submodule(site.name).modules())
        if not inside:
            return how + ", which stands outside the module", None
        same = seen.output is not None and torch.equal(seen.output, seen.projected)
        return how + ("" if same else ", then changed within the module"), None

    def _keep_projection(self, site: Site) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if site in self._seen:
                self._seen[site].heads_in, self._seen[site].projected = args[0], output

        return keep

    def _keep_output(self, site: Site) -> Callable[[nn.Module, object, object], None]:
        def keep(_module: nn.Module, _args: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if site in self._seen and isinstance(first, Tensor):
                self._seen[site].output = first

        return keep


def rule_block(rule: MaskRule, queries: int, keys: int, device: torch.device) -> Tensor:
    """A rule written out as [B or 1, H or 1, T, S], for short sequences."""
    position = torch.arange(queries, device=device)[:, None] + rule.query_offset
    column = torch.arange(keys, device=device)[None]
    seen = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=device)
    if rule.causal:
        seen = seen & (column <= position)
    if rule.window is not None:
        seen = seen & (position - column < rule.window) & (column - position < rule.window)
    if rule.lengths is not None:
        first, stop = (edge[:, None, None, None] for edge in rule.lengths.to(device).unbind(-1))
        seen = seen & (column >= first) & (column < stop) & (position >= first) & (position < stop)
    if rule.allowed is not None:
        seen = seen & rule.allowed(position[:, 0], column[0]).to(device)
    return seen


def _widened(call: AttentionCall) -> AttentionCall:
    return replace(call, q=call.q.double(), k=call.k.double())


def _moved(outputs: object, rows: int) -> list[bool]:
    """For each row, whether an output of the model differs from row 0's by more than equal rows do."""
    found = [False] * rows
    values = outputs.values() if isinstance(outputs, dict) else [outputs]
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point() and value.shape[:1] == (rows,):
            flat = value.double().flatten(1)
            change = (flat - flat[0]).abs().amax(1)
            floor = 100 * change[1] + 8 * torch.finfo(value.dtype).eps * flat[0].abs().max()
            found = [was or bool(now) for was, now in zip(found, change > floor, strict=True)]
    return found
