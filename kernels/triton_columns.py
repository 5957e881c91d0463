"""Pass 2 on a GPU: what each key receives, from the saved log-sum-exp, one launch for all heads and sequences.

A program takes BLOCK_N keys of one query head and walks down the rows that see them: weights are exact at once, as
exp(s − lse), so sums need no rescaling, and each key has one owner: no atomics, equal bits every time.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from probe.kernels.triton_jit import jit
from probe.kernels.triton_tiles import bend, ends_of, extent, gate, none, queries_seen


@jit
def weights(
    q_ptr: tl.tensor, shift_ptr: tl.tensor, temperature_ptr: tl.tensor, at: tl.tensor, stop: tl.tensor, k: tl.tensor,
    stride_qt: tl.tensor, stride_qd: tl.tensor, distance: tl.tensor, factor: tl.tensor, cap: tl.tensor,
    slope: tl.tensor, BLOCK_M: tl.constexpr, D: tl.constexpr, D_BLOCK: tl.constexpr, CAPPED: tl.constexpr,
    SLOPED: tl.constexpr, SIGMOID: tl.constexpr, PARTIAL: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
) -> Any:  # fmt: skip
    """Normalised weights of a tile of keys in rows [at, at + BLOCK_M), keys × rows, before any mask.

    Keys come first so that what a key receives is a sum within a thread, not across warps. shift: log-sum-exp times
    log2 e. PARTIAL: rows from `stop` on are not there; their weight is 0.
    """
    x = tl.arange(0, BLOCK_M)
    d = tl.arange(0, D_BLOCK)
    row = at + x
    real = row < stop
    q_at = q_ptr + at * tl.cast(stride_qt, tl.int64) + (x[None, :] * stride_qt + d[:, None] * stride_qd)
    if PARTIAL:
        q = tl.load(q_at, mask=real[None, :] & (d < D)[:, None], other=0.0)
    elif D == D_BLOCK:
        q = tl.load(q_at)
    else:
        q = tl.load(q_at, mask=(d < D)[:, None], other=0.0)
    if UPCAST:
        q = q.to(tl.float32)
    scale = tl.full((BLOCK_M,), 1.0, tl.float32) * factor
    if temperature_ptr is not None:
        scale = scale / tl.load(temperature_ptr + row, mask=real, other=1.0)
    s = bend(tl.dot(k, q, input_precision=PRECISION), scale[None, :], cap, slope, distance, CAPPED, SLOPED)
    if SIGMOID:
        p = tl.where(real[None, :], gate(s), 0.0) if PARTIAL else gate(s)
    elif PARTIAL:
        p = tl.exp2(s - tl.load(shift_ptr + row, mask=real, other=float("inf"))[None, :])
    else:
        p = tl.exp2(s - tl.load(shift_ptr + row)[None, :])
    return p


@jit
def counted(counts: tl.tensor, p: tl.tensor, threshold_ptr: tl.tensor, COUNTS: tl.constexpr) -> Any:
    """Counts of rows above each threshold, with those of a tile added."""
    more = none()
    for number in tl.static_range(COUNTS):
        above = (p > tl.load(threshold_ptr + number)).to(tl.int32)
        more = more + (counts[number] + tl.sum(above, 1),)
    return more


@jit
def meet(
    state: tl.tensor, start: tl.tensor, stop: tl.tensor, limit: tl.tensor, low: tl.tensor, high: tl.tensor,
    q_ptr: tl.tensor, shift_ptr: tl.tensor, temperature_ptr: tl.tensor, k: tl.tensor, threshold_ptr: tl.tensor,
    stride_qt: tl.tensor, stride_qd: tl.tensor, offset: tl.tensor, column: tl.tensor, factor: tl.tensor,
    cap: tl.tensor, slope: tl.tensor, D: tl.constexpr, D_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr,
    CAPPED: tl.constexpr, SLOPED: tl.constexpr, SIGMOID: tl.constexpr, MASKED: tl.constexpr, PEAK: tl.constexpr,
    COUNTS: tl.constexpr, BANDS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
) -> Any:  # fmt: skip
    """Rows [start, stop) into the sums of each key: Σ P, Σ P of the band at hand, maximum, counts.

    MASKED: the rows of a key end inside a tile, or the tile at `limit`.
    """
    received, sums, peak, counts = state
    for at in range(start, stop, BLOCK_M):
        row = at + tl.arange(0, BLOCK_M)
        p = weights(
            q_ptr, shift_ptr, temperature_ptr, at, limit, k, stride_qt, stride_qd,
            (row + offset)[None, :] - column[:, None], factor, cap, slope, BLOCK_M, D, D_BLOCK, CAPPED, SLOPED,
            SIGMOID, MASKED, PRECISION, UPCAST,
        )  # fmt: skip
        if MASKED:
            p = tl.where((row[None, :] >= low[:, None]) & (row[None, :] < high[:, None]), p, 0.0)
        by_key = tl.sum(p, 1)
        received += by_key.to(tl.float64)
        if BANDS > 0:
            sums += by_key
        if PEAK:
            peak = tl.maximum(peak, tl.max(p, 1))
        counts = counted(counts, p, threshold_ptr, COUNTS)
    return received, sums, peak, counts


@jit
def _write_cells(
    cells_ptr: tl.tensor, sums: tl.tensor, band: tl.tensor, key_band: tl.tensor, first_key: tl.tensor,
    last_key: tl.tensor, block: tl.tensor, first: tl.tensor, n: tl.tensor, steps: tl.tensor, BANDS: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """A program's part of the thumbnail cells of one band of rows, from its sums by key.

    cells_ptr [BANDS, steps, BANDS]: key band, how many key blocks after the band's first one, row band; each cell
    belongs to one program.
    """
    for other in range(first_key, last_key + 1):
        step = block - (first + (other * n + BANDS - 1) // BANDS) // BLOCK_N
        cell = tl.sum(tl.where(key_band == other, sums, 0.0), 0)
        tl.store(cells_ptr + (other * steps + step) * BANDS + band, cell)


@jit
def columns_kernel(
    q_ptr: tl.tensor, k_ptr: tl.tensor, v_ptr: tl.tensor, shift_ptr: tl.tensor, received_ptr: tl.tensor,
    peak_ptr: tl.tensor, value_ptr: tl.tensor, count_ptr: tl.tensor, threshold_ptr: tl.tensor, cells_ptr: tl.tensor,
    lengths_ptr: tl.tensor, starts_ptr: tl.tensor, stops_ptr: tl.tensor, slopes_ptr: tl.tensor,
    temperature_ptr: tl.tensor, stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qt: tl.tensor,
    stride_qd: tl.tensor, stride_kb: tl.tensor, stride_kg: tl.tensor, stride_ks: tl.tensor, stride_kd: tl.tensor,
    stride_vb: tl.tensor, stride_vg: tl.tensor, stride_vs: tl.tensor, stride_vd: tl.tensor, B: tl.tensor,
    H: tl.tensor, T: tl.tensor, S: tl.tensor, offset: tl.tensor, window: tl.tensor, factor: tl.tensor,
    cap: tl.tensor, steps: tl.tensor, GROUP: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, D_BLOCK: tl.constexpr,
    DV_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, SIGMOID: tl.constexpr, COUNTS: tl.constexpr,
    BANDS: tl.constexpr, PRECISION: tl.constexpr,
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
    k_at = k_ptr + column[:, None].to(tl.int64) * stride_ks + d[None, :] * stride_kd
    k = tl.load(k_at, mask=inside[:, None] & (d < D)[None, :], other=0.0)
    if UPCAST:
        k = k.to(tl.float32)
    if shift_ptr is not None:
        shift_ptr += (long_b * H + h) * T
    if temperature_ptr is not None:
        temperature_ptr += long_b * T
    slope = 0.0
    if slopes_ptr is not None:
        slope = tl.load(slopes_ptr + h)
    SLOPED: tl.constexpr = slopes_ptr is not None
    PEAK: tl.constexpr = peak_ptr is not None

    counts = none()
    for _ in tl.static_range(COUNTS):
        counts = counts + (tl.zeros((BLOCK_N,), tl.int32),)
    n = end - first
    key_band = BANDS * (column - first) // n if BANDS > 0 else column
    valid = inside & (column >= first) & (column < end)
    first_key = tl.min(tl.where(valid, key_band, BANDS), 0)
    last_key = tl.max(tl.where(valid, key_band, -1), 0)
    if BANDS > 0:
        cells_ptr += (long_b * H + h) * BANDS * steps * BANDS
    # Rows come in rising order and band by band, so a band's cells are whole once the last rows of it were met.
    held = tl.min(low, 0) * 0 - 1
    sums = tl.zeros((BLOCK_N,), tl.float32)
    state = (tl.zeros((BLOCK_N,), tl.float64), sums, sums, counts)
    begin, whole, edge, close = extent(low, high, inside, T, 0, BLOCK_M, True)
    for part in tl.static_range(3):
        start = begin if part == 0 else whole if part == 1 else edge
        stop = tl.minimum(whole if part == 0 else edge, close) if part != 2 else close
        first_band = 0
        last_band = 0
        if BANDS > 0:
            first_band = BANDS * (start - first) // n
            last_band = BANDS * (stop - 1 - first) // n
        for band in range(first_band, last_band + 1):
            if BANDS > 0:
                band_start = tl.maximum(start, first + (band * n + BANDS - 1) // BANDS)
                band_stop = tl.minimum(stop, first + ((band + 1) * n + BANDS - 1) // BANDS)
                state = (state[0], tl.where(held == band, state[1], 0.0), state[2], state[3])
                held = held * 0 + band
            else:
                band_start = start
                band_stop = stop
            tail = band_start
            if part == 1:
                tail = band_start + tl.maximum(band_stop - band_start, 0) // BLOCK_M * BLOCK_M
                state = meet(
                    state, band_start, tail, band_stop, low, high, q_ptr, shift_ptr, temperature_ptr, k, threshold_ptr,
                    stride_qt, stride_qd, offset, column, factor, cap, slope, D, D_BLOCK, BLOCK_M, CAPPED, SLOPED,
                    SIGMOID, False, PEAK, COUNTS, BANDS, PRECISION, UPCAST,
                )  # fmt: skip
            state = meet(
                state, tail, band_stop, band_stop, low, high, q_ptr, shift_ptr, temperature_ptr, k, threshold_ptr,
                stride_qt, stride_qd, offset, column, factor, cap, slope, D, D_BLOCK, BLOCK_M, CAPPED, SLOPED,
                SIGMOID, True, PEAK, COUNTS, BANDS, PRECISION, UPCAST,
            )  # fmt: skip
            if BANDS > 0:
                _write_cells(
                    cells_ptr, state[1], band, key_band, first_key, last_key, block, first, n, steps, BANDS, BLOCK_N
                )  # fmt: skip
    received, sums, peak, counts = state

    place = (long_b * H + h) * S + column
    if received_ptr is not None:
        tl.store(received_ptr + place, received.to(tl.float32), mask=inside)
    if peak_ptr is not None:
        tl.store(peak_ptr + place, tl.where(some & (received == received), peak, float("nan")), mask=inside)
    if value_ptr is not None:
        e = tl.arange(0, DV_BLOCK)
        v_ptr += long_b * stride_vb + g.to(tl.int64) * stride_vg
        v_at = v_ptr + column[:, None].to(tl.int64) * stride_vs + e[None, :] * stride_vd
        v = tl.load(v_at, mask=inside[:, None] & (e < DV)[None, :], other=0.0).to(tl.float32)
        norm = tl.sqrt(tl.sum(v * v, 1))
        tl.store(value_ptr + place, received.to(tl.float32) * norm, mask=inside)
    size = tl.cast(B, tl.int64) * H * S
    for number in tl.static_range(COUNTS):
        tl.store(count_ptr + number * size + place, counts[number], mask=inside)
