"""Rules that are said in tensors (documents, slopes), as the block functions that strips of rows evaluate."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.kernels.inputs import Attention, BlockBias, BlockMask, Mask


def block_mask(mask: Mask) -> BlockMask | None:
    """What spans cannot say: the caller's own rule and the documents, block by block."""
    documents, rule = mask.documents, mask.allowed
    if documents is None:
        return rule

    def allowed(rows: Int[Tensor, "rows"], columns: Int[Tensor, "columns"]) -> Bool[Tensor, "B #H rows columns"]:
        document = documents.to(rows.device)
        same = (document[:, rows, None] == document[:, None, columns])[:, None]
        return same if rule is None else same & rule(rows, columns)

    return allowed


def block_bias(call: Attention) -> BlockBias | None:
    """What is added to the scores: the caller's own function and the slopes, block by block."""
    slopes, function, offset = call.score.slopes, call.score.bias, call.mask.query_offset
    if slopes is None:
        return function

    def bias(rows: Int[Tensor, "rows"], columns: Int[Tensor, "columns"]) -> Float[Tensor, "#B H rows columns"]:
        distance = (rows[:, None] + offset - columns).abs()
        by_distance = -slopes.to(rows.device).double()[:, None, None] * distance
        return by_distance[None] if function is None else function(rows, columns) + by_distance

    return bias
