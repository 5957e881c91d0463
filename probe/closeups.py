"""What to look at in a head: its strongest pairs, a window of its map around the first of them, what it copies there.

One forward of one sequence, all heads, streamed: the map is never built. The results are profiles of a head table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.errors import ProbeError, ResultsError
from probe.hooks.anatomy import Anatomy, anatomy
from probe.hooks.call import AttentionCall
from probe.hooks.errors import HookError
from probe.kernels.window import pattern_window, strongest_queries
from probe.look import one_head
from probe.models import Loaded, load
from probe.observe import described
from probe.progress import Progress, silent
from probe.running import Running
from probe.table import HeadTable
from probe.tokens import check_ids

PAIRS, SPAN, WRITES = 12, 24, 5
AFTER = 4
"""Rows of a window that come after its query, and the keys' lead: what follows a pair is worth a look too."""


def closeups(
    table: HeadTable,
    model: str | nn.Module | Loaded,
    tokens: Sequence[int] | Int[Tensor, "T"],
    *,
    pairs: int = PAIRS,
    span: int = SPAN,
    skip: int | None = None,
    progress: Progress = silent,
) -> HeadTable:
    """The table with profiles to look closer by, measured on one sequence (ids, read as they are).

    pair_query, pair_key [L, H, pairs] int32, pair_weight float32: of every head the queries whose strongest key has
        most weight, that key, and the weight P[i, j]; strongest first, a query once; −1 and 0 where there are fewer.
        The first `skip` keys do not count (default: the sinks of the scan's streaming cache), or most heads would show
        nothing but their sink.
    window [L, H, span, span] float32, NaN past the sequence's end: P around the first pair; window_at [L, H, 2] int32,
        its first query and first key; both the same where query and key are near each other; −1 without a pair.
    writes [L, H, 5] int32: the ids of the tokens whose logits the head raises most by copying the value at the first
        pair's key: W_U · norm(W_O^h v), the direct path alone, without an output gate; a norm that follows attention is
        applied to this write alone. −1 where the model's path to its logits is not understood (metadata: why), or
        where the head writes nothing.

    metadata["closeups"] records the sequence's length and the parameters. Raises ResultsError for a table of another
    model's shape, TokensError for ids that the model cannot read, ProbeError for no pair or no span.
    """
    loaded = model if isinstance(model, Loaded) else load(model)
    running = Running(loaded.model)
    sequence = tokens.flatten().tolist() if isinstance(tokens, Tensor) else list(tokens)
    ids = check_ids([sequence], vocabulary=running.vocabulary, limit=running.n_ctx)[0]
    if len(table.frame) != len(running.sites) * running.n_heads:
        raise ResultsError(
            f"a table of {len(table.frame)} heads and a model of {len(running.sites)} × {running.n_heads}: give the "
            "table that was measured on this model"
        )
    if pairs < 1 or span < 1:
        raise ProbeError(f"{pairs} pairs and a span of {span}; wanted at least one of each")
    first = int(table.metadata.get("parameters", {}).get("sinks", 4)) if skip is None else skip
    parts, refusal = _path_to_logits(running)
    seen = _Seen(running, parts, pairs, span, first, progress)
    seen.read(ids)
    about: dict[str, Any] = {"length": len(ids), "skipped_keys": first, "pairs": pairs, "span": span}
    if refusal is not None:
        about["writes"] = f"not made: {refusal}"
    return table.with_profiles(seen.profiles, {"closeups": about})


def _path_to_logits(running: Running) -> tuple[Anatomy | None, str | None]:
    """What makes logits of a write, or why that is not known."""
    if running.is_lens:
        return None, "a TransformerLens model; load it by name to follow what its heads write"
    try:
        return anatomy(running.model), None  # type: ignore[arg-type]  # no TransformerLens model
    except HookError as error:
        return None, str(error)


class _Seen:
    """One forward: every layer is looked at as it comes."""

    def __init__(
        self, running: Running, parts: Anatomy | None, pairs: int, span: int, skip: int, progress: Progress
    ) -> None:
        self.running, self.parts, self.skip, self.progress = running, parts, skip, progress
        self.layer_of = {site: number for number, site in enumerate(running.sites)}
        shape = len(running.sites), running.n_heads
        self.profiles = {
            "pair_query": np.full((*shape, pairs), -1, np.int32),
            "pair_key": np.full((*shape, pairs), -1, np.int32),
            "pair_weight": np.zeros((*shape, pairs), np.float32),
            "window": np.full((*shape, span, span), np.nan, np.float32),
            "window_at": np.full((*shape, 2), -1, np.int32),
            "writes": np.full((*shape, WRITES), -1, np.int32),
        }

    def read(self, ids: Sequence[int]) -> None:
        """Look at every layer of one sequence."""
        with torch.no_grad(), self.running.instrument(self._look):
            self.running.forward(torch.tensor([ids]))

    def _look(self, call: AttentionCall) -> Tensor:
        layer, kept = self.layer_of[call.site], self.profiles
        weight, query, key = strongest_queries(described(call), kept["pair_query"].shape[-1], skip=self.skip)
        for name, found in (("pair_weight", weight), ("pair_query", query), ("pair_key", key)):
            kept[name][layer] = found[0].cpu().numpy()
        for head, (row, column) in enumerate(zip(query[0, :, 0].tolist(), key[0, :, 0].tolist(), strict=True)):
            if row < 0:
                continue
            span = kept["window"].shape[-1]
            rows, columns = window_around(row, column, call.q.shape[2], span)
            window = pattern_window(described(one_head(call, head)), rows, columns)[0, 0]
            kept["window"][layer, head, : len(rows), : len(columns)] = window.cpu().numpy()
            kept["window_at"][layer, head] = rows.start, columns.start
        if self.parts is not None:
            kept["writes"][layer] = self._promoted(self.parts, call, key[0, :, 0]).cpu().numpy()
        self.progress(layer + 1, len(self.layer_of), "close-ups")
        return call.attend()

    def _promoted(self, parts: Anatomy, call: AttentionCall, keys: Int[Tensor, "H"]) -> Int[Tensor, "H writes"]:
        group = call.q.shape[1] // call.k.shape[1]
        heads = torch.arange(call.q.shape[1], device=keys.device)
        values: Float[Tensor, "H Dv"] = call.v[0, heads // group, keys.clamp(min=0)]
        write = torch.einsum("hv,hvd->hd", values, self.running.head_writes(call.site).to(values))
        block = parts.blocks[call.site.layer]
        write = write if block.attention_post is None else block.attention_post(write)
        logits = parts.unembedding(write if parts.final_norm is None else parts.final_norm(write))
        best = logits.topk(WRITES, -1).indices
        something = (keys >= 0) & (write != 0).any(-1)
        return torch.where(something[:, None], best, -1)


def window_around(query: int, key: int, length: int, span: int) -> tuple[range, range]:
    """The rows and columns of a window that shows one pair: at most `span` each, within the sequence.

    Where both fit into one stretch it is the same for both, so that the diagonal is in sight.
    """
    near = abs(query - key) + AFTER < span
    rows = _stretch(max(query, key) if near else query, length, span)
    return rows, rows if near else _stretch(key, length, span)


def _stretch(last: int, length: int, span: int) -> range:
    """`span` positions, or all there are, that end AFTER places after `last` where that is possible."""
    start = max(0, min(last + AFTER + 1 - span, length - span))
    return range(start, min(start + span, length))
