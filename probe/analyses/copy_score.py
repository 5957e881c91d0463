"""Copying through OV: does what a head reads at a token come out as that token?

Wang et al. (arXiv 2211.00593, section 3.1 and its released code): the stream after the first block at the places of
the names, through the head's V and O, the final norm and the unembedding; the share of places whose own token is
among the five highest logits. With −OV the same for negative heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.analyses.means import BATCH_TOKENS
from probe.hooks.anatomy import Anatomy
from probe.hooks.attention import AttentionCall, instrument
from probe.hooks.blocks import record_prefix, resumed
from probe.hooks.heads import Head
from probe.hooks.spec import output_projection
from probe.models import Loaded
from probe.tasks.task import Prompt, clean_ids

TOP = 5
"""A token is copied when fewer than this many others have its logit or a higher one: a head that writes nothing, after
which all are alike, copies nothing."""


def copy_scores(
    loaded: Loaded, parts: Anatomy, prompts: Sequence[Prompt], places: Sequence[Sequence[int]], heads: Sequence[Head]
) -> dict[Head, tuple[float, float]]:
    """(copy score, the same with −OV) of each head, in [0, 1], over all places of all prompts together.

    places: of each prompt, the positions to be read; at least one in all. Heads of layer 0 read the embedding. The
    attention of block 0 is left in, as in the released code. A norm that follows attention is applied to the head's
    write alone: its scale then cancels in the final norm, its weights do not.
    """
    counts = {head: torch.zeros(2, dtype=torch.int64) for head in heads}
    step = max(1, BATCH_TOKENS // len(prompts[0].clean_ids))
    for start in range(0, len(prompts), step):
        chosen = [index for index in range(start, min(start + step, len(prompts))) if places[index]]
        if chosen:
            _count(loaded.model, parts, clean_ids([prompts[i] for i in chosen]), [places[i] for i in chosen], counts)
    total = sum(map(len, places))
    return {head: (int(count[0]) / total, int(count[1]) / total) for head, count in counts.items()}


def _count(
    model: Any, parts: Anatomy, ids: Int[Tensor, "n T"], places: Sequence[Sequence[int]], counts: Mapping[Head, Tensor]
) -> None:
    """Add to each head's counts how many places it copies, with OV and with −OV."""
    row = torch.tensor([index for index, own in enumerate(places) for _ in own])
    column = torch.tensor([place for own in places for place in own])
    tokens, ids = ids[row, column].to(model.device), ids.to(model.device)
    with torch.no_grad():
        prefix, _ = record_prefix(model, lambda: model(ids, use_cache=False, logits_to_keep=1).logits)
        for layer in sorted({layer for layer, _ in counts}):
            hidden = prefix.hidden[min(layer, 1)]
            with resumed(model, prefix, layer, hidden):
                values = _values(model, layer, lambda: model(ids, use_cache=False, logits_to_keep=1))
            block = parts.blocks[layer]
            weight = output_projection(model, block.site)[1]
            group = len(weight) // values.shape[1]
            for head in sorted(head for own, head in counts if own == layer):
                write = values[row, head // group, column] @ weight[head]
                write = write if block.attention_post is None else block.attention_post(write)
                for number, sign in enumerate((1, -1)):
                    counts[layer, head][number] += int(_copied(parts, sign * write, tokens).sum())


class _Seen(Exception):
    """The call of interest has been made: the rest of the forward is not needed."""


def _values(model: Any, layer: int, run: Callable[[], object]) -> Float[Tensor, "n G T Dv"]:
    """v of one layer's attention call in a run that ends there."""
    held: list[Tensor] = []

    def handler(call: AttentionCall) -> Tensor:
        held.append(call.v)
        raise _Seen

    with instrument(model, handler, layers=[layer], sites=lambda site: site.kind == "self"), suppress(_Seen):
        run()
    return held[0]


def _copied(parts: Anatomy, write: Float[Tensor, "places d"], tokens: Int[Tensor, "places"]) -> Tensor:
    normed = write if parts.final_norm is None else parts.final_norm(write)
    logits: Tensor = parts.unembedding(normed)
    own = logits.gather(1, tokens[:, None])
    return (logits >= own).sum(1) <= TOP  # its own one counts
