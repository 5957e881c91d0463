"""The instrument: every studied attention call of a transformers model goes through a handler.

transformers lets an attention function be registered under a name (`AttentionInterface`) and resolves the
name at every forward. One name is registered, on first use; `instrument` points a model at it and back again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .call import AttentionCall, HandlerResult, Site
from .errors import HookError
from .mask import LazyMask, MaskRule, given_mask, lazy_mask
from .sites import located, sites

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["AttentionCall", "Handler", "HookError", "LazyMask", "MaskRule", "Site", "instrument", "sites"]

Handler = Callable[[AttentionCall], HandlerResult]
"""Takes a call, returns z [B, H, T, Dv], or (z, pattern [B, H, T, S]) to show the pattern in the outputs."""

NAME = "headprobe"
"""The registered name, free of the words that transformers gives a meaning: flash, sdpa, "/", "|"."""

HARMLESS = frozenset(
    (
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "num_items_in_batch",
        "deterministic",
    )
)
"""Keywords that families pass along and that change nothing in the attention call itself."""


@dataclass
class _Session:
    handler: Handler
    sites: dict[int, Site]
    studied: frozenset[Site]


_sessions: list[_Session] = []


@contextmanager
def instrument(
    model: PreTrainedModel,
    handler: Handler,
    *,
    layers: Collection[int] | None = None,
    sites: Callable[[Site], bool] | None = None,
) -> Iterator[list[Site]]:
    """Send the attention calls of a model through `handler`; yields the studied sites; undone at the end.

    layers, sites: study only these layer numbers, only sites that pass (default: all); others run at sdpa's
    speed. Instruments nest: `call.attend()` of the inner one is what the outer handler returns, and a handler
    that does not ask it, which would silently drop the outer one, raises.
    Raises HookError for models that do not use the interface, layers that do not exist, and, during the
    forward, keywords that it does not know how to honour.
    """
    found = located(model)
    studied = _chosen([site for site, _ in found], layers, sites)
    _register()
    session = _Session(handler, {id(module): site for site, module in found}, frozenset(studied))
    saved = [(config, config._attn_implementation) for config in _configs(model)]
    try:
        model.set_attn_implementation(NAME)
        _check_switched(found)
        _sessions.append(session)
        yield studied
    finally:
        # By identity: two sessions may be equal, and contexts may be left out of order.
        _sessions[:] = [other for other in _sessions if other is not session]
        for config, implementation in saved:
            config._attn_implementation = implementation


def _chosen(found: list[Site], layers: Collection[int] | None, wanted: Callable[[Site], bool] | None) -> list[Site]:
    missing = sorted(set(layers or ()) - {site.layer for site in found})
    if missing:
        raise HookError(f"no attention in layers {missing}; the model has it in {sorted({s.layer for s in found})}")
    studied = [s for s in found if (layers is None or s.layer in layers) and (wanted is None or wanted(s))]
    if not studied:
        raise HookError(f"no attention site chosen; the model has {len(found)}, such as {found[0].name}")
    return studied


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _forward)
    AttentionMaskInterface.register(NAME, lazy_mask)


def _configs(model: PreTrainedModel) -> list[PretrainedConfig]:
    """Every config that the switch can touch, parents first, since setting one sets those inside it too."""
    queue = [model.config, *(c for m in model.modules() if (c := getattr(m, "config", None)) is not None)]
    found: list[PretrainedConfig] = []
    while queue:
        config = queue.pop(0)
        if hasattr(config, "_attn_implementation") and not any(config is other for other in found):
            found.append(config)
            inside = (getattr(config, name, None) for name in config.sub_configs)
            queue.extend(sub for sub in inside if sub is not None)
    return found


def _check_switched(found: list[tuple[Site, nn.Module]]) -> None:
    for site, module in found:
        config = getattr(module, "config", None)
        now = getattr(config, "_attn_implementation", None)
        if config is not None and now != NAME:
            raise HookError(
                f"{site.name} ({type(module).__name__}) keeps its attention implementation {now!r}; "
                "the model does not let it be replaced"
            )


def _forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, **keywords: object
) -> tuple[Tensor, Tensor | None]:
    """The registered function: [B, H, T, D] in, ([B, T, H, Dv], pattern or None) out."""
    sessions = [session for session in _sessions if id(module) in session.sites]
    # Another model may share the config, and with it the switch, without being instrumented.
    site = sessions[-1].sites[id(module)] if sessions else Site(type(module).__name__, "decoder", "self", -1)
    call = _describe(site, module, query, key, value, attention_mask, dict(keywords))
    z, pattern = _run(call, [session for session in sessions if site in session.studied])
    return z.transpose(1, 2).contiguous(), pattern


def _run(call: AttentionCall, sessions: list[_Session]) -> tuple[Tensor, Tensor | None]:
    if not sessions:
        return call.attend(), None
    *outer, session = sessions
    if outer:
        call.inner = lambda: _run(replace(call, inner=None), outer)
    result = session.handler(call)
    z, pattern = result if isinstance(result, tuple) else (result, call.inner_pattern)
    if outer and not call.asked:
        raise HookError(f"{call.site.name}: the handler did not call attend(), so the enclosing instrument was lost")
    wanted = (*call.q.shape[:3], call.v.shape[-1])
    if not isinstance(z, Tensor) or z.shape != wanted or z.dtype != call.q.dtype:
        got = f"{tuple(z.shape)} {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
        raise HookError(f"{call.site.name}: the handler returned {got}; wanted z of {wanted} {call.q.dtype}")
    return z, pattern


def _describe(
    site: Site,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: object,
    keywords: dict[str, object],
) -> AttentionCall:
    def take(name: str) -> object:
        return keywords.pop(name, None)

    scale, dropout, softcap, window = (take(n) for n in ("scaling", "dropout", "softcap", "sliding_window"))
    is_causal, sinks, bias = take("is_causal"), take("s_aux"), take("position_bias")
    unknown = [name for name, value in keywords.items() if value is not None and name not in HARMLESS]
    if unknown:
        raise HookError(
            f"{site.name} ({type(module).__name__}) passes {', '.join(sorted(unknown))} to its attention "
            "function, which the instrument does not know how to honour"
        )
    lazy, bias = _masks(site, mask, bias, query.shape[2], key.shape[2])
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return AttentionCall(
        site=site,
        module=module,
        q=query,
        k=key,
        v=value,
        mask=lazy,
        causal=bool(causal) and lazy is None and mask is None,
        scale=query.shape[-1] ** -0.5 if scale is None else _number(site, "scaling", scale),
        softcap=None if softcap is None else _number(site, "softcap", softcap),
        window=int(_number(site, "sliding_window", window)) if window is not None else None,
        sinks=sinks if isinstance(sinks, Tensor) else None,
        bias=bias,
        dropout=0.0 if dropout is None else _number(site, "dropout", dropout),
    )


def _masks(site: Site, mask: object, bias: object, queries: int, keys: int) -> tuple[LazyMask | None, Tensor | None]:
    total = bias if isinstance(bias, Tensor) else None
    if mask is None or isinstance(mask, LazyMask):
        lazy = mask
    elif isinstance(mask, Tensor):
        lazy, additive = given_mask(mask)
        if additive is not None:
            total = additive if total is None else total + additive
    else:
        raise HookError(f"{site.name}: attention mask of type {type(mask).__name__}; wanted a tensor or none")
    if lazy is not None and (lazy.queries, lazy.keys) != (queries, keys):
        raise HookError(f"{site.name}: mask of {lazy.queries} x {lazy.keys} for {queries} queries and {keys} keys")
    return lazy, total


def _number(site: Site, name: str, value: object) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if isinstance(value, int | float):
        return float(value)
    raise HookError(f"{site.name}: {name} is {value!r}; wanted one number for all heads")
