"""The instrument for TransformerLens models, from their hook points: TransformerBridge and HookedTransformer.

The names are the same in both. A bridge builds its scores whatever is asked of it, so this path is as slow
and as large as TransformerLens itself; a transformers model goes through `attention.instrument` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .attention import Handler
from .bounds import z_bound
from .call import AttentionCall, HandlerResult, Site
from .errors import HookError
from .mask import LazyMask, given_mask

PROBE_LENGTH = 16

_proved: WeakKeyDictionary[Any, tuple[tuple[object, ...], frozenset[Site]]] = WeakKeyDictionary()
"""Models whose hook points were tried, the state they were in, and the sites that passed."""


def is_lens_model(model: object) -> bool:
    """Whether a model is one of TransformerLens', without importing it."""
    return any(base.__module__.startswith("transformer_lens") for base in type(model).__mro__)


def lens_sites(model: Any) -> list[Site]:
    """The attention sites of a TransformerLens model, one a layer."""
    return [Site(f"blocks.{layer}.attn", "decoder", "self", layer) for layer in range(model.cfg.n_layers)]


@contextmanager
def instrument(
    model: Any,
    handler: Handler,
    *,
    layers: Collection[int] | None = None,
    sites: Callable[[Site], bool] | None = None,
) -> Iterator[list[Site]]:
    """As `attention.instrument`, for a TransformerLens model; `call.attend()` gives the model's own z.

    q and k come from hook_rot_q and hook_rot_k (hook_q and hook_k without rotary embedding), v from hook_v,
    the mask from hook_attn_scores, and the handler's z goes back through hook_z. A handler's pattern has
    nowhere to show and is refused. Hook points are first tried on 16 random tokens: a dead one, or a z that
    is not softmax(q.k) v, raises HookError by name before anything else runs. A model is tried once, and again
    when its settings or attention modules changed.
    """
    if not is_lens_model(model):
        raise HookError(f"{type(model).__name__} is not a TransformerLens model: use probe.hooks.attention")
    found = lens_sites(model)
    missing = sorted(set(layers or ()) - {site.layer for site in found})
    if missing:
        raise HookError(f"no attention in layers {missing}; the model has 0 to {len(found) - 1}")
    studied = [s for s in found if (layers is None or s.layer in layers) and (sites is None or sites(s))]
    if not studied:
        raise HookError(f"no attention site chosen; the model has {len(found)}, such as {found[0].name}")
    _prove(model, studied)
    with _attached(model, studied, handler):
        yield studied


def _prove(model: Any, studied: list[Site]) -> None:
    """Probe what was not probed yet: all sites at once, so that a nested instrument need not run inside another."""
    state = _state(model)
    known, proved = _proved.get(model, (state, frozenset()))
    proved = proved if known == state else frozenset()
    if proved.issuperset(studied):
        return
    everything = lens_sites(model)
    try:
        _probe(model, everything)
        proved = frozenset(everything)
    except HookError:
        # A layer that nobody asked for may fail.
        _probe(model, studied)
        proved = proved.union(studied)
    _proved[model] = (state, proved)


def _state(model: Any) -> tuple[object, ...]:
    """What decides which hook points fire and what z is made of: settings, and the modules with their scale."""
    plain = (bool, int, float, str)
    settings = [(name, value) for name, value in vars(model.cfg).items() if isinstance(value, plain)]
    modules: list[object] = [getattr(model, "compatibility_mode", None)]
    for block in model.blocks:
        attn = getattr(block, "attn", None)
        inside = getattr(attn, "original_component", None)
        numbers = _first_number(inside, "scaling", "scale"), _first_number(inside, "attn_logit_softcapping")
        modules.append((id(attn), id(inside), *numbers))
    return (tuple(settings), tuple(modules))


def _probe(model: Any, studied: list[Site]) -> None:
    """Run a few random tokens and believe only hook points that fire and add up."""
    fired: dict[Site, float] = {}

    def check(call: AttentionCall) -> Tensor:
        z = call.attend()
        group = call.q.shape[1] // call.k.shape[1]
        weights = call.pattern(dtype=torch.float32).double()
        z64 = weights @ call.v.double().repeat_interleave(group, 1)
        # Two float32 evaluations of the same sum may each stand a bound away from the exact one.
        fired[call.site] = float((z.double() - z64).abs().max()) / (2 * z_bound(call))
        return z

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.cfg.d_vocab, (1, min(PROBE_LENGTH, model.cfg.n_ctx)), generator=generator)
    device = next(model.parameters()).device
    with torch.no_grad(), _attached(model, studied, check) as seen:
        model(ids.to(device), return_type=None)
    for site in studied:
        dead = sorted(set(_hook_points(model, site).values()) - seen[site])
        if dead or site not in fired:
            raise HookError(f"{type(model).__name__}: {', '.join(dead) or site.name} never fired")
        if not fired[site] <= 1:
            raise HookError(
                f"{type(model).__name__}: {site.name}.hook_z is not softmax(q.k) v of its hook points "
                f"(off by {fired[site]:.3g} times the error bound)"
            )


def _hook_points(model: Any, site: Site) -> dict[str, str]:
    """Quantity -> hook name of a site. Raises HookError for one that the model does not declare."""
    known = model.hook_dict
    rotary = f"{site.name}.hook_rot_q" in known
    names = {"q": "hook_rot_q", "k": "hook_rot_k"} if rotary else {"q": "hook_q", "k": "hook_k"}
    names |= {"v": "hook_v", "scores": "hook_attn_scores", "z": "hook_z"}
    points = {quantity: f"{site.name}.{name}" for quantity, name in names.items()}
    absent = [name for name in points.values() if name not in known]
    if absent:
        raise HookError(f"{type(model).__name__} has no hook point {', '.join(absent)}")
    return points


@contextmanager
def _attached(model: Any, studied: list[Site], handler: Handler) -> Iterator[dict[Site, set[str]]]:
    """Hooks in place; yields the names that fired, by site."""
    seen: dict[Site, set[str]] = {site: set() for site in studied}
    hooks = []
    for site in studied:
        points = _hook_points(model, site)
        collector = _Collector(model, site, handler, points, seen[site])
        for quantity, name in points.items():
            hooks.append((name, collector.hook(quantity, name)))
    with model.hooks(fwd_hooks=hooks):
        yield seen


@dataclass
class _Collector:
    """Gathers one call's tensors as they pass, and hands the call to the handler at hook_z."""

    model: Any
    site: Site
    handler: Handler
    points: dict[str, str]
    fired: set[str]

    def __post_init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def hook(self, quantity: str, name: str) -> Callable[..., Tensor | None]:
        def keep(tensor: Tensor, hook: object) -> Tensor | None:
            self.fired.add(name)
            if quantity != "z":
                self._held[quantity] = tensor
                return None
            if not self._held:  # in compatibility mode a hook is called once for each of its names
                return None
            held, self._held = self._held, {}
            return self._serve(held, tensor)

        return keep

    def _serve(self, held: dict[str, Tensor], z: Tensor) -> Tensor:
        dead = sorted(name for quantity, name in self.points.items() if quantity not in (*held, "z"))
        if dead:
            raise HookError(f"{type(self.model).__name__}: {', '.join(dead)} never fired")
        call = self._describe(held, z)
        result = self.handler(call)
        if isinstance(result, tuple):
            raise HookError(f"{self.site.name}: TransformerLens shows its own pattern; return z alone")
        if result.shape != (*call.q.shape[:3], call.v.shape[-1]) or result.dtype != z.dtype:
            raise HookError(
                f"{self.site.name}: the handler returned {tuple(result.shape)} {result.dtype}; "
                f"wanted z of {(*call.q.shape[:3], call.v.shape[-1])} {z.dtype}"
            )
        return result.transpose(1, 2)

    def _describe(self, held: dict[str, Tensor], z: Tensor) -> AttentionCall:
        q, k, v = (held[name].transpose(1, 2) for name in "qkv")
        heads, keys = held["scores"].shape[1], held["scores"].shape[3]
        if q.shape[1] != heads or k.shape[2] != keys or z.shape[2:] != (heads, v.shape[-1]):
            raise HookError(
                f"{self.site.name}: hook_z of {tuple(z.shape)} for {heads} heads, v {tuple(v.shape)} and "
                f"{k.shape[2]} of {keys} keys; wanted one z per head, and no cache"
            )
        inside = getattr(self.model.blocks[self.site.layer].attn, "original_component", None)
        softcap = _first_number(inside, "attn_logit_softcapping") or _cap(self.model.cfg)
        sinks = getattr(inside, "sinks", None)

        def own() -> HandlerResult:
            return z.transpose(1, 2)

        return AttentionCall(
            site=self.site,
            module=self.model.blocks[self.site.layer].attn,
            q=q,
            k=k,
            v=v,
            mask=_mask(held["scores"]),
            causal=False,
            scale=_scale(self.model.cfg, inside, q.shape[-1]),
            softcap=softcap,
            sinks=sinks if isinstance(sinks, Tensor) else None,
            inner=own,
        )


def _mask(scores: Tensor) -> LazyMask | None:
    # The scores exist already and say exactly what is hidden, padding and windows included.
    return given_mask(scores[:, :1].detach() > torch.finfo(scores.dtype).min / 2)[0]


def _scale(cfg: Any, inside: nn.Module | None, width: int) -> float:
    stated = _first_number(inside, "scaling", "scale")
    if stated is not None:
        return stated
    if getattr(cfg, "use_attn_scale", True) is False:
        return 1.0
    own = getattr(cfg, "attn_scale", None)
    return 1.0 / float(own) if isinstance(own, int | float) and own > 0 else width**-0.5


def _cap(cfg: Any) -> float | None:
    cap = getattr(cfg, "attn_scores_soft_cap", None)
    return float(cap) if isinstance(cap, int | float) and cap > 0 else None


def _first_number(owner: object, *names: str) -> float | None:
    for name in names:
        value = getattr(owner, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None
