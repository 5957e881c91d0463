"""Recognise a mask: guess the plain rule from three rows, then compare the guess with the mask itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .mask import LazyMask, MaskRule

EXHAUSTIVE = 1 << 24
"""Masks of at most this many elements are compared element by element (a few tens of milliseconds)."""
STRIP = 1 << 18
"""Elements compared at once, so that no [T, S] tensor appears at any length worth the name."""
SAMPLES = 32
"""Random keys compared in every row of a mask too large to compare whole, beside the rule's own borders."""


def derive_rule(mask: LazyMask, *, cross: bool = False) -> MaskRule:
    """The mask as causal, window, offset and lengths, or as a block function (`allowed`) where these fail.

    A rule is returned only after it agreed with `mask.block` on every element (up to 2**24), or on both
    sides of every border of every row and on 32 seeded random keys a row. Padded rows are left out.
    """
    guess = _guess(mask, cross)
    if guess is not None and all(_agrees(mask, guess, rows, columns) for rows, columns in _blocks(mask, guess)):
        return guess

    def allowed(queries: Int[Tensor, "rows"], keys: Int[Tensor, "columns"]) -> Bool[Tensor, "#B #H rows columns"]:
        return mask.block(queries - mask.offset, keys)

    causal = not cross and _nothing_ahead(mask)
    return MaskRule(causal=causal, window=None, query_offset=mask.offset, lengths=None, allowed=allowed)


def _nothing_ahead(mask: LazyMask) -> bool:
    """Whether no query sees a later key: what an order of positions needs, whatever else the mask hides."""
    plain = MaskRule(True, None, mask.offset, None, None)
    if mask.queries + mask.offset > mask.keys:
        return False
    for rows, columns in _blocks(mask, plain):
        actual = _actual(mask, rows, columns)
        ahead = (columns > rows + mask.offset).to(actual.device)
        if bool((actual & ahead).any()):
            return False
    return True


def _actual(mask: LazyMask, rows: Tensor, columns: Tensor) -> Tensor:
    """The mask itself at rows [R, 1] and columns [1 or R, C], padding left aside."""
    if mask.by_element:
        return mask.block(rows[:, 0], columns[0], padding=False)
    return mask.pairs(rows, columns)


def _guess(mask: LazyMask, cross: bool) -> MaskRule | None:
    rows = torch.tensor(sorted({0, mask.queries // 2, mask.queries - 1}))
    seen = mask.block(rows, torch.arange(mask.keys), padding=False).cpu()
    if seen.shape[:2].numel() != 1 and not bool((seen == seen[:1, :1]).all()):
        return None
    seen = seen[0, 0]
    count = seen.sum(-1)
    if not bool((count > 0).all()):
        return None
    position = rows + mask.offset
    first = seen.int().argmax(-1)
    last = first + count - 1
    if not bool((seen.flip(-1).int().argmax(-1) == mask.keys - 1 - last).all()):
        return None
    causal = bool((last <= position).all())
    reach = (position - first + 1)[first > 0].tolist()
    if not causal:
        reach += (last - position + 1)[last < mask.keys - 1].tolist()
    window = int(max(reach)) if reach else None
    if window is not None and window < 1:
        return None
    plain, lengths = _lengths(mask, causal)
    if not plain or (lengths is not None and not causal and (cross or mask.offset or mask.queries != mask.keys)):
        return None
    return MaskRule(causal, window, mask.offset, lengths, None)


def _lengths(mask: LazyMask, causal: bool) -> tuple[bool, Tensor | None]:
    """(padding is at the ends only, [B, 2] or None)."""
    valid = mask.valid_keys()
    if valid is None:
        return True, None
    # Keys after the last query (the unused end of a static cache) are hidden by causality already.
    reached = valid[:, : mask.queries + mask.offset] if causal else valid
    if bool(reached.all()):
        return True, None
    count = reached.sum(-1)
    first = reached.int().argmax(-1)
    place = torch.arange(reached.shape[-1], device=valid.device)
    inside = (place >= first[:, None]) & (place < (first + count)[:, None])
    return bool((inside == reached).all()), torch.stack([first, first + count], -1)


def _blocks(mask: LazyMask, rule: MaskRule) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows [R, 1], columns [1 or R, C]) to compare: everything, or every row's borders and a sample."""
    whole = mask.by_element or mask.batch * mask.heads * mask.queries * mask.keys <= EXHAUSTIVE
    columns = torch.arange(mask.keys)[None]
    generator = torch.Generator().manual_seed(0)
    wide = mask.keys if whole else SAMPLES + 16
    step = max(1, STRIP // (mask.batch * mask.heads * wide))
    for start in range(0, mask.queries, step):
        rows = torch.arange(start, min(start + step, mask.queries))[:, None]
        if not whole:
            sample = torch.randint(mask.keys, (len(rows), SAMPLES), generator=generator)
            columns = torch.cat([_borders(mask, rule, rows), sample], -1).clamp(0, mask.keys - 1)
        yield rows, columns


def _borders(mask: LazyMask, rule: MaskRule, rows: Tensor) -> Tensor:
    position = rows + rule.query_offset
    edges = [0, 1]
    if rule.window is not None:
        edges += [1 - rule.window, -rule.window, rule.window - 1, rule.window]
    steps = torch.tensor([*edges, -1])
    fixed = torch.tensor([0, mask.keys - 1]).expand(len(rows), 2)
    if rule.lengths is None:
        return torch.cat([position + steps, fixed], -1)
    ends = rule.lengths.cpu().flatten()
    return torch.cat([position + steps, fixed, torch.cat([ends - 1, ends]).expand(len(rows), -1)], -1)


def _agrees(mask: LazyMask, rule: MaskRule, rows: Tensor, columns: Tensor) -> bool:
    actual = _actual(mask, rows, columns)
    rows, columns = rows.to(actual.device), columns.to(actual.device)
    position = rows + rule.query_offset
    wanted = torch.ones(rows.shape[0], columns.shape[-1], dtype=torch.bool, device=actual.device)
    if rule.causal:
        wanted &= columns <= position
    if rule.window is not None:
        wanted &= (position - columns < rule.window) & (columns - position < rule.window)
    same = actual == wanted
    valid = mask.valid_keys()
    if valid is None or rule.lengths is None:
        return bool(same.all()) if valid is None else bool((same | ~_valid_pairs(valid, columns)).all())
    first, stop = (edge[:, None, None, None] for edge in rule.lengths.to(actual.device).unbind(-1))
    inside = (columns >= first) & (columns < stop)
    present = (position >= first) & (position < stop)
    seen = actual & _valid_pairs(valid, columns)
    return bool(((seen == (wanted & inside)) | ~present).all())


def _valid_pairs(valid: Tensor, columns: Tensor) -> Tensor:
    return valid[:, columns][:, None]
