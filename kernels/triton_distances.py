"""Pass 3 on a GPU, where it is asked for: the mass by distance i − j, from the saved log-sum-exp.

A program owns one diagonal of tiles: blocks of rows against the block of keys `apart` positions before them. The place
(row, key) within a tile then always means the same distance, so the weights of all tiles are added place by place, and
turned by distance once, at the end. No tile is met twice, and nothing is added atomically.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from probe.kernels.triton_columns import weights
from probe.kernels.triton_jit import jit
from probe.kernels.triton_tiles import ends_of, keys_seen


@jit
def add_tiles(
    total: tl.tensor, start: tl.tensor, stop: tl.tensor, limit: tl.tensor, apart: tl.tensor, q_ptr: tl.tensor,
    k_ptr: tl.tensor, shift_ptr: tl.tensor, lengths_ptr: tl.tensor, starts_ptr: tl.tensor, stops_ptr: tl.tensor,
    temperature_ptr: tl.tensor, stride_qt: tl.tensor, stride_qd: tl.tensor, stride_ks: tl.tensor,
    stride_kd: tl.tensor, S: tl.tensor, first: tl.tensor, end: tl.tensor, offset: tl.tensor, window: tl.tensor,
    factor: tl.tensor, cap: tl.tensor, slope: tl.tensor, D: tl.constexpr, D_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, SLOPED: tl.constexpr, MASKED: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
) -> Any:  # fmt: skip
    """Weights of the tiles of rows [start, stop) of one diagonal added to `total`, keys × rows."""
    x = tl.arange(0, BLOCK)
    d = tl.arange(0, D_BLOCK)
    for at in range(start, stop, BLOCK):
        from_key = at + offset - apart
        column = from_key + x
        position = at + offset + x
        k_at = k_ptr + from_key * tl.cast(stride_ks, tl.int64) + (x[:, None] * stride_ks + d[None, :] * stride_kd)
        if MASKED:
            k = tl.load(k_at, mask=((column >= 0) & (column < S))[:, None] & (d < D)[None, :], other=0.0)
        elif D == D_BLOCK:
            k = tl.load(k_at)
        else:
            k = tl.load(k_at, mask=(d < D)[None, :], other=0.0)
        if UPCAST:
            k = k.to(tl.float32)
        p = weights(
            q_ptr, shift_ptr, temperature_ptr, at, limit, k, stride_qt, stride_qd, position[None, :] - column[:, None],
            factor, cap, slope, BLOCK, D, D_BLOCK, CAPPED, SLOPED, False, MASKED, PRECISION, UPCAST,
        )  # fmt: skip
        if MASKED:
            low, high = keys_seen(
                position, at + x < limit, first, end, window, lengths_ptr, starts_ptr, stops_ptr, True, WINDOWED
            )
            p = tl.where((column[:, None] >= low[None, :]) & (column[:, None] < high[None, :]), p, 0.0)
        total += p
    return total


@jit
def distances_kernel(
    q_ptr: tl.tensor, k_ptr: tl.tensor, shift_ptr: tl.tensor, out_ptr: tl.tensor, lengths_ptr: tl.tensor,
    starts_ptr: tl.tensor, stops_ptr: tl.tensor, slopes_ptr: tl.tensor, temperature_ptr: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qt: tl.tensor, stride_qd: tl.tensor, stride_kb: tl.tensor,
    stride_kg: tl.tensor, stride_ks: tl.tensor, stride_kd: tl.tensor, H: tl.tensor, T: tl.tensor, S: tl.tensor,
    blocks: tl.tensor, offset: tl.tensor, window: tl.tensor, factor: tl.tensor, cap: tl.tensor, GROUP: tl.constexpr,
    D: tl.constexpr, D_BLOCK: tl.constexpr, BLOCK: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
) -> None:  # fmt: skip
    """One diagonal of tiles of one query head of one causal sequence: grid [blocks + 1, H, B].

    out [B, H, 2, blocks · BLOCK], float32: Σ over queries at own positions >= 1 of P[i, i − distance], of which a
    diagonal holds two parts: the distances from its own number of blocks on, and those up to it (its neighbour's).
    """
    diagonal = tl.program_id(0)
    h = tl.program_id(1)
    b = tl.program_id(2)
    long_b = b.to(tl.int64)
    apart = diagonal * BLOCK
    first, end = ends_of(lengths_ptr, b, S)
    if starts_ptr is not None:
        starts_ptr += long_b * S
        stops_ptr += long_b * S
    k_ptr += long_b * stride_kb + (h // GROUP).to(tl.int64) * stride_kg
    q_ptr += long_b * stride_qb + h.to(tl.int64) * stride_qh
    shift_ptr += (long_b * H + h) * T
    if temperature_ptr is not None:
        temperature_ptr += long_b * T
    slope = 0.0
    if slopes_ptr is not None:
        slope = tl.load(slopes_ptr + h)
    SLOPED: tl.constexpr = slopes_ptr is not None
    # All diagonals cut the rows at the same places, from the first row that counts: tiles side by side leave no gap.
    base = tl.maximum(first + 1 - offset, 0)
    begin = base + tl.maximum(first + apart - offset - base, 0) // BLOCK * BLOCK
    limit = T
    if lengths_ptr is not None:
        limit = tl.minimum(end - offset, T)
    # Only the first tile holds keys before the first one, only the last one rows that are not there.
    inner = tl.minimum(begin + BLOCK, limit)
    outer = inner + tl.maximum(limit - inner, 0) // BLOCK * BLOCK
    if starts_ptr is not None or apart == 0:
        outer = inner
    if WINDOWED:
        limit = tl.where(apart - BLOCK + 1 < window, limit, begin)
        inner = tl.minimum(inner, limit)
        outer = tl.where(apart + BLOCK <= window, tl.minimum(outer, tl.maximum(limit, inner)), inner)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for part in tl.static_range(3):
        total = add_tiles(
            total, begin if part == 0 else inner if part == 1 else outer,
            inner if part == 0 else outer if part == 1 else limit, limit, apart, q_ptr, k_ptr, shift_ptr, lengths_ptr,
            starts_ptr, stops_ptr, temperature_ptr, stride_qt, stride_qd, stride_ks, stride_kd, S, first, end, offset,
            window, factor, cap, slope, D, D_BLOCK, BLOCK, WINDOWED, CAPPED, SLOPED, part != 1, PRECISION, UPCAST,
        )  # fmt: skip
    # Place (key c, row r) holds distance apart + r − c; at (y, r) below the one that ends in y, modulo the block.
    x = tl.arange(0, BLOCK)
    turned = tl.gather(total, (x[None, :] - x[:, None]) & (BLOCK - 1), 0)
    own = x[None, :] >= x[:, None]
    at = out_ptr + (long_b * H + h) * 2 * blocks * BLOCK + apart + x
    if diagonal < blocks:
        tl.store(at, tl.sum(tl.where(own, turned, 0.0), 1))
    if diagonal > 0:
        tl.store(at + (blocks - 1) * BLOCK, tl.sum(tl.where(own, 0.0, turned), 1))
