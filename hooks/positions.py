"""Positions in a sequence, as callers write them: the same for every row, or other ones in each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .errors import HookError

Positions = Sequence[int] | Int[Tensor, "rows n"]
"""Counted from the first token given to the model, padding included; a tensor [rows, n] gives each row its own."""


def checked(positions: Positions, name: str) -> Int[Tensor, "#rows n"]:
    """As a tensor, with one row for all where they are the same. Raises HookError for anything but integers from 0."""
    given = torch.as_tensor(positions)
    plain = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if not plain or given.ndim not in (1, 2) or not given.numel() or int(given.min()) < 0:
        raise HookError(f"{name} {positions}; wanted one or more integers from 0, in a list or a tensor [rows, n]")
    return given.reshape(-1, given.shape[-1]).long()


def marked(positions: Int[Tensor, "#rows n"], first: int, count: int) -> Bool[Tensor, "#rows count"]:
    """True at those of positions first to first + count - 1 that are named, row by row."""
    place = positions - first
    # Those outside go to a last column, which is cut off.
    place = torch.where((place >= 0) & (place < count), place, count)
    marks = torch.zeros(len(positions), count + 1, dtype=torch.bool, device=positions.device)
    return marks.scatter_(1, place, torch.ones_like(place, dtype=torch.bool))[:, :count]
