"""`with capture(model, "pattern3") as cache:` the tensors of attention calls, by TransformerLens name.

What each name holds, all with TransformerLens' axes:

    hook_rot_q, hook_rot_k  q and k as attention uses them: after norms and rotary embedding (in a model
                            without rotary embedding, simply q and k)         [batch pos (kv_)head d_head]
    hook_q, hook_k          q and k before norms and rotary embedding, read off their projection (or off the
                            call in models with neither); refused by name where fused or compressed
    hook_v                  v as attention uses it                             [batch pos kv_head d_value]
    hook_z                  what enters the output projection, head by head; gated in gated families
    hook_result             hook_z times each head's W_O, bias left out        [batch pos head d_model]
    hook_pattern            the weights, exact                                 [batch head query_pos key_pos]

Keys and values are those of the call: past a cache they include the cached positions. Keys are kept once per
key/value head. Tensors stay in the autograd graph, in the model's dtype. A second forward replaces the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .attention import instrument
from .call import AttentionCall, HandlerResult, Site
from .errors import HookError
from .families import HEAD_WIDTHS, KEY_PROJECTIONS, QUERY_PROJECTIONS
from .names import NamesFilter, hook_names, matching
from .sites import sites
from .spec import head_count, output_projection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEMORY_BUDGET = 1 << 30


@contextmanager
def capture(
    model: PreTrainedModel, names_filter: NamesFilter, *, memory_budget: int = MEMORY_BUDGET
) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that forwards fill with the tensors asked for; all hooks are removed at the end.

    names_filter: see `names.matching`. memory_budget: bytes that hook_pattern and hook_result together may
    take (1 GiB); more is refused with its size at the first attention call, before any of it is made.
    Raises HookError for a filter that matches nothing, a quantity the family does not show, a request over
    the budget, and, when the context ends without an error, for names that no forward filled.
    """
    names = hook_names(sites(model))
    wanted: dict[Site, dict[str, str]] = {}
    for name in matching(names_filter, list(names)):
        site, quantity = names[name]
        wanted.setdefault(site, {})[quantity] = name
    cache: dict[str, Tensor] = {}
    recorder = _Recorder(model, wanted, cache, memory_budget)
    with ExitStack() as stack:
        stack.callback(recorder.remove)
        recorder.attach()
        stack.enter_context(instrument(model, recorder.handle, sites=wanted.__contains__))
        yield cache
    silent = [name for asked in wanted.values() for name in asked.values() if name not in cache]
    if silent:
        raise HookError(f"{', '.join(silent[:3])}: never fired ({len(silent)} in all); was the model run?")


class _Recorder:
    """Fills the cache: some quantities at the attention call, some at the projections around it."""

    def __init__(
        self,
        model: PreTrainedModel,
        wanted: dict[Site, dict[str, str]],
        cache: dict[str, Tensor],
        budget: int,
    ) -> None:
        self._model = model
        self._wanted = wanted
        self._cache = cache
        self._budget = budget
        self._handles: list[RemovableHandle] = []
        self._at_call: dict[Site, dict[str, str]] = {site: {} for site in wanted}
        self._checked: tuple[int, ...] = ()
        self._width = 0
        self._queries: dict[Site, tuple[int, int]] = {}

    def attach(self) -> None:
        for site, asked in self._wanted.items():
            for quantity, name in asked.items():
                if quantity in ("z", "result"):
                    self._watch_heads(site, quantity, name)
                elif quantity in ("q", "k"):
                    self._watch_projection(site, quantity, name)
                else:
                    self._at_call[site][quantity] = name

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def handle(self, call: AttentionCall) -> HandlerResult:
        self._check_budget(call)
        self._queries[call.site] = (call.q.shape[0], call.q.shape[2])
        kept = {"q": call.q, "k": call.k, "rot_q": call.q, "rot_k": call.k, "v": call.v}
        for quantity, name in self._at_call[call.site].items():
            self._cache[name] = call.pattern() if quantity == "pattern" else kept[quantity].transpose(1, 2)
        return call.attend()

    def _check_budget(self, call: AttentionCall) -> None:
        shape = (*call.q.shape[:3], call.k.shape[2])
        if shape == self._checked:
            return
        asked = [quantity for quantities in self._wanted.values() for quantity in quantities]
        batch, heads, queries, keys = shape
        cells = asked.count("pattern") * keys + asked.count("result") * self._width
        size = batch * heads * queries * cells * call.q.element_size()
        if size > self._budget:
            raise HookError(
                f"the patterns and results asked for take {size / 2**30:.2f} GiB ({heads} heads, {queries} "
                f"queries, {keys} keys, {len(self._wanted)} layers); the budget is "
                f"{self._budget / 2**30:.2f} GiB: ask for fewer layers, or raise "
                "memory_budget"
            )
        self._checked = shape

    def _watch_heads(self, site: Site, quantity: str, name: str) -> None:
        projection, weight = output_projection(self._model, site)
        self._width = max(self._width, weight.shape[2])

        def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            z = inputs[0].reshape(*self._queries[site], *weight.shape[:2])
            self._cache[name] = z if quantity == "z" else torch.einsum("bthd,hdm->bthm", z, weight)

        self._handles.append(projection.register_forward_pre_hook(record))

    def _watch_projection(self, site: Site, quantity: str, name: str) -> None:
        attention = self._model.get_submodule(site.name)
        found = _projection(attention, quantity, head_count(self._model, site))
        if found is not None:
            projection, width = found
            self._handles.append(projection.register_forward_hook(_keep_heads(self._cache, name, width)))
        elif self._seam_is_plain(attention):
            self._at_call[site][quantity] = name
        else:
            raise HookError(
                f"{name}: {type(attention).__name__} does not show {quantity} before rotary embedding "
                f"(fused, gated or compressed projection); ask for hook_rot_{quantity}, which attention uses"
            )

    def _seam_is_plain(self, attention: nn.Module) -> bool:
        """No rotary embedding in the model, no norm of q and k: attention gets what was projected."""
        rotary = any("rotary" in type(module).__name__.lower() for module in self._model.modules())
        return not rotary and not any("norm" in name for name, _ in attention.named_children())


def _projection(attention: nn.Module, quantity: str, heads: int) -> tuple[nn.Linear, int] | None:
    """The linear map whose output is q or k, one head after the other, and the width of a head."""
    paths = QUERY_PROJECTIONS if quantity == "q" else KEY_PROJECTIONS
    projection = next((m for p in paths if isinstance(m := getattr(attention, p, None), nn.Linear)), None)
    width = next((w for name in HEAD_WIDTHS if isinstance(w := getattr(attention, name, None), int)), None)
    if projection is None or width is None:
        return None
    groups = getattr(getattr(attention, "config", None), "num_key_value_heads", None)
    count = groups if quantity == "k" and isinstance(groups, int) else heads
    return (projection, width) if projection.out_features == count * width else None


def _keep_heads(
    cache: dict[str, Tensor], name: str, width: int
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        cache[name] = output.view(*output.shape[:-1], -1, width)

    return keep
