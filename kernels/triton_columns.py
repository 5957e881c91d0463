"""Pass 2 on a GPU: what each key receives, from the saved log-sum-exp, one launch for all heads and sequences.

A program takes BLOCK_N keys of one query head and walks down the rows that see them: weights are exact at once, as
exp(s − lse), so sums need no rescaling, and each key has one owner: no atomics, equal bits every time.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from probe.kernels.triton_jit import jit
from probe.kernels.triton_tiles import LOG2E, bend, ends_of, extent, gate, queries_seen


@jit
def _weights(
    q_ptr: tl.tensor, lse_ptr: tl.tensor, temperature_ptr: tl.tensor, row: tl.tensor, stop: tl.tensor, k: tl.tensor,
    stride_qt: tl.tensor, stride_qd: tl.tensor, position: tl.tensor, column: tl.tensor, factor: tl.tensor,
    cap: tl.tensor, slope: tl.tensor, D: tl.constexpr, D_BLOCK: tl.constexpr, CAPPED: tl.constexpr,
    SLOPED: tl.constexpr, SIGMOID: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
) -> Any:  # fmt: skip
    """Normalised weights of a tile, before any mask: rows from `row` on (below `stop`) against the tile of keys."""
    d = tl.arange(0, D_BLOCK)
    real = row < stop
    q_at = q_ptr + row[:, None].to(tl.int64) * stride_qt + d[None, :] * stride_qd
    q = tl.load(q_at, mask=real[:, None] & (d < D)[None, :], other=0.0)
    if UPCAST:
        q = q.to(tl.float32)
    scale = tl.full((row.shape[0],), 1.0, tl.float32) * factor
    if temperature_ptr is not None:
        scale = scale / tl.load(temperature_ptr + row, mask=real, other=1.0)
    qk = tl.dot(q, k, input_precision=PRECISION)
    s = bend(qk, scale[:, None], cap, slope, position[:, None] - column[None, :], CAPPED, SLOPED)
    if SIGMOID:
        p = gate(s)
    else:
        p = tl.exp2(s - (tl.load(lse_ptr + row, mask=real, other=0.0) * LOG2E)[:, None])
    return p


@jit
def _banded(
    sums: tl.tensor, held: tl.tensor, p: tl.tensor, own: tl.tensor, real: tl.tensor, key_band: tl.tensor,
    first_key: tl.tensor, last_key: tl.tensor, key_block: tl.tensor, first: tl.tensor, n: tl.tensor,
    cells_ptr: tl.tensor, BANDS: tl.constexpr, STEPS: tl.constexpr, BLOCK_N: tl.constexpr,
) -> Any:  # fmt: skip
    """Add a tile to the thumbnail: sums by key of the row band at hand, written whenever they grow.

    Rows come in rising order, so a band is finished once left. cells_ptr [BANDS, STEPS, BANDS]: key band, how many key
    blocks after the band's first one, row band; each cell belongs to one program.
    """
    row_band = BANDS * own // n
    first_band = tl.min(tl.where(real, row_band, BANDS), 0)
    last_band = tl.max(tl.where(real, row_band, -1), 0)
    for band in range(first_band, last_band + 1):
        part = tl.sum(tl.where((row_band == band)[:, None] & real[:, None], p, 0.0), 0)
        sums = tl.where(held == band, sums, 0.0) + part
        held = held * 0 + band
        for other in range(first_key, last_key + 1):
            step = key_block - (first + (other * n + BANDS - 1) // BANDS) // BLOCK_N
            cell = tl.sum(tl.where(key_band == other, sums, 0.0), 0)
            tl.store(cells_ptr + (other * STEPS + step) * BANDS + band, cell)
    return sums, held


@jit
def columns_kernel(
    q_ptr: tl.tensor, k_ptr: tl.tensor, v_ptr: tl.tensor, lse_ptr: tl.tensor, received_ptr: tl.tensor,
    peak_ptr: tl.tensor, value_ptr: tl.tensor, count_ptr: tl.tensor, threshold_ptr: tl.tensor, cells_ptr: tl.tensor,
    lengths_ptr: tl.tensor, starts_ptr: tl.tensor, stops_ptr: tl.tensor, slopes_ptr: tl.tensor,
    temperature_ptr: tl.tensor, stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qt: tl.tensor,
    stride_qd: tl.tensor, stride_kb: tl.tensor, stride_kg: tl.tensor, stride_ks: tl.tensor, stride_kd: tl.tensor,
    stride_vb: tl.tensor, stride_vg: tl.tensor, stride_vs: tl.tensor, stride_vd: tl.tensor, B: tl.tensor,
    H: tl.tensor, T: tl.tensor, S: tl.tensor, offset: tl.tensor, window: tl.tensor, factor: tl.tensor,
    cap: tl.tensor, GROUP: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, D_BLOCK: tl.constexpr,
    DV_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, SIGMOID: tl.constexpr, COUNTS: tl.constexpr,
    COUNT_LANES: tl.constexpr, BANDS: tl.constexpr, STEPS: tl.constexpr, PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
) -> None:  # fmt: skip
    """One block of keys of one query head of one sequence: grid [blocks of keys, H, B].

    Writes, float32 [B, H, S]: received (Σ of P over rows, summed over tiles in float64), peak (max over rows, NaN
    where no row sees the key), value (received · ‖v‖); count [COUNTS, B, H, S] of rows with P above each threshold;
    cells of the thumbnail. Pointers that are None leave out what they would hold.
    """
    block = tl.program_id(0)
    h = tl.program_id(1)
    b = tl.program_id(2)
    g = h // GROUP
    long_b = b.to(tl.int64)
    column = block * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = column < S
    d = tl.arange(0, D_BLOCK)
    first, end = ends_of(lengths_ptr, b, S)
    if starts_ptr is not None:
        starts_ptr += long_b * S
        stops_ptr += long_b * S
    low, high = queries_seen(
        column, inside, first, end, window, offset, T, lengths_ptr, starts_ptr, stops_ptr, CAUSAL, WINDOWED
    )
    # Rows before row 0 are not there: a chunk's keys may be older than its queries.
    low = tl.maximum(low, 0)
    high = tl.maximum(tl.minimum(high, T), low)
    some = high > low
    k_ptr += long_b * stride_kb + g.to(tl.int64) * stride_kg
    q_ptr += long_b * stride_qb + h.to(tl.int64) * stride_qh
    k_at = k_ptr + column[None, :].to(tl.int64) * stride_ks + d[:, None] * stride_kd
    k = tl.load(k_at, mask=inside[None, :] & (d < D)[:, None], other=0.0)
    if UPCAST:
        k = k.to(tl.float32)
    if lse_ptr is not None:
        lse_ptr += (long_b * H + h) * T
    if temperature_ptr is not None:
        temperature_ptr += long_b * T
    slope = 0.0
    if slopes_ptr is not None:
        slope = tl.load(slopes_ptr + h)
    SLOPED: tl.constexpr = slopes_ptr is not None

    received = tl.zeros((BLOCK_N,), tl.float64)
    peak = tl.full((BLOCK_N,), 0.0, tl.float32)
    lanes = tl.arange(0, COUNT_LANES)
    counts = tl.zeros((COUNT_LANES, BLOCK_N), tl.int32)
    thresholds = tl.zeros((COUNT_LANES,), tl.float32)
    if COUNTS > 0:
        thresholds = tl.load(threshold_ptr + lanes, mask=lanes < COUNTS, other=float("inf"))
    n = end - first
    key_band = BANDS * (column - first) // n if BANDS > 0 else column
    valid = inside & (column >= first) & (column < end)
    first_key = tl.min(tl.where(valid, key_band, BANDS), 0)
    last_key = tl.max(tl.where(valid, key_band, -1), 0)
    if BANDS > 0:
        cells_ptr += (long_b * H + h) * BANDS * STEPS * BANDS
    sums = tl.zeros((BLOCK_N,), tl.float32)
    held = tl.min(low, 0) * 0 - 1

    begin, whole, edge, close = extent(low, high, inside, T, 0, BLOCK_M, True)
    for part in tl.static_range(3):
        start = begin if part == 0 else whole if part == 1 else edge
        stop = whole if part == 0 else edge if part == 1 else close
        for at in range(start, stop, BLOCK_M):
            row = at + tl.arange(0, BLOCK_M)
            position = row + offset
            p = _weights(
                q_ptr, lse_ptr, temperature_ptr, row, close, k, stride_qt, stride_qd, position, column, factor, cap,
                slope, D, D_BLOCK, CAPPED, SLOPED, SIGMOID, PRECISION, UPCAST,
            )  # fmt: skip
            if part != 1:
                p = tl.where((row[:, None] >= low[None, :]) & (row[:, None] < high[None, :]), p, 0.0)
            received += tl.sum(p, 0).to(tl.float64)
            if peak_ptr is not None:
                peak = tl.maximum(peak, tl.max(p, 0))
            for lane in tl.static_range(COUNTS):
                threshold = tl.sum(tl.where(lanes == lane, thresholds, 0.0), 0)
                above = tl.sum((p > threshold).to(tl.int32), 0)
                counts += tl.where(lanes[:, None] == lane, above[None, :], 0)
            if BANDS > 0:
                sums, held = _banded(
                    sums, held, p, position - first, row < close, key_band, first_key, last_key, block, first, n,
                    cells_ptr, BANDS, STEPS, BLOCK_N,
                )  # fmt: skip

    place = (long_b * H + h) * S + column
    if received_ptr is not None:
        tl.store(received_ptr + place, received.to(tl.float32), mask=inside)
    if peak_ptr is not None:
        tl.store(peak_ptr + place, tl.where(some, peak, float("nan")), mask=inside)
    if value_ptr is not None:
        e = tl.arange(0, DV_BLOCK)
        v_ptr += long_b * stride_vb + g.to(tl.int64) * stride_vg
        v_at = v_ptr + column[:, None].to(tl.int64) * stride_vs + e[None, :] * stride_vd
        v = tl.load(v_at, mask=inside[:, None] & (e < DV)[None, :], other=0.0).to(tl.float32)
        norm = tl.sqrt(tl.sum(v * v, 1))
        tl.store(value_ptr + place, received.to(tl.float32) * norm, mask=inside)
    if COUNTS > 0:
        size = tl.cast(B, tl.int64) * H * S
        at_count = count_ptr + lanes[:, None].to(tl.int64) * size + place[None, :]
        tl.store(at_count, counts, mask=inside[None, :] & (lanes < COUNTS)[:, None])
