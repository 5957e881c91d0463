"""`probe.attention_view`: a window of attention on its tokens, of any context, in a notebook or a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.look import pattern
from probe.models import Loaded, load
from probe.page.packing import pack
from probe.page.widget import framed, widget_page
from probe.store import write_file
from probe.table import head_name
from probe.token_strings import token_strings

HEIGHT = 640
WHOLE = 10_000
"""The page holds weights in whole ten-thousandths; `weights` holds them as they are."""
STRETCH = 64
"""Positions of a stretch that was not asked for."""
MOST = 1024
"""Tokens that one side of a page can hold and still answer a pointer at once."""


@dataclass(frozen=True, eq=False)
class AttentionView:
    """A window of one layer's attention.

    weights: P[i, j], float32, normalised over all keys of the context. heads: their numbers. queries, keys: the ranges
    of positions. tokens: the text of each of them, as `token_strings` shows it. length: tokens of the whole context.
    """

    weights: Float[np.ndarray, "heads queries keys"]
    layer: int
    heads: tuple[int, ...]
    queries: range
    keys: range
    query_tokens: tuple[str, ...]
    key_tokens: tuple[str, ...]
    length: int
    model: str
    page: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make the page once; it is what is shown and saved."""
        object.__setattr__(self, "page", _page(self))

    @property
    def title(self) -> str:
        """What the view shows, in a few words."""
        of = head_name(self.layer, self.heads[0]) if len(self.heads) == 1 else f"layer {self.layer}"
        return f"Attention of {of} in {self.model}"

    def _repr_html_(self) -> str:
        """What a notebook shows: one frame that holds the page."""
        return framed(self.page, self.title, HEIGHT)

    def save(self, path: str | Path) -> Path:
        """Write the view as a page of its own and return its path. Raises ResultsError where the disk refuses."""
        write_file(Path(path), self.page.encode("utf-8"))
        return Path(path)

    def __repr__(self) -> str:
        return f"AttentionView({self.title}: {_places(self)})"


def attention_view(
    loaded: str | nn.Module | Loaded,
    ids: Sequence[int] | Int[Tensor, "T"],
    layer: int,
    head: int | None = None,
    queries: range | None = None,
    keys: range | None = None,
) -> AttentionView:
    """A window of attention on its tokens: pick a query to see where it looks, a key to see who looks at it.

    ids: one sequence, read whole, of any length that the model reads. head: None: all heads of the layer, with a
    chooser. queries, keys: ranges of positions. Default: the other one's; without either all positions of a context of
    up to 128 tokens, the last 64 of a longer one; the page says which it shows. Weights are exact (`probe.pattern`),
    and only the asked rows are computed.

    Raises ProbeError for a layer, head or range that does not exist, and for more than 1,024 positions a side.
    """
    model = loaded if isinstance(loaded, Loaded) else load(loaded)
    sequence = ids.flatten().tolist() if isinstance(ids, Tensor) else list(ids)
    usual = range(len(sequence)) if len(sequence) <= 2 * STRETCH else range(len(sequence) - STRETCH, len(sequence))
    rows = queries if queries is not None else keys if keys is not None else usual
    columns = keys if keys is not None else rows
    for name, span in (("queries", rows), ("keys", columns)):
        if not isinstance(span, range):
            raise ProbeError(f"{name}: found a {type(span).__name__}, wanted a range of positions")
        if len(span) > MOST:
            raise ProbeError(f"{name}: found {len(span):,} positions, wanted at most {MOST:,} on one page; narrow them")
    weights = pattern(model, sequence, layer, head, queries=rows, keys=columns).float().cpu().numpy()
    weights = weights[None] if weights.ndim == 2 else weights
    return AttentionView(
        weights=weights,
        layer=layer,
        heads=tuple(range(len(weights))) if head is None else (head,),
        queries=rows,
        keys=columns,
        query_tokens=tuple(token_strings(model.tokenizer, sequence[rows.start : rows.stop])),
        key_tokens=tuple(token_strings(model.tokenizer, sequence[columns.start : columns.stop])),
        length=len(sequence),
        model=model.name,
    )


def _page(view: AttentionView) -> str:
    """The view as a page; it opens on the head and query that put most on a single key after the first four."""
    late = np.where(np.arange(view.keys.start, view.keys.stop) >= 4, view.weights, -1.0).max(axis=-1)
    head, query = np.unravel_index(late.argmax(), late.shape)
    shown = {
        "weights": pack(np.round(np.clip(view.weights, 0, 1) * WHOLE).astype(np.uint16)),
        "whole": WHOLE,
        "names": [head_name(view.layer, head) for head in view.heads],
        "queries": {"first": view.queries.start, "texts": view.query_tokens},
        "keys": {"first": view.keys.start, "texts": view.key_tokens},
        "head": int(head),
        "start": int(query),
    }
    return widget_page("attention_view", view.title, _places(view) + ".", shown)


def _places(view: AttentionView) -> str:
    def said(span: range) -> str:
        return f"{span.start:,}–{span.stop - 1:,}"

    return f"queries {said(view.queries)} and keys {said(view.keys)} of {view.length:,} tokens"
