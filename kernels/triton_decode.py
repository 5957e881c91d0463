"""Decoding in Triton, first launch: the keys are split among programs, and each writes what its keys do.

A program holds every query row of one key/value head (all query heads of the group, all queries), so a key is read
once. Nothing is shared between programs and nothing is added atomically: equal inputs give equal bits. The second
launch (`triton_decode_merge`) joins the splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl

from probe.kernels.decoded import DecodeRequest
from probe.kernels.inputs import Attention
from probe.kernels.triton_jit import is_interpreted, jit
from probe.kernels.triton_tiles import HIDDEN, bend, ends_of, keys_seen
from probe.kernels.triton_top import NONE, joined_top, rank_of, top_of

FIELDS = tl.constexpr(6)
"""Sums that a split writes of a row: maximum · log2 e; Σ w; Σ w (s − m) · log2 e; Σ w (i − j); Σ w of the sinks, of
the window. w = exp(s − m), m the split's own maximum."""

MOST_TOP = 256
"""Strongest keys of a row at most: a program holds twice as many, 64 bits each, beside its tile."""

OPTIONS = {"enable_fp_fusion": True}
"""Pinned: its default changes with the version of Triton, and with it the last bits."""


@jit
def decode_kernel(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, lengths: tl.tensor, starts: tl.tensor, stops: tl.tensor,
    slopes: tl.tensor, temperature: tl.tensor, out: tl.tensor, sums: tl.tensor, arg: tl.tensor, ranked: tl.tensor,
    sq_b: tl.tensor, sq_h: tl.tensor, sq_t: tl.tensor, sq_d: tl.tensor,
    sk_b: tl.tensor, sk_g: tl.tensor, sk_s: tl.tensor, sk_d: tl.tensor,
    sv_b: tl.tensor, sv_g: tl.tensor, sv_s: tl.tensor, sv_d: tl.tensor,
    factor: tl.tensor, softcap: tl.tensor, G: tl.tensor, T: tl.tensor, S: tl.tensor, n_rows: tl.tensor,
    offset: tl.tensor, key_from: tl.tensor, key_to: tl.tensor, chunk: tl.tensor, splits: tl.tensor, blocks: tl.tensor,
    mask_window: tl.tensor, sinks: tl.tensor, window: tl.tensor,
    D: tl.constexpr, DV: tl.constexpr, D_BLOCK: tl.constexpr, DV_BLOCK: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, TOP: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    UPCAST: tl.constexpr,
) -> None:  # fmt: skip
    """One program: rows [ROWS] of one key/value head on one split. One axis: blocks of rows, so that those that read
    the same keys run together; splits; heads; sequences.

    Row n is query n % T of the group's head n // T. Scores are kept in units of log 2. Written, each row's splits side
    by side: out [B, H, T, splits, DV], sums [B, H, T, FIELDS, splits], arg [B, H, T, splits] (−1 for no key), ranked
    [B, H, T, splits, TOP] rising. starts, stops [B, T]: the keys of a query's document.
    """
    block, split = tl.program_id(0) % blocks, tl.program_id(0) // blocks % splits
    pair = tl.program_id(0) // blocks // splits
    b, g = (pair // G).to(tl.int64), (pair % G).to(tl.int64)
    row = block * ROWS + tl.arange(0, ROWS)
    real = row < n_rows
    head, t = (g * (n_rows // T) + row // T), row % T
    d, e = tl.arange(0, D_BLOCK), tl.arange(0, DV_BLOCK)
    q_at = q + b * sq_b + head[:, None] * sq_h + t[:, None].to(tl.int64) * sq_t + d[None, :].to(tl.int64) * sq_d
    query = tl.load(q_at, mask=real[:, None] & (d < D)[None, :], other=0.0)
    if UPCAST:
        query = query.to(tl.float32)
    position = t + offset
    first, end = ends_of(lengths, b, S)
    if starts is not None:  # so that the position of a query finds its entry
        starts += b * T - offset
        stops += b * T - offset
    low, high = keys_seen(position, real, first, end, mask_window, lengths, starts, stops, CAUSAL, WINDOWED)
    slope = tl.zeros([ROWS], tl.float32)
    if slopes is not None:
        slope += tl.load(slopes + head, mask=real, other=0.0)
    row_factor = tl.zeros([ROWS], tl.float32) + factor
    if temperature is not None:
        row_factor /= tl.load(temperature + b * T + t, mask=real, other=1.0)
    begin, stop = key_from + split * chunk, tl.minimum(key_from + (split + 1) * chunk, key_to)
    # Tiles that no row sees are not read: padding, other documents.
    begin = tl.maximum(begin, tl.min(tl.where(high > low, low, key_to), 0))
    stop = tl.minimum(stop, tl.max(tl.where(high > low, high, 0), 0))
    k += b * sk_b + g * sk_g
    v += b * sv_b + g * sv_g

    m = tl.full([ROWS], HIDDEN, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    surprise, distance, sink_mass, local_mass = total, total, total, total
    best = tl.full([ROWS], -1, tl.int32)
    output = tl.zeros([ROWS, DV_BLOCK], tl.float32)
    strongest = tl.full([ROWS, TOP if TOP > 0 else 1], NONE, tl.int64)
    for start in range(begin, stop, KEYS):
        column = start + tl.arange(0, KEYS)
        inside, far = column < stop, column.to(tl.int64)
        k_at = k + far[None, :] * sk_s + d[:, None].to(tl.int64) * sk_d
        keys = tl.load(k_at, mask=inside[None, :] & (d < D)[:, None], other=0.0)
        if UPCAST:
            keys = keys.to(tl.float32)
        gap = position[:, None] - column[None, :]
        qk = tl.dot(query, keys, input_precision="ieee")
        s = bend(qk, row_factor[:, None], softcap, slope[:, None], gap, CAPPED, slopes is not None)
        seen = (column[None, :] >= low[:, None]) & (column[None, :] < high[:, None]) & inside[None, :]
        s = tl.where(seen, s, HIDDEN)
        if TOP > 0:
            strongest = joined_top(strongest, top_of(rank_of(s, column[None, :], seen), TOP), 0)
        largest = tl.max(s, 1)
        lowest = tl.min(tl.where(s == largest[:, None], column[None, :], 0x7FFFFFFF), 1)
        best = tl.where(largest > m, lowest, best)  # a later tile wins only by a larger score
        new = tl.maximum(m, largest)
        alpha = tl.exp2(m - new)
        s -= new[:, None]
        p = tl.where(seen, tl.exp2(s), 0.0)
        is_sink = (column - first < sinks)[None, :]
        near = (gap < window) & (column - first >= sinks)[None, :]
        # Σ w (s − m) moves to the new maximum before it shrinks, so nothing cancels.
        surprise = (surprise + (m - new) * total) * alpha + tl.sum(p * s, 1)
        total = total * alpha + tl.sum(p, 1)
        distance = distance * alpha + tl.sum(p * gap.to(tl.float32), 1)
        sink_mass = sink_mass * alpha + tl.sum(tl.where(is_sink, p, 0.0), 1)
        local_mass = local_mass * alpha + tl.sum(tl.where(near, p, 0.0), 1)
        v_at = v + far[:, None] * sv_s + e[None, :].to(tl.int64) * sv_d
        values = tl.load(v_at, mask=inside[:, None] & (e < DV)[None, :], other=0.0)
        if UPCAST:
            values = values.to(tl.float32)
        output = tl.dot(p.to(values.dtype), values, output * alpha[:, None], input_precision="ieee")
        m = new
    line = (b * G + g) * n_rows + row
    place = line * splits + split
    tl.store(out + place[:, None] * DV + e[None, :], output, mask=real[:, None] & (e < DV)[None, :])
    tl.store(arg + place, best, mask=real)
    sums += line * FIELDS * splits + split
    tl.store(sums, m, mask=real)
    tl.store(sums + splits, total, mask=real)
    tl.store(sums + 2 * splits, surprise, mask=real)
    tl.store(sums + 3 * splits, distance, mask=real)
    tl.store(sums + 4 * splits, sink_mass, mask=real)
    tl.store(sums + 5 * splits, local_mass, mask=real)
    if TOP > 0:
        tl.store(ranked + place[:, None] * TOP + tl.arange(0, TOP)[None, :], strongest, mask=real[:, None])


@dataclass(frozen=True)
class Tile:
    """How a program is cut: rows and keys of its tile, warps, pipeline stages, registers of a thread at most."""

    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Launch options."""
        limit = {} if self.registers is None else {"maxnreg": self.registers}
        return {**OPTIONS, "num_warps": self.warps, "num_stages": self.stages, **limit}


def tile_of(rows: int, call: Attention, top: int = 0) -> Tile:
    """The tile for `rows` query rows of one key/value head that keep `top` keys: 16 or 32 of them, 32 or 64 keys.

    By what spilled when compiled for sm_80 and sm_90. Kept keys take registers: then there are fewer rows or more
    warps, and all registers are granted, where the assembler would rather spill to fit one more program beside the
    first. float32 has no matrix instruction; its products are spread over more threads. Heads of 16 columns have every
    warp do the same keys, so there are fewer of them; they alone still spill up to width 128, beyond 64 kept keys.
    """
    widths = padded(call.q.shape[3]) + padded(call.v.shape[3])
    if call.q.dtype.itemsize == 4:
        few = rows <= 16 or top > 0
        return Tile(16 if few else 32, 64 if few and widths <= 128 else 32, 8, 2)
    few = rows <= 16 or top > 64
    keys = 64 if few and 32 < widths <= 512 else 32
    warps = 8 if top > 64 or (top and not few) else 4
    return Tile(16 if few else 32, keys, warps, 2, 255 if top or not few else None)


def padded(width: int) -> int:
    """The width of a tile that holds `width` columns: a power of two, 16 at least (the smallest matrix product)."""
    return max(16, _power(width))


def _power(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()


def constants_of(call: Attention, tile: Tile, request: DecodeRequest) -> dict[str, Any]:
    """The kernel's compile-time arguments: shapes, rules, and None for the pointers that the call has no use for."""
    (D, Dv), mask, score = (call.q.shape[3], call.v.shape[3]), call.mask, call.score
    pointers = {
        **{"lengths": mask.lengths, "starts": mask.documents, "stops": mask.documents},
        **{"slopes": score.slopes, "temperature": score.temperature, "ranked": request.top or None},
    }
    return {
        **{"D": D, "DV": Dv, "D_BLOCK": padded(D), "DV_BLOCK": padded(Dv), "ROWS": tile.rows, "KEYS": tile.keys},
        **{"TOP": _power(request.top) if request.top else 0},
        **{"CAUSAL": mask.causal, "WINDOWED": mask.window is not None, "CAPPED": score.softcap is not None},
        # The interpreter multiplies the raw bits of bfloat16.
        "UPCAST": is_interpreted() and call.q.dtype == torch.bfloat16,
        **{name: None for name, value in pointers.items() if value is None},
    }
