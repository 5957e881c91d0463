"""The rule that puts a head's attention where one wants it: on named keys, in equal shares, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .dense import visible_rows
from .edit_strips import shown
from .errors import HookError
from .part import Part
from .positions import Positions, checked, marked


@dataclass(frozen=True, eq=False)
class ForcePattern:
    """At the named queries the head looks at the named keys in equal shares: z is the mean of their v.

    Every other key, a learned sink included, counts 0; other queries keep their z. v is live, so that what lies below
    still reaches z, and gradients flow through it; the path through q and k is cut. There is no dropout.
    The intervention on inhibition heads of Merullo et al. (arXiv 2310.08744) at the last query; that their shares are
    equal and all else 0 is METHODS' reading from memory (§10).

    queries, keys: positions in the sequence (see `positions`), each row of the edit its own where they are tensors
    [rows, n]. A key named twice counts once.
    """

    queries: Positions
    keys: Positions

    def __post_init__(self) -> None:
        checked(self.queries, "queries")
        checked(self.keys, "keys")

    @property
    def last_position(self) -> int:
        """The furthest position that is named."""
        return max(int(checked(given, "positions").max()) for given in (self.queries, self.keys))

    def __call__(self, part: Part) -> Float[Tensor, "b h T Dv"]:
        """z with these rows forced; float32 sums or wider, in z's dtype.

        Raises HookError for positions given for another number of rows, and for a key that a named query cannot see:
        a later one, one beyond a window, padding, one that a cache no longer holds.
        """
        asked = marked(_of_rows(part, self.queries), part.start, part.shape[2])
        if not bool(asked.any()):
            return part.z
        keys = _of_rows(part, self.keys).sort(-1).values
        columns = keys - (part.start - part.offset)
        _check_visible(part, asked, columns, keys)
        once = torch.ones_like(keys, dtype=torch.bool)
        once[:, 1:] = keys[:, 1:] != keys[:, :-1]
        v = part.call.v.to(torch.promote_types(part.call.v.dtype, torch.float32))
        batch, heads, _, width = v.shape
        looked = v.gather(2, columns[:, None, :, None].expand(batch, heads, -1, width))
        shares = once.to(v.dtype) / once.sum(-1, keepdim=True)
        z = (looked * shares[:, None, :, None]).sum(2, keepdim=True).to(part.z.dtype)
        return torch.where(asked[:, None, :, None], z, part.z)


def _of_rows(part: Part, positions: Positions) -> Int[Tensor, "#b n"]:
    given = checked(positions, "positions").to(part.current.device)
    if len(given) not in (1, part.shape[0]):
        raise HookError(f"layer {part.layer}: positions for {len(given)} rows in an edit of {part.shape[0]}")
    return given


def _check_visible(
    part: Part, asked: Bool[Tensor, "#b T"], columns: Int[Tensor, "#b n"], keys: Int[Tensor, "#b n"]
) -> None:
    """Raises HookError for a named key that a named query may not see."""
    call, count = part.call, part.call.k.shape[2]
    rows = asked.any(0).nonzero()[:, 0]
    inside = (columns >= 0) & (columns < count)
    visible = visible_rows(call, rows)
    if call.bias is not None:
        visible = visible & shown(call.bias[:, :, rows, :count])
    visible = visible.all(1).expand(part.shape[0], -1, -1)
    place = columns.clamp(0, count - 1)[:, None].expand(part.shape[0], len(rows), -1)
    seen = visible.gather(2, place) & inside[:, None]
    wrong = (~seen & asked[:, rows][..., None]).nonzero()
    if len(wrong):
        row, query, key = wrong[0].tolist()
        named = int(keys[row if len(keys) > 1 else 0, key])
        raise HookError(
            f"layer {part.layer}: query {int(rows[query]) + part.start} of row {row} cannot see key {named}; "
            "wanted keys before it and within its window"
        )
