"""The mask of an attention call, kept as a question instead of a [T, S] tensor.

transformers builds masks through a registered function (`AttentionMaskInterface`). Ours keeps what it was
asked and answers for any block, so that padding, windows, chunks and packing survive at any length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import HookError

BlockMask = Callable[[Int[Tensor, "rows"], Int[Tensor, "columns"]], Bool[Tensor, "#B #H rows columns"]]
IndexMask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class MaskRule:
    """Who may see whom, in the words of the kernels. Query at position i sees key j when every rule agrees.

    causal: j <= i.
    window: i - j < window, and when not causal also j - i < window (None: no limit).
    query_offset: position of query row 0 on the axis of the keys.
    lengths: [B, 2] first and last-plus-one valid key of each sequence; None: all. Queries at padded
        positions see nothing by this rule, whatever the model computes there.
    allowed: the whole rule, block by block, when the words above cannot say it (they are then neutral);
        takes positions on the axis of the keys.
    """

    causal: bool
    window: int | None
    query_offset: int
    lengths: Int[Tensor, "B 2"] | None
    allowed: BlockMask | None


class LazyMask:
    """What transformers asked of the mask function, evaluated on demand.

    batch, heads, queries, keys: the shape a dense mask would have (heads is 1 unless the mask is per head).
    offset: position of query row 0 minus that of key 0 (past the cache, inside a sliding cache).
    start: position of query row 0 in the sequence, counted from its first token, padding included.
    """

    ndim = 4

    def __init__(
        self, request: dict[str, Any], function: IndexMask, *, dense: Tensor | None = None, heads: int = 1
    ) -> None:
        self._request = request
        self._function = function
        self._dense = dense
        self._sdpa: Tensor | None = None
        self._sdpa_known = False
        self._rules: dict[bool, MaskRule] = {}
        self.heads = heads
        self.batch = _integer(request, "batch_size")
        self.queries = _integer(request, "q_length")
        self.keys = _integer(request, "kv_length")
        self._query_start = _integer(request, "q_offset")
        self._key_start = _integer(request, "kv_offset")
        self.offset = self._query_start - self._key_start
        self.start = self._query_start
        self.device = torch.device(str(request.get("device", "cpu")))
        self.by_element = bool(request.get("use_vmap", False))
        self.causal_when_skipped = not bool(request.get("allow_is_bidirectional_skip", False))
        padding = request.get("attention_mask")
        self._padding = padding if isinstance(padding, Tensor) else None

    @property
    def shape(self) -> torch.Size:
        """[B or 1, H or 1, T, S], as a dense mask would have it."""
        return torch.Size((self.batch, self.heads, self.queries, self.keys))

    @property
    def dtype(self) -> torch.dtype:
        """Visible or not: bool."""
        return torch.bool

    def dim(self) -> int:
        """Four."""
        return self.ndim

    def size(self, axis: int | None = None) -> int | torch.Size:
        """The shape, or one axis of it."""
        return self.shape if axis is None else self.shape[axis]

    def to(self, *_args: object, **_kwargs: object) -> LazyMask:
        """Itself: models move and cast their mask before the layers; nothing is there to move yet."""
        return self

    def contiguous(self) -> LazyMask:
        """Itself: there is no memory to order."""
        return self

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: object, args: object = (), kwargs: object = None
    ) -> Any:
        raise HookError(
            f"the model computes with its attention mask ({getattr(function, '__name__', function)}) before "
            "the attention call, as dynamic-mask families do; the instrument cannot follow it there"
        )

    def __getitem__(self, index: object) -> LazyMask:
        raise HookError(
            f"the model slices its attention mask ({index}) before the attention call; the instrument needs "
            "the whole mask: run this model without it"
        )

    def valid_keys(self) -> Bool[Tensor, "B S"] | None:
        """The padding mask over this call's keys, True where a token is; None when nothing is padded away."""
        if self._padding is None:
            return None
        stop = self._key_start + self.keys
        padding = torch.nn.functional.pad(self._padding, (0, max(0, stop - self._padding.shape[-1])))
        return padding[:, self._key_start : stop].bool()

    def tokens(self) -> Bool[Tensor, "#B S"] | None:
        """True where a key is a token: by the padding mask, or, in a mask that was given, where a query sees it.

        None when nothing is padded away.
        """
        if self._dense is None:
            return self.valid_keys()
        seen = self._dense if self._dense.dtype == torch.bool else self._dense == 0
        return seen.any(2).any(1)

    def first_token(self) -> Int[Tensor, "#B"] | None:
        """Position in the sequence of each row's first token; None when nothing is padded away."""
        known = self.tokens() if self._padding is None else self._padding
        # Of the whole padding mask, since a sliding cache may have dropped the first tokens' keys.
        return None if known is None else known.int().argmax(-1)

    def narrowed(self, first: int, stop: int, step: int, heads: Int[Tensor, "h"]) -> LazyMask:
        """The same mask for some sequences of the batch, and, where it differs by head, for some heads."""
        if self._dense is not None:
            dense = self._dense[first:stop:step] if self._dense.shape[0] > 1 else self._dense
            dense = dense[:, heads.to(dense.device)] if dense.shape[1] > 1 else dense
            mask, _ = given_mask(dense)
            return self if mask is None else mask
        rows = range(first, stop, step)
        if len(rows) == self.batch:
            return self
        function = self._function
        padding = self._padding if self._padding is None else self._padding[first:stop:step]
        request = self._request | {"batch_size": len(rows), "attention_mask": padding}
        moved = _moved(function, first, step)
        return LazyMask(request | {"mask_function": moved}, moved)

    def block(
        self, rows: Int[Tensor, "rows"], columns: Int[Tensor, "columns"], *, padding: bool = True
    ) -> Bool[Tensor, "#B #H rows columns"]:
        """Visibility of key columns (0..S-1) to query rows (0..T-1); padding=False leaves padding out."""
        if self.by_element:
            seen = self._element_block(rows, columns)
        else:
            seen = self.pairs(rows[:, None], columns[None, :])
        valid = self.valid_keys() if padding else None
        if valid is not None:
            seen = seen & valid[:, columns.to(valid.device)][:, None, None, :]
        return seen

    def pairs(self, rows: Int[Tensor, "R 1"], columns: Int[Tensor, "#R C"]) -> Bool[Tensor, "#B #H R C"]:
        """Visibility without padding, each row with its own columns, by a mask function that broadcasts."""
        batch = torch.arange(self.batch, device=self.device)[:, None, None, None]
        heads = torch.arange(self.heads, device=self.device)[None, :, None, None]
        queries = rows.to(self.device)[None, None] + self._query_start
        keys = columns.to(self.device)[None, None] + self._key_start
        seen = self._function(batch, heads, queries, keys)
        return seen.expand(*seen.shape[:2], rows.shape[0], columns.shape[-1])

    def _element_block(self, rows: Tensor, columns: Tensor) -> Tensor:
        # Functions that a user laid over the model's need not broadcast; transformers maps them one
        # element at a time, with this context for tensors indexed by an element.
        from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

        function = self._function
        for axes in (
            (None, None, None, 0),
            (None, None, 0, None),
            (None, 0, None, None),
            (0, None, None, None),
        ):
            function = torch.vmap(function, in_dims=axes, out_dims=0)
        with TransformGetItemToIndex():
            return function(
                torch.arange(self.batch, device=self.device),
                torch.arange(self.heads, device=self.device),
                rows.to(self.device) + self._query_start,
                columns.to(self.device) + self._key_start,
            )

    def sdpa(self) -> Float[Tensor, "B #H T S"] | Bool[Tensor, "B #H T S"] | None:
        """The mask that transformers' sdpa path would have had: dense, or None where `is_causal` says it all.

        None keeps the fast kernel; `causal_when_skipped` then says which of the two plain rules was meant.
        """
        if not self._sdpa_known:
            if self._dense is not None:
                self._sdpa = self._dense
            else:
                from transformers.masking_utils import sdpa_mask

                self._sdpa = sdpa_mask(**self._request)
            self._sdpa_known = True
        return self._sdpa

    def rule(self, *, cross: bool = False) -> MaskRule:
        """The mask in the words of the kernels, checked against `block`; found once: layers share masks.

        cross: keys are of another sequence, so that padding of the keys says nothing of the queries.
        """
        from .rule import derive_rule

        if cross not in self._rules:
            self._rules[cross] = derive_rule(self, cross=cross)
        return self._rules[cross]


def lazy_mask(**request: Any) -> LazyMask:
    """The function registered with transformers; a mask made before (generate does) is passed on."""
    incoming = request.get("attention_mask")
    if isinstance(incoming, LazyMask):
        return incoming
    function = request.get("mask_function")
    if not callable(function):
        raise HookError("transformers asked for a mask without a mask_function; wanted transformers >=5.9,<6")
    return LazyMask(request, function)


def given_mask(tensor: Tensor) -> tuple[LazyMask | None, Tensor | None]:
    """A 4-D mask that the caller prepared, as (mask, additive bias): one of the two.

    Boolean masks and masks of 0 and "minus infinity" are rules; any other float mask is a bias.
    Raises HookError for another shape or dtype.
    """
    if tensor.ndim != 4:
        raise HookError(f"attention mask of shape {tuple(tensor.shape)}; wanted [batch, heads, queries, keys]")
    if tensor.dtype == torch.bool:
        visible = tensor
    elif tensor.is_floating_point():
        floor = torch.finfo(tensor.dtype).min / 2
        if not bool(((tensor == 0) | (tensor <= floor)).all()):
            return None, tensor
        visible = tensor == 0
    else:
        raise HookError(f"attention mask of dtype {tensor.dtype}; wanted bool or float")

    def function(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible[batch, head, query, key]

    request: dict[str, Any] = {
        "batch_size": tensor.shape[0],
        "q_length": tensor.shape[2],
        "kv_length": tensor.shape[3],
        "q_offset": tensor.shape[3] - tensor.shape[2],
        "device": tensor.device,
    }
    # Row 0 of a given mask is row 0 of the tensor, wherever it stands on the axis of the keys.
    start = tensor.shape[3] - tensor.shape[2]
    return LazyMask(request, lambda b, h, q, k: function(b, h, q - start, k), dense=tensor, heads=tensor.shape[1]), None


def _moved(function: IndexMask, first: int, step: int) -> IndexMask:
    return lambda batch, head, query, key: function(batch * step + first, head, query, key)


def _integer(request: dict[str, Any], name: str) -> int:
    value = request.get(name, 0)
    if isinstance(value, Tensor):  # static caches count in a tensor
        return int(value.item())
    if not isinstance(value, int):
        raise HookError(f"transformers asked for a mask with {name}={value!r}; wanted an integer")
    return value
