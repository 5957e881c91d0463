"""Pass 1 on a GPU: attention itself and every row statistic, one launch for all heads and sequences.

A program takes BLOCK_M rows of one key/value head: the query heads of a group side by side at the same positions, so
that they share each tile of keys and values. Keys fall into three exact ranges of every row: rest, local, sinks
(`Request`). Each has its own maximum, sum and accumulator; what METRICS derives from them is taken at the end, and
z~ of an ablation is never written. Sums over rows leave as one number a block and head, to be added in fixed order.

Online softmax after Milakov and Gimelshein 2018 (arXiv 1805.02867) and FlashAttention-2 (Dao 2023, arXiv 2307.08691);
entropy is Σ p (s − m), rebased whenever m moves: Σ p s would cancel.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from probe.kernels.triton_jit import jit
from probe.kernels.triton_row_ends import add, along, between, first_keys, normalised, put, sinks_of, write
from probe.kernels.triton_sweep import earliest, joined, labels_of, started, sweep
from probe.kernels.triton_tiles import HIDDEN, LN2, ends_of, extent, gate, keys_seen


@jit
def rows_of(
    block: tl.tensor, g: tl.tensor, T: tl.tensor, offset: tl.tensor, first: tl.tensor, end: tl.tensor,
    window: tl.tensor, lengths_ptr: tl.tensor, starts_ptr: tl.tensor, stops_ptr: tl.tensor, GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
) -> Any:  # fmt: skip
    """The rows of a block: query, head, whether it exists, position, and the span of the keys that it sees."""
    r = block * BLOCK_M + tl.arange(0, BLOCK_M)
    t = r // GROUP
    real = t < T
    position = t + offset
    low, high = keys_seen(position, real, first, end, window, lengths_ptr, starts_ptr, stops_ptr, CAUSAL, WINDOWED)
    return t, g * GROUP + r % GROUP, real, position, low, high


@jit
def rows_kernel(
    q_ptr: tl.tensor, k_ptr: tl.tensor, v_ptr: tl.tensor, z_ptr: tl.tensor, rows_ptr: tl.tensor, argmax_ptr: tl.tensor,
    parts_ptr: tl.tensor, lookup_ptr: tl.tensor, partial_ptr: tl.tensor, query_label_ptr: tl.tensor,
    key_label_ptr: tl.tensor, gap_ptr: tl.tensor, lengths_ptr: tl.tensor, starts_ptr: tl.tensor, stops_ptr: tl.tensor,
    sinks_ptr: tl.tensor, slopes_ptr: tl.tensor, temperature_ptr: tl.tensor, direction_ptr: tl.tensor,
    mean_ptr: tl.tensor, stride_qb: tl.tensor, stride_qh: tl.tensor, stride_qt: tl.tensor, stride_qd: tl.tensor,
    stride_kb: tl.tensor, stride_kg: tl.tensor, stride_ks: tl.tensor, stride_kd: tl.tensor, stride_vb: tl.tensor,
    stride_vg: tl.tensor, stride_vs: tl.tensor, stride_vd: tl.tensor, stride_gb: tl.tensor, stride_gh: tl.tensor,
    stride_gt: tl.tensor, stride_gd: tl.tensor, stride_mb: tl.tensor, stride_mh: tl.tensor, stride_mt: tl.tensor,
    stride_md: tl.tensor, B: tl.tensor, G: tl.tensor, T: tl.tensor, S: tl.tensor, blocks: tl.tensor, last: tl.tensor,
    final: tl.tensor, offset: tl.tensor, window: tl.tensor, factor: tl.tensor, cap: tl.tensor, kept_sinks: tl.tensor,
    kept_window: tl.tensor, GROUP: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, D_BLOCK: tl.constexpr,
    DV_BLOCK: tl.constexpr, HEADS_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    LOCAL_BLOCK: tl.constexpr, SINK_BLOCK: tl.constexpr, STAGES: tl.constexpr, LOCAL_STAGES: tl.constexpr,
    WIDE: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, SIGMOID: tl.constexpr,
    CLASSES: tl.constexpr, LOOKUPS: tl.constexpr, GAPS: tl.constexpr, LSE: tl.constexpr, ENTROPY: tl.constexpr,
    MAX_WEIGHT: tl.constexpr, DISTANCE: tl.constexpr, FIRST: tl.constexpr, PREVIOUS: tl.constexpr,
    CURRENT: tl.constexpr, LOCAL: tl.constexpr, ROW_MASS: tl.constexpr, SINK_MASS: tl.constexpr,
    LOCAL_MASS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
) -> None:  # fmt: skip
    """One block of rows of one key/value head of one sequence: grid [blocks, G, B].

    Row r of a block is query r // GROUP, head r % GROUP of the group. LSE … LOCAL_MASS: slot of that statistic in
    rows_ptr [slots, B, H, T], −1 where it is not asked for. Pointers that are None leave out what they would hold.
    """
    # The longest rows first: what is left for the last programs is short.
    g = tl.program_id(1)
    b = tl.program_id(2)
    H = G * GROUP
    first, end = ends_of(lengths_ptr, b, S)
    if starts_ptr is not None:
        starts_ptr += b.to(tl.int64) * S
        stops_ptr += b.to(tl.int64) * S
    t, head, real, position, low, high = rows_of(
        blocks - 1 - tl.program_id(0), g, T, offset, first, end, window, lengths_ptr, starts_ptr, stops_ptr,
        GROUP, BLOCK_M, CAUSAL, WINDOWED,
    )  # fmt: skip
    seen = high > low
    long_b = b.to(tl.int64)
    d = tl.arange(0, D_BLOCK)
    e = tl.arange(0, DV_BLOCK)
    q_at = q_ptr + (long_b * stride_qb + head.to(tl.int64) * stride_qh + t.to(tl.int64) * stride_qt)[:, None]
    q = tl.load(q_at + d[None, :] * stride_qd, mask=real[:, None] & (d < D)[None, :], other=0.0)
    if UPCAST:
        q = q.to(tl.float32)
    k_ptr += long_b * stride_kb + g.to(tl.int64) * stride_kg
    v_ptr += long_b * stride_vb + g.to(tl.int64) * stride_vg
    factor = tl.full((BLOCK_M,), 1.0, tl.float32) * factor
    if temperature_ptr is not None:
        factor = factor / tl.load(temperature_ptr + long_b * T + t, mask=real, other=1.0)
    slope = 0.0
    if slopes_ptr is not None:
        slope = tl.load(slopes_ptr + head, mask=real, other=0.0)[:, None]
    SLOPED: tl.constexpr = slopes_ptr is not None
    ARGMAX: tl.constexpr = argmax_ptr is not None
    EFFECTS: tl.constexpr = direction_ptr is not None
    SURPRISE: tl.constexpr = ENTROPY >= 0
    FAR: tl.constexpr = DISTANCE >= 0
    NEAR: tl.constexpr = PREVIOUS >= 0 or CURRENT >= 0
    NEAR_REST: tl.constexpr = NEAR and not WIDE
    # Parts that are written make the sum of what streaming drops needless.
    DROPPED: tl.constexpr = CLASSES and not SIGMOID and partial_ptr is not None and parts_ptr is None
    LOW_EDGE: tl.constexpr = WINDOWED or starts_ptr is not None
    key_label = key_label_ptr
    if LOOKUPS > 0:
        query_label_ptr += long_b * T
        key_label += long_b * S
    stride_ql = tl.cast(B, tl.int64) * T
    stride_kl = tl.cast(B, tl.int64) * S
    labels = labels_of(query_label_ptr, t, real, stride_ql, LOOKUPS)

    # The rest, or everything where there are no classes.
    start, stop = low, high
    if CLASSES:
        start = tl.maximum(low, first + kept_sinks)
        stop = tl.maximum(start, tl.minimum(high, position - kept_window + 1))
    begin, whole, edge, close = extent(start, stop, seen, S, 2 if NEAR_REST else 0, BLOCK_N, LOW_EDGE)
    state = started(BLOCK_M, DV_BLOCK, LOOKUPS, S)
    for part in tl.static_range(3):
        if part != 0 or LOW_EDGE:
            state = sweep(
                state,
                begin if part == 0 else whole if part == 1 else edge,
                whole if part == 0 else edge if part == 1 else close,
                close, start, stop, position, q, k_ptr, v_ptr, stride_ks, stride_kd, stride_vs, stride_vd,
                factor, cap, slope, labels, key_label, gap_ptr, stride_kl,
                D, DV, D_BLOCK, DV_BLOCK, BLOCK_N, STAGES, part != 1, CAPPED, SLOPED, SIGMOID, SURPRISE, FAR,
                NEAR_REST, ARGMAX, LOOKUPS, GAPS, PRECISION, UPCAST,
            )  # fmt: skip
    m, mass_rest, rest, surprise, far, previous, current, found, best = state
    m_rest = m
    sums = (mass_rest, surprise, far, previous, current, found)
    if EFFECTS:
        # While no other sums are held: a tile of directions takes as many registers as they do.
        g_row = long_b * stride_gb + head.to(tl.int64) * stride_gh + t.to(tl.int64) * stride_gt
        along_rest = along(rest, direction_ptr + g_row, stride_gd, real, DV)
    # From here on the rows are those of block `last` − program: the same, but the compiler cannot know it, so it
    # computes them anew instead of holding them in registers that the loop wants.
    block = last - tl.program_id(0)
    t, head, real, position, low, high = rows_of(
        block, g, T, offset, first, end, window, lengths_ptr, starts_ptr, stops_ptr, GROUP, BLOCK_M, CAUSAL, WINDOWED
    )
    seen = high > low
    labels = labels_of(query_label_ptr, t, real, stride_ql, LOOKUPS)
    if CLASSES:
        start = tl.maximum(tl.maximum(low, first + kept_sinks), position - kept_window + 1)
        stop = tl.maximum(start, high)
        begin, whole, edge, close = extent(start, stop, seen, S, 0, LOCAL_BLOCK, False)
        state = started(BLOCK_M, DV_BLOCK, LOOKUPS, S)
        state = sweep(
            state, begin, close, close, start, stop, position, q, k_ptr, v_ptr, stride_ks, stride_kd,
            stride_vs, stride_vd, factor, cap, slope, labels, key_label, gap_ptr, stride_kl, D, DV, D_BLOCK, DV_BLOCK,
            LOCAL_BLOCK, LOCAL_STAGES, True, CAPPED, SLOPED, SIGMOID,
            SURPRISE, FAR, NEAR, ARGMAX, LOOKUPS, GAPS, PRECISION, UPCAST,
        )  # fmt: skip
        m_local, mass_local, local, surprise, far, previous, current, found, other = state
        if ARGMAX:
            best = earliest(m, best, m_local, other)
        m, sums = joined(m, m_local, sums, (mass_local, surprise, far, previous, current, found), SIGMOID, LOOKUPS)
    # And once more, now that the loops are done with them.
    block = final - tl.program_id(0)
    t, head, real, position, low, high = rows_of(
        block, g, T, offset, first, end, window, lengths_ptr, starts_ptr, stops_ptr, GROUP, BLOCK_M, CAUSAL, WINDOWED
    )
    seen = high > low
    labels = labels_of(query_label_ptr, t, real, stride_ql, LOOKUPS)
    column = first + tl.arange(0, SINK_BLOCK)
    inside = column < end
    if CLASSES or FIRST >= 0:
        s, distance = first_keys(
            q, k_ptr, stride_ks, stride_kd, column, inside, position, low, high, factor, cap, slope, D, D_BLOCK,
            CAPPED, SLOPED, PRECISION, UPCAST,
        )  # fmt: skip
        s_first = tl.max(tl.where((column == first)[None, :], s, HIDDEN), 1)
    if CLASSES:
        m_sink, place, p_sink, more, near_sink = sinks_of(
            s, distance, column < first + kept_sinks, kept_window, column, inside, labels, key_label, gap_ptr,
            stride_kl, SIGMOID, ARGMAX, LOOKUPS,
        )  # fmt: skip
        mass_sink = more[0]
        if ARGMAX:
            best = earliest(m, best, m_sink, first + place)
        m, sums = joined(m, m_sink, sums, more, SIGMOID, LOOKUPS)
    mass, surprise, far, previous, current, found = sums
    top, inverse, scale, log_total, surprise, logit, spent = normalised(
        m, mass, surprise, head, real, sinks_ptr, SIGMOID
    )

    size = tl.cast(B, tl.int64) * H * T
    row = (long_b * H + head) * T + t
    # A NaN in q makes the row's statistics NaN: a maximum would drop it, a sum keeps it.
    good = seen & (mass == mass)
    put(rows_ptr, LSE, size, row, (top + log_total) * LN2, good, real)
    put(rows_ptr, ENTROPY, size, row, (mass * scale * log_total - surprise * inverse) * LN2, good, real)
    put(rows_ptr, MAX_WEIGHT, size, row, scale, good, real)
    put(rows_ptr, DISTANCE, size, row, far * scale, good, real)
    put(rows_ptr, PREVIOUS, size, row, previous * scale, good, real)
    put(rows_ptr, CURRENT, size, row, current * scale, good, real)
    put(rows_ptr, ROW_MASS, size, row, mass * scale, good, real)
    if FIRST >= 0:
        weight = gate(s_first) if SIGMOID else tl.exp2(s_first - top) * inverse
        put(rows_ptr, FIRST, size, row, weight, good, real)
    if ARGMAX:
        tl.store(argmax_ptr + row, tl.where(good, best, -1), mask=real)
    for n in tl.static_range(LOOKUPS):
        put(lookup_ptr, n, size, row, found[n] * scale, good, real)

    scale_rest = inverse
    if not SIGMOID:
        scale_rest = tl.exp2(m_rest - top) * inverse
    z = rest * scale_rest[:, None]
    lost = mass * 0
    nan = tl.where(seen, 0.0, float("nan"))
    e = tl.arange(0, DV_BLOCK)
    if EFFECTS:
        g_at = direction_ptr + (
            long_b * stride_gb + head.to(tl.int64) * stride_gh + t.to(tl.int64) * stride_gt
        )
        along_rest = along_rest * scale_rest
        along_all = along_rest
    if CLASSES:
        # The kept classes relative to their own maximum: their mean stays exact however small their mass is.
        m_keep = tl.maximum(m_sink, m_local)
        if sinks_ptr is not None:
            m_keep = tl.maximum(m_keep, logit)
        a_sink = inverse
        a_local = inverse
        scale_keep = inverse
        if not SIGMOID:
            a_sink = tl.exp2(m_sink - m_keep)
            a_local = tl.exp2(m_local - m_keep)
            scale_keep = tl.exp2(m_keep - top) * inverse
        mass_keep = mass_sink * a_sink + mass_local * a_local
        if sinks_ptr is not None:
            mass_keep += tl.exp2(logit - m_keep)
        share_sink = mass_sink * a_sink * scale_keep
        share_local = mass_local * a_local * scale_keep
        share_rest = mass_rest * scale_rest
        put(rows_ptr, SINK_MASS, size, row, share_sink, good, real)
        put(rows_ptr, LOCAL_MASS, size, row, share_local, good, real)
        put(rows_ptr, LOCAL, size, row, share_local + near_sink * a_sink * scale_keep, good, real)
        v_at = v_ptr + column[:, None].to(tl.int64) * stride_vs + e[None, :] * stride_vd
        v = tl.load(v_at, mask=inside[:, None] & (e < DV)[None, :], other=0.0)
        if UPCAST:
            v = v.to(tl.float32)
        keep = local * a_local[:, None]
        if EFFECTS:
            near_local = along(keep, g_at, stride_gd, real, DV)
            # Σ p ⟨v, g⟩ for the few sinks: a small product, and no difference of larger numbers.
            direction = tl.load(
                g_at[:, None] + e[None, :] * stride_gd, mask=real[:, None] & (e < DV)[None, :], other=0.0
            )
            if direction.dtype == v.dtype:
                of_sink = tl.dot(direction, tl.trans(v), input_precision=PRECISION)
            else:
                of_sink = tl.dot(direction.to(tl.float32), tl.trans(v).to(tl.float32), input_precision=PRECISION)
            near_sinks = tl.sum(p_sink * of_sink, 1) * a_sink
            along_local = near_local * scale_keep
            along_sink = near_sinks * scale_keep
            along_all = along_rest + along_local + along_sink
        if parts_ptr is not None:
            write(parts_ptr + (size + row) * DV, keep * scale_keep[:, None] + nan[:, None], real, DV)
        keep = tl.dot((p_sink * a_sink[:, None]).to(v.dtype), v, keep, input_precision=PRECISION)
        if DROPPED:
            # Before z takes up its registers.
            gone = z - keep * (share_rest / mass_keep)[:, None]
            lost = tl.sum(gone * gone, 1)
        z += keep * scale_keep[:, None]
    z = tl.where(seen[:, None], z, 0.0)
    write(z_ptr + row * DV, z, real, DV)

    if partial_ptr is not None:
        lane = tl.arange(0, HEADS_BLOCK)
        mine = ((head - g * GROUP)[:, None] == lane[None, :]) & seen[:, None]
        at = (long_b * H + g * GROUP + lane) * blocks + block
        span = tl.cast(B, tl.int64) * H * blocks
        inside_group = lane < GROUP
        add(partial_ptr, 1, span, at, mine, inside_group, tl.sum(z * z, 1))
        if DROPPED:
            add(partial_ptr, 0, span, at, mine, inside_group, lost)
        if EFFECTS:
            add(partial_ptr, 2, span, at, mine, inside_group, along_all)
            if CLASSES and not SIGMOID:
                others = share_rest + share_local + spent
                # Where the sinks are all there is, nothing can take their place: the row stays as it is.
                moved = tl.where(others > 0, (along_rest + along_local) * (share_sink / others), along_sink)
                add(partial_ptr, 4, span, at, mine, inside_group, along_sink - moved)
                instead = (near_local + near_sinks) * (share_rest / mass_keep)
                add(partial_ptr, 5, span, at, mine, inside_group, along_rest - instead)
            if mean_ptr is not None:
                mean_at = mean_ptr + (
                    long_b * stride_mb + head.to(tl.int64) * stride_mh + t.to(tl.int64) * stride_mt
                )
                of_mean = between(mean_at, stride_md, g_at, stride_gd, real, DV, DV_BLOCK)
                add(partial_ptr, 3, span, at, mine, inside_group, along_all - of_mean)
    if CLASSES and parts_ptr is not None:
        # Last, when the sums of the other classes hold no registers.
        sink = tl.dot(p_sink.to(v.dtype), v, input_precision=PRECISION)
        write(parts_ptr + row * DV, sink * (a_sink * scale_keep)[:, None] + nan[:, None], real, DV)
