"""Pass 3 on a GPU, where it is asked for: the mass by distance i − j, from the saved log-sum-exp.

A program owns BLOCK distances of one query head and walks down the rows. The keys that a block of rows reaches at
those distances are one tile twice as wide, whose diagonals are turned upright by a gather. No atomics.
"""

from __future__ import annotations

import triton.language as tl

from probe.kernels.triton_columns import _weights
from probe.kernels.triton_jit import jit
from probe.kernels.triton_tiles import ends_of, keys_seen


@jit
def distances_kernel(
    q_ptr: tl.tensor, k_ptr: tl.tensor, lse_ptr: tl.tensor, out_ptr: tl.tensor, lengths_ptr: tl.tensor,
    starts_ptr: tl.tensor, stops_ptr: tl.tensor, slopes_ptr: tl.tensor, temperature_ptr: tl.tensor,
    stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qt: tl.tensor, stride_qd: tl.tensor, stride_kb: tl.tensor,
    stride_kg: tl.tensor, stride_ks: tl.tensor, stride_kd: tl.tensor, H: tl.tensor, T: tl.tensor, S: tl.tensor,
    offset: tl.tensor, window: tl.tensor, factor: tl.tensor, cap: tl.tensor, GROUP: tl.constexpr, D: tl.constexpr,
    D_BLOCK: tl.constexpr, BLOCK: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
) -> None:  # fmt: skip
    """Distances [BLOCK · program, + BLOCK) of one query head of one causal sequence: grid [blocks, H, B].

    out [B, H, S], float32: Σ over queries at own positions >= 1 of P[i, i − distance], summed in float64.
    """
    nearest = tl.program_id(0) * BLOCK
    h = tl.program_id(1)
    b = tl.program_id(2)
    g = h // GROUP
    long_b = b.to(tl.int64)
    first, end = ends_of(lengths_ptr, b, S)
    if starts_ptr is not None:
        starts_ptr += long_b * S
        stops_ptr += long_b * S
    x = tl.arange(0, BLOCK)
    wide = tl.arange(0, 2 * BLOCK)
    d = tl.arange(0, D_BLOCK)
    k_ptr += long_b * stride_kb + g.to(tl.int64) * stride_kg
    q_ptr += long_b * stride_qb + h.to(tl.int64) * stride_qh
    lse_ptr += (long_b * H + h) * T
    if temperature_ptr is not None:
        temperature_ptr += long_b * T
    slope = 0.0
    if slopes_ptr is not None:
        slope = tl.load(slopes_ptr + h)
    SLOPED: tl.constexpr = slopes_ptr is not None
    total = tl.zeros((BLOCK,), tl.float64)
    begin = tl.maximum(first + tl.maximum(nearest, 1) - offset, 0)
    stop = tl.minimum(end - offset, T)
    if lengths_ptr is None:
        stop = T
    if WINDOWED:
        stop = tl.where(nearest < window, stop, 0)
    for at in range(begin, stop, BLOCK):
        row = at + x
        position = row + offset
        column = at + offset - nearest - (BLOCK - 1) + wide
        low, high = keys_seen(
            position, row < stop, first, end, window, lengths_ptr, starts_ptr, stops_ptr, True, WINDOWED
        )
        k_at = k_ptr + column[None, :].to(tl.int64) * stride_ks + d[:, None] * stride_kd
        there = (column >= 0) & (column < S)
        k = tl.load(k_at, mask=there[None, :] & (d < D)[:, None], other=0.0)
        if UPCAST:
            k = k.to(tl.float32)
        p = _weights(
            q_ptr, lse_ptr, temperature_ptr, row, stop, k, stride_qt, stride_qd, position, column, factor, cap, slope,
            D, D_BLOCK, CAPPED, SLOPED, False, PRECISION, UPCAST,
        )  # fmt: skip
        p = tl.where((column[None, :] >= low[:, None]) & (column[None, :] < high[:, None]), p, 0.0)
        # Row r at distance nearest + x reads column r + BLOCK − 1 − x of the tile.
        upright = tl.gather(p, x[:, None] + (BLOCK - 1) - x[None, :], 1)
        total += tl.sum(upright, 0).to(tl.float64)
    distance = nearest + x
    tl.store(out_ptr + (long_b * H + h) * S + distance, total.to(tl.float32), mask=distance < S)
