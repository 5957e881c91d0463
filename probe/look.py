"""Look at attention itself: the exact map of any window of any context, and its strongest pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.hooks.call import AttentionCall
from probe.kernels.window import pattern_window, strongest_pairs
from probe.models import Loaded, load
from probe.observe import described
from probe.running import Running
from probe.tokens import check_ids

BUDGET = 1 << 30
"""Bytes that a map may take before it is refused: 1 GiB."""


Found = TypeVar("Found")


class _Seen(Exception):
    """Raised inside the forward once the layer was seen: what lies above it need not run."""


def pattern(
    model: str | nn.Module | Loaded,
    tokens: Sequence[int] | Int[Tensor, "T"],
    layer: int,
    head: int | None = None,
    *,
    queries: range | None = None,
    keys: range | None = None,
    memory_budget: int = BUDGET,
) -> Float[Tensor, "*heads queries keys"]:
    """The exact attention weights of a window: TransformerLens' `pattern`, at any context length.

    tokens: one sequence of ids, read whole. head: one head gives [queries, keys], None gives all,
    [head, queries, keys]. queries, keys: ranges of positions, default all. float32, normalised over all keys,
    whatever the window; only those rows are recomputed, and layers above `layer` do not run.

    Raises ProbeError for a layer, head or range that does not exist, and for a map over `memory_budget` bytes.
    """
    running, ids = _ready(model, tokens, layer, head)
    rows = range(len(ids)) if queries is None else queries
    columns = range(len(ids)) if keys is None else keys
    for name, span in (("queries", rows), ("keys", columns)):
        if not isinstance(span, range) or span.step != 1 or not 0 <= span.start < span.stop <= len(ids):
            raise ProbeError(f"{name}: found {span}, wanted a range of step 1 within 0 to {len(ids)}")
    heads = running.n_heads if head is None else 1
    size = heads * len(rows) * len(columns) * 4
    if size > memory_budget:
        raise ProbeError(
            f"pattern: {heads} heads × {len(rows):,} queries × {len(columns):,} keys take {size / 2**20:,.0f} MiB, "
            f"over the budget of {memory_budget / 2**20:,.0f} MiB; ask for fewer queries, keys or heads"
        )
    found = _at(running, ids, layer, lambda call: pattern_window(described(one_head(call, head)), rows, columns))[0]
    return found if head is None else found[0]


def top_pairs(
    model: str | nn.Module | Loaded,
    tokens: Sequence[int] | Int[Tensor, "T"],
    layer: int,
    head: int,
    k: int = 20,
) -> pd.DataFrame:
    """The k strongest query → key pairs of a head: columns `query`, `key` (positions) and `weight`, strongest first.

    Streamed over strips of rows; the map is never built. Ties go to the earlier query, then the earlier key.
    Raises ProbeError for a layer or head that does not exist.
    """
    if k < 1:
        raise ProbeError(f"k: found {k}, wanted at least 1 pair")
    running, ids = _ready(model, tokens, layer, head)
    weight, query, key = _at(running, ids, layer, lambda call: strongest_pairs(described(one_head(call, head)), 0, k))
    frame = pd.DataFrame({"query": query[0].cpu(), "key": key[0].cpu(), "weight": weight[0].cpu()})
    return frame[frame["query"] >= 0].reset_index(drop=True)


def _ready(
    model: str | nn.Module | Loaded, tokens: Sequence[int] | Int[Tensor, "T"], layer: int, head: int | None
) -> tuple[Running, list[int]]:
    loaded = model if isinstance(model, Loaded) else load(model)
    running = Running(loaded.model)
    sequence = tokens.flatten().tolist() if isinstance(tokens, Tensor) else list(tokens)
    ids = check_ids([sequence], vocabulary=running.vocabulary, limit=running.n_ctx)[0]
    layers = [site.layer for site in running.sites]
    if layer not in layers:
        raise ProbeError(f"layer: found {layer}, wanted one of {layers[0]} to {layers[-1]} that has attention")
    if head is not None and not 0 <= head < running.n_heads:
        raise ProbeError(f"head: found {head}, wanted 0 to {running.n_heads - 1}")
    return running, ids


def one_head(call: AttentionCall, head: int | None) -> AttentionCall:
    """The same call with one query head and its key/value head; None: as it is."""
    if head is None:
        return call
    kv = head // (call.q.shape[1] // call.k.shape[1])
    one, shared = slice(head, head + 1), slice(kv, kv + 1)
    bias = call.bias if call.bias is None or call.bias.shape[1] == 1 else call.bias[:, one]
    return AttentionCall(
        call.site, call.module, call.q[:, one], call.k[:, shared], call.v[:, shared], call.mask, call.causal,
        call.scale, call.softcap, call.window, None if call.sinks is None else call.sinks[one], bias,
    )  # fmt: skip


def _at(running: Running, ids: list[int], layer: int, ask: Callable[[AttentionCall], Found]) -> Found:
    """`ask` of one layer's call; the forward stops there."""
    answers: list[Found] = []

    def handler(call: AttentionCall) -> Tensor:
        answers.append(ask(call))
        raise _Seen

    with suppress(_Seen), running.instrument(handler, layers=[layer]):
        running.forward(torch.tensor([ids]))
    if not answers:
        raise ProbeError(f"layer {layer}: its attention never ran; wanted a model whose every layer runs")
    return answers[0]
