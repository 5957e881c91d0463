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
from probe.kernels.triton_sweep import earliest, highest, joined_sums, labelled, started, sweep
from probe.kernels.triton_tiles import HIDDEN, LN2, LOG2E, bend, ends_of, extent, gate, keys_seen


@jit
def _put(
    rows_ptr: tl.tensor,
    SLOT: tl.constexpr,
    size: tl.tensor,
    row: tl.tensor,
    value: tl.tensor,
    seen: tl.tensor,
    real: tl.tensor,
) -> None:
    """Write one row statistic to its slot, NaN where the query sees no key; nothing where it was not asked for."""
    if SLOT >= 0:
        tl.store(rows_ptr + SLOT * size + row, tl.where(seen, value, float("nan")), mask=real)


@jit
def _add(
    partial_ptr: tl.tensor,
    FIELD: tl.constexpr,
    size: tl.tensor,
    at: tl.tensor,
    mine: tl.tensor,
    inside: tl.tensor,
    value: tl.tensor,
) -> None:
    """Sum a row value over the block, head by head, into this block's place of one partial."""
    total = tl.sum(tl.where(mine, value[:, None], 0.0), 0)
    tl.store(partial_ptr + FIELD * size + at, total, mask=inside)


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
    q_ptr: tl.tensor, k_ptr: tl.tensor, v_ptr: tl.tensor, z_ptr: tl.tensor, rows_ptr: tl.tensor,
    argmax_ptr: tl.tensor, parts_ptr: tl.tensor, lookup_ptr: tl.tensor, partial_ptr: tl.tensor,
    query_label_ptr: tl.tensor, key_label_ptr: tl.tensor, gap_ptr: tl.tensor, lengths_ptr: tl.tensor,
    starts_ptr: tl.tensor, stops_ptr: tl.tensor, sinks_ptr: tl.tensor, slopes_ptr: tl.tensor,
    temperature_ptr: tl.tensor, direction_ptr: tl.tensor, mean_ptr: tl.tensor, stride_qb: tl.tensor,
    stride_qh: tl.tensor, stride_qt: tl.tensor, stride_qd: tl.tensor, stride_kb: tl.tensor, stride_kg: tl.tensor,
    stride_ks: tl.tensor, stride_kd: tl.tensor, stride_vb: tl.tensor, stride_vg: tl.tensor, stride_vs: tl.tensor,
    stride_vd: tl.tensor, stride_gb: tl.tensor, stride_gh: tl.tensor, stride_gt: tl.tensor, stride_gd: tl.tensor,
    stride_mb: tl.tensor, stride_mh: tl.tensor, stride_mt: tl.tensor, stride_md: tl.tensor, B: tl.tensor,
    G: tl.tensor, T: tl.tensor, S: tl.tensor, blocks: tl.tensor, last: tl.tensor, offset: tl.tensor, window: tl.tensor,
    factor: tl.tensor, cap: tl.tensor, kept_sinks: tl.tensor, kept_window: tl.tensor, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, D_BLOCK: tl.constexpr, DV_BLOCK: tl.constexpr, HEADS_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LOCAL_BLOCK: tl.constexpr, SINK_BLOCK: tl.constexpr,
    STAGES: tl.constexpr, LOCAL_STAGES: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, SIGMOID: tl.constexpr, CLASSES: tl.constexpr,
    LOOKUPS: tl.constexpr, LANES: tl.constexpr, GAPS: tl.constexpr, LSE: tl.constexpr, ENTROPY: tl.constexpr,
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
    LOW_EDGE: tl.constexpr = WINDOWED or starts_ptr is not None
    label_row = tl.where(real, long_b * T + t, 0)
    key_label = key_label_ptr
    if LOOKUPS > 0:
        key_label = key_label_ptr + long_b * S
    stride_ql = tl.cast(B, tl.int64) * T
    stride_kl = tl.cast(B, tl.int64) * S

    # The rest, or everything where there are no classes.
    start, stop = low, high
    if CLASSES:
        start = tl.maximum(low, first + kept_sinks)
        stop = tl.maximum(start, tl.minimum(high, position - kept_window + 1))
    begin, whole, edge, close = extent(start, stop, seen, S, 2 if NEAR else 0, BLOCK_N, LOW_EDGE)
    state = started(BLOCK_M, DV_BLOCK, LANES, S)
    for part in tl.static_range(3):
        if part != 0 or LOW_EDGE:
            state = sweep(
                state,
                begin if part == 0 else whole if part == 1 else edge,
                whole if part == 0 else edge if part == 1 else close,
                close, start, stop, position, q, k_ptr, v_ptr, stride_ks, stride_kd, stride_vs, stride_vd,
                factor, cap, slope, query_label_ptr, key_label, gap_ptr, label_row, stride_ql, stride_kl,
                D, DV, D_BLOCK, DV_BLOCK, BLOCK_N, STAGES, part != 1, CAPPED, SLOPED, SIGMOID, SURPRISE, FAR, NEAR,
                ARGMAX, LOOKUPS, LANES, GAPS, PRECISION, UPCAST,
            )  # fmt: skip
    m_rest, norm, rest, surprise, far, previous, current, lanes, best = state
    mass_rest = norm
    sums = (norm, surprise, far, previous, current, lanes)
    m = m_rest
    if EFFECTS:
        # While no other sums are held: a tile of directions takes as many registers as they do.
        g_row = long_b * stride_gb + head.to(tl.int64) * stride_gh + t.to(tl.int64) * stride_gt
        g_at = direction_ptr + g_row[:, None] + e[None, :] * stride_gd
        direction = tl.load(g_at, mask=real[:, None] & (e < DV)[None, :], other=0.0)
        along_rest = tl.sum(rest * direction.to(tl.float32), 1)
    # From here on the rows are those of block `last` − program: the same, but the compiler cannot know it, so it
    # computes them anew instead of holding them in registers that the loop wants.
    block = last - tl.program_id(0)
    t, head, real, position, low, high = rows_of(
        block, g, T, offset, first, end, window, lengths_ptr, starts_ptr, stops_ptr, GROUP, BLOCK_M, CAUSAL, WINDOWED
    )
    seen = high > low
    row = (long_b * H + head) * T + t
    if CLASSES:
        start = tl.maximum(tl.maximum(low, first + kept_sinks), position - kept_window + 1)
        stop = tl.maximum(start, high)
        begin, whole, edge, close = extent(start, stop, seen, S, 0, LOCAL_BLOCK, False)
        state = started(BLOCK_M, DV_BLOCK, LANES, S)
        state = sweep(
            state, begin, close, close, start, stop, position, q, k_ptr, v_ptr, stride_ks, stride_kd,
            stride_vs, stride_vd, factor, cap, slope, query_label_ptr, key_label, gap_ptr, label_row,
            stride_ql, stride_kl, D, DV, D_BLOCK, DV_BLOCK, LOCAL_BLOCK, LOCAL_STAGES, True, CAPPED, SLOPED, SIGMOID,
            SURPRISE, FAR, NEAR, ARGMAX, LOOKUPS, LANES, GAPS, PRECISION, UPCAST,
        )  # fmt: skip
        m_local, mass_local, local, surprise, far, previous, current, lanes, other = state
        if ARGMAX:
            best = earliest(m, best, m_local, other)
        joined = joined_sums(
            m, m_local, sums, (mass_local, surprise, far, previous, current, lanes), SIGMOID
        )  # fmt: skip
        m = joined[0]
        sums = (joined[1], joined[2], joined[3], joined[4], joined[5], joined[6])
    HEAD_TILE: tl.constexpr = CLASSES or FIRST >= 0
    if HEAD_TILE:
        column = first + tl.arange(0, SINK_BLOCK)
        inside = column < end
        k_at = k_ptr + column[None, :].to(tl.int64) * stride_ks + d[:, None] * stride_kd
        k = tl.load(k_at, mask=inside[None, :] & (d < D)[:, None], other=0.0)
        if UPCAST:
            k = k.to(tl.float32)
        distance = position[:, None] - column[None, :]
        s = bend(tl.dot(q, k, input_precision=PRECISION), factor[:, None], cap, slope, distance, CAPPED, SLOPED)
        visible = (column[None, :] >= low[:, None]) & (column[None, :] < high[:, None])
        s_first = tl.max(tl.where(visible & (column[None, :] == first), s, HIDDEN), 1)
    if CLASSES:
        kept = visible & (column[None, :] < first + kept_sinks)
        s = tl.where(kept, s, HIDDEN)
        m_sink, place = highest(s, ARGMAX)
        if SIGMOID:
            p_sink = gate(s)
            x = p_sink
        else:
            x = s - m_sink[:, None]
            p_sink = tl.where(kept, tl.exp2(x), 0.0)
        mass_sink = tl.sum(p_sink, 1)
        near_sink = tl.sum(tl.where(distance < kept_window, p_sink, 0.0), 1)
        found = tl.zeros((BLOCK_M, LANES), tl.float32)
        if LOOKUPS > 0:
            found = labelled(
                p_sink, distance, column, inside, query_label_ptr, key_label, gap_ptr, label_row, stride_ql, stride_kl,
                LOOKUPS, LANES, True,
            )  # fmt: skip
        sinks = (
            mass_sink,
            tl.sum(p_sink * x, 1),
            tl.sum(p_sink * distance.to(tl.float32), 1),
            tl.sum(tl.where(distance == 1, p_sink, 0.0), 1),
            tl.sum(tl.where(distance == 0, p_sink, 0.0), 1),
            found,
        )
        if ARGMAX:
            best = earliest(m, best, m_sink, first + place)
        joined = joined_sums(m, m_sink, sums, sinks, SIGMOID)
        m = joined[0]
        sums = (joined[1], joined[2], joined[3], joined[4], joined[5], joined[6])
    mass, surprise, far, previous, current, lanes = sums

    # What normalises: the real keys and, beside them, a learned sink. Sigmoid gates are not normalised.
    top = m
    total = mass
    spent = tl.zeros((BLOCK_M,), tl.float32)
    if sinks_ptr is not None:
        logit = tl.load(sinks_ptr + head, mask=real, other=0.0) * LOG2E
        top = tl.maximum(m, logit)
        learned = tl.exp2(logit - top)
        surprise = (surprise + mass * (m - top)) * tl.exp2(m - top)
        spent = learned
    if SIGMOID:
        inverse = tl.full((BLOCK_M,), 1.0, tl.float32)
        scale_all = inverse
        log_total = inverse
    else:
        total = mass * tl.exp2(m - top) + spent
        inverse = 1 / total
        scale_all = tl.exp2(m - top) * inverse
        log_total = tl.log2(total)
    spent = spent * inverse

    size = tl.cast(B, tl.int64) * H * T
    _put(rows_ptr, LSE, size, row, (top + log_total) * LN2, seen, real)
    _put(rows_ptr, ENTROPY, size, row, (mass * scale_all * log_total - surprise * inverse) * LN2, seen, real)
    _put(rows_ptr, MAX_WEIGHT, size, row, scale_all, seen, real)
    _put(rows_ptr, DISTANCE, size, row, far * scale_all, seen, real)
    _put(rows_ptr, PREVIOUS, size, row, previous * scale_all, seen, real)
    _put(rows_ptr, CURRENT, size, row, current * scale_all, seen, real)
    _put(rows_ptr, ROW_MASS, size, row, mass * scale_all, seen, real)
    if FIRST >= 0:
        weight = gate(s_first) if SIGMOID else tl.exp2(s_first - top) * inverse
        _put(rows_ptr, FIRST, size, row, weight, seen, real)
    if ARGMAX:
        tl.store(argmax_ptr + row, tl.where(seen, best, -1), mask=real)
    if LOOKUPS > 0:
        lane = tl.arange(0, LANES)
        at = lookup_ptr + lane[None, :].to(tl.int64) * size + row[:, None]
        value = tl.where(seen[:, None], lanes * scale_all[:, None], float("nan"))
        tl.store(at, value, mask=real[:, None] & (lane < LOOKUPS)[None, :])

    if SIGMOID:
        scale_rest = inverse
    else:
        scale_rest = tl.exp2(m_rest - top) * inverse
    rest = rest * scale_rest[:, None]
    columns = e < DV
    z_at = row[:, None] * DV + e[None, :]
    z_mask = real[:, None] & columns[None, :]
    z = rest
    if EFFECTS:
        g_row = long_b * stride_gb + head.to(tl.int64) * stride_gh + t.to(tl.int64) * stride_gt
        g_at = direction_ptr + g_row[:, None] + e[None, :] * stride_gd
        along_rest = along_rest * scale_rest
        along = along_rest
    if CLASSES:
        # The kept classes relative to their own maximum: their mean stays exact however small their mass is.
        v_at = v_ptr + column[:, None].to(tl.int64) * stride_vs + e[None, :] * stride_vd
        v = tl.load(v_at, mask=inside[:, None] & columns[None, :], other=0.0)
        if UPCAST:
            v = v.to(tl.float32)
        m_keep = tl.maximum(m_sink, m_local)
        if sinks_ptr is not None:
            m_keep = tl.maximum(m_keep, logit)
        if SIGMOID:
            a_sink = inverse
            a_local = inverse
            scale_keep = inverse
        else:
            a_sink = tl.exp2(m_sink - m_keep)
            a_local = tl.exp2(m_local - m_keep)
            scale_keep = tl.exp2(m_keep - top) * inverse
        mass_keep = mass_sink * a_sink + mass_local * a_local
        if sinks_ptr is not None:
            mass_keep += tl.exp2(logit - m_keep)
        share_sink = mass_sink * a_sink * scale_keep
        share_local = mass_local * a_local * scale_keep
        share_rest = mass_rest * scale_rest
        _put(rows_ptr, SINK_MASS, size, row, share_sink, seen, real)
        _put(rows_ptr, LOCAL_MASS, size, row, share_local, seen, real)
        _put(rows_ptr, LOCAL, size, row, share_local + near_sink * a_sink * scale_keep, seen, real)
        keep = local * a_local[:, None]
        if EFFECTS:
            direction = tl.load(g_at, mask=z_mask, other=0.0)
            near_local = tl.sum(local * direction.to(tl.float32), 1) * a_local
            # Σ p ⟨v, g⟩ for the few sinks: a small product, and no difference of larger numbers.
            if direction.dtype == v.dtype:
                of_sink = tl.dot(direction, tl.trans(v), input_precision=PRECISION)
            else:
                of_sink = tl.dot(direction.to(tl.float32), tl.trans(v).to(tl.float32), input_precision=PRECISION)
            near_sinks = tl.sum(p_sink * of_sink, 1) * a_sink
            along_local = near_local * scale_keep
            along_sink = near_sinks * scale_keep
            along = along_rest + along_local + along_sink
        if parts_ptr is not None:
            nan = tl.where(seen, 0.0, float("nan"))[:, None]
            tl.store(parts_ptr + size * DV + z_at, keep * scale_keep[:, None] + nan, mask=z_mask)
            sink = tl.dot(p_sink.to(v.dtype), v, input_precision=PRECISION)
            tl.store(parts_ptr + z_at, sink * (a_sink * scale_keep)[:, None] + nan, mask=z_mask)
        keep = tl.dot((p_sink * a_sink[:, None]).to(v.dtype), v, keep, input_precision=PRECISION)
        z = rest + keep * scale_keep[:, None]
    z = tl.where(seen[:, None], z, 0.0)
    tl.store(z_ptr + z_at, z.to(z_ptr.dtype.element_ty), mask=z_mask)

    if partial_ptr is not None:
        lane = tl.arange(0, HEADS_BLOCK)
        mine = (head - g * GROUP)[:, None] == lane[None, :]
        mine = mine & seen[:, None]
        at = (long_b * H + g * GROUP + lane) * blocks + block
        span = tl.cast(B, tl.int64) * H * blocks
        inside_group = lane < GROUP
        _add(partial_ptr, 1, span, at, mine, inside_group, tl.sum(z * z, 1))
        if CLASSES and not SIGMOID:
            mean_keep = keep / mass_keep[:, None]
            lost = rest - mean_keep * share_rest[:, None]
            _add(partial_ptr, 0, span, at, mine, inside_group, tl.sum(lost * lost, 1))
        if EFFECTS:
            _add(partial_ptr, 2, span, at, mine, inside_group, along)
            if mean_ptr is not None:
                mean_row = long_b * stride_mb + head.to(tl.int64) * stride_mh + t.to(tl.int64) * stride_mt
                mean_at = mean_ptr + mean_row[:, None]
                mean = tl.load(mean_at + e[None, :] * stride_md, mask=z_mask, other=0.0).to(tl.float32)
                direction = tl.load(g_at, mask=z_mask, other=0.0).to(tl.float32)
                _add(partial_ptr, 3, span, at, mine, inside_group, along - tl.sum(mean * direction, 1))
            if CLASSES and not SIGMOID:
                others = share_rest + share_local + spent
                # Where the sinks are all there is, nothing can take their place: the row stays as it is.
                moved = tl.where(others > 0, (along_rest + along_local) * (share_sink / others), along_sink)
                _add(partial_ptr, 4, span, at, mine, inside_group, along_sink - moved)
                instead = (near_local + near_sinks) * (share_rest / mass_keep)
                _add(partial_ptr, 5, span, at, mine, inside_group, along_rest - instead)
