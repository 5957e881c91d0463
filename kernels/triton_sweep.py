"""The loop of pass 1: tiles of keys into the running state of every row, and the joining of two such states.

State of a row: maximum, Σ p, Σ p v, Σ p (s − m), Σ p (i − j), p of the previous and of the current key, Σ p of each
lookup, place of the maximum. All but the first and last are relative to the maximum, in units of log 2.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from probe.kernels.triton_jit import jit
from probe.kernels.triton_tiles import HIDDEN, bend, gate, none


@jit
def highest(s: tl.tensor, ARGMAX: tl.constexpr) -> Any:
    """Largest score of each row, and its column in the tile (the lowest of equal ones) where asked for."""
    if ARGMAX:
        top, place = tl.max(s, 1, return_indices=True)
    else:
        top = tl.max(s, 1)
        place = top
    return top, place


@jit
def labels_of(
    query_label_ptr: tl.tensor, t: tl.tensor, real: tl.tensor, stride: tl.tensor, LOOKUPS: tl.constexpr
) -> Any:  # fmt: skip
    """The label of each row, for each lookup: −1 where it matches nothing."""
    labels = none()
    for n in tl.static_range(LOOKUPS):
        labels = labels + (tl.load(query_label_ptr + n * stride + t, mask=real, other=-1),)
    return labels


@jit
def labelled(
    p: tl.tensor, distance: tl.tensor, column: tl.tensor, inside: tl.tensor, labels: tl.tensor,
    key_label_ptr: tl.tensor, gap_ptr: tl.tensor, stride_kl: tl.tensor, LOOKUPS: tl.constexpr, MASKED: tl.constexpr,
    GAPS: tl.constexpr,
) -> Any:  # fmt: skip
    """Σ of a tile's weights over the keys that carry each row's label, for each lookup; −2 is a key's that matches
    nothing."""
    found = none()
    for n in tl.static_range(LOOKUPS):
        if MASKED:
            label = tl.load(key_label_ptr + n * stride_kl + column, mask=inside, other=-2)
        else:
            label = tl.load(key_label_ptr + n * stride_kl + column)
        match = labels[n][:, None] == label[None, :]
        if MASKED or GAPS:
            match = match & (distance >= tl.load(gap_ptr + n))
        found = found + (tl.sum(tl.where(match, p, 0.0), 1),)
    return found


@jit
def weighed(found: tl.tensor, a: tl.tensor, more: tl.tensor, b: tl.tensor, LOOKUPS: tl.constexpr) -> Any:
    """a · found + b · more, lookup by lookup."""
    total = none()
    for n in tl.static_range(LOOKUPS):
        total = total + (found[n] * a + more[n] * b,)
    return total


@jit
def sweep(
    state: tl.tensor, begin: tl.tensor, stop: tl.tensor, limit: tl.tensor, low: tl.tensor, high: tl.tensor,
    position: tl.tensor, q: tl.tensor, k_ptr: tl.tensor, v_ptr: tl.tensor, stride_ks: tl.tensor,
    stride_kd: tl.tensor, stride_vs: tl.tensor, stride_vd: tl.tensor, factor: tl.tensor, cap: tl.tensor,
    slope: tl.tensor, labels: tl.tensor, key_label_ptr: tl.tensor, gap_ptr: tl.tensor, stride_kl: tl.tensor,
    D: tl.constexpr, DV: tl.constexpr, D_BLOCK: tl.constexpr,
    DV_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr, MASKED: tl.constexpr,
    CAPPED: tl.constexpr, SLOPED: tl.constexpr,
    SIGMOID: tl.constexpr, SURPRISE: tl.constexpr, DISTANCE: tl.constexpr, NEAR: tl.constexpr, ARGMAX: tl.constexpr,
    LOOKUPS: tl.constexpr, GAPS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
) -> Any:  # fmt: skip
    """Tiles [begin, stop) of keys below `limit` into the running state of each row. MASKED: rows end inside them."""
    m, norm, acc, surprise, far, previous, current, found, best = state
    d = tl.arange(0, D_BLOCK)
    e = tl.arange(0, DV_BLOCK)
    n = tl.arange(0, BLOCK_N)
    step_k = tl.cast(stride_ks, tl.int64)
    step_v = tl.cast(stride_vs, tl.int64)
    for start in tl.range(begin, stop, BLOCK_N, num_stages=STAGES):
        column = start + n
        inside = column < limit
        # One 64-bit place a tile; within it 32 bits are enough (`launch` sees to it) and stay the same.
        k_at = k_ptr + start * step_k + (n[None, :] * stride_ks + d[:, None] * stride_kd)
        v_at = v_ptr + start * step_v + (n[:, None] * stride_vs + e[None, :] * stride_vd)
        if MASKED:
            k = tl.load(k_at, mask=inside[None, :] & (d < D)[:, None], other=0.0)
        elif D == D_BLOCK:
            k = tl.load(k_at)
        else:
            k = tl.load(k_at, mask=(d < D)[:, None], other=0.0)
        if UPCAST:
            k = k.to(tl.float32)
        qk = tl.dot(q, k, input_precision=PRECISION)
        distance = position[:, None] - column[None, :]
        if MASKED or CAPPED or SLOPED or SIGMOID:
            s = bend(qk, factor[:, None], cap, slope, distance, CAPPED, SLOPED)
            if MASKED:
                s = tl.where((column[None, :] >= low[:, None]) & (column[None, :] < high[:, None]), s, HIDDEN)
            top, place = highest(s, ARGMAX)
        else:
            top, place = highest(qk, ARGMAX)
            top = top * factor
        if ARGMAX:
            # Tiles come in rising order, so a later tile wins only by a larger score: ties go to the lowest key.
            better = top > m
            best = tl.where(better, start + place, best)
        if SIGMOID:
            p = gate(s)
            if ARGMAX:
                m = tl.maximum(m, top)
            added = tl.sum(p, 1)
            norm += added
            alpha = tl.full(norm.shape, 1.0, tl.float32)
        else:
            new = tl.maximum(m, top)
            if MASKED or CAPPED or SLOPED:
                x = s - new[:, None]
            else:
                x = qk * factor[:, None] - new[:, None]
            p = tl.exp2(x)
            alpha = tl.exp2(m - new)
            added = tl.sum(p, 1)
            if SURPRISE:
                surprise = (surprise + norm * (m - new)) * alpha + tl.sum(p * x, 1)
            norm = norm * alpha + added
            acc = acc * alpha[:, None]
            m = new
        if DISTANCE:
            # i − j from the tile's first key: one product with a constant a weight, not a difference of indices.
            here = tl.sum(p * n.to(tl.float32)[None, :], 1)
            far = far * alpha + (added * (position - start).to(tl.float32) - here)
        if NEAR and MASKED:
            previous = previous * alpha + tl.sum(tl.where(distance == 1, p, 0.0), 1)
            current = current * alpha + tl.sum(tl.where(distance == 0, p, 0.0), 1)
        if LOOKUPS > 0:
            more = labelled(
                p, distance, column, inside, labels, key_label_ptr, gap_ptr, stride_kl, LOOKUPS, MASKED, GAPS
            )
            found = weighed(found, alpha, more, 1.0, LOOKUPS)
        if MASKED:
            v = tl.load(v_at, mask=inside[:, None] & (e < DV)[None, :], other=0.0)
        elif DV == DV_BLOCK:
            v = tl.load(v_at)
        else:
            v = tl.load(v_at, mask=(e < DV)[None, :], other=0.0)
        if UPCAST:
            v = v.to(tl.float32)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
    return m, norm, acc, surprise, far, previous, current, found, best


@jit
def started(BLOCK_M: tl.constexpr, DV_BLOCK: tl.constexpr, LOOKUPS: tl.constexpr, S: tl.tensor) -> Any:
    """State of rows that have met no key."""
    nothing = tl.zeros((BLOCK_M,), tl.float32)
    m = nothing + HIDDEN
    acc = tl.zeros((BLOCK_M, DV_BLOCK), tl.float32)
    found = none()
    for _ in tl.static_range(LOOKUPS):
        found = found + (nothing,)
    best = tl.zeros((BLOCK_M,), tl.int32) + S
    return m, nothing, acc, nothing, nothing, nothing, nothing, found, best


@jit
def joined(
    m: tl.tensor, other: tl.tensor, sums: tl.tensor, more: tl.tensor, SIGMOID: tl.constexpr, LOOKUPS: tl.constexpr
) -> Any:  # fmt: skip
    """Row sums of two classes brought to one maximum: (maximum, (norm, surprise, far, previous, current, lookups))."""
    l1, surprise1, far1, previous1, current1, found1 = sums
    l2, surprise2, far2, previous2, current2, found2 = more
    if SIGMOID:
        top = tl.maximum(m, other)
        a = tl.full(l1.shape, 1.0, tl.float32)
        b = a
        surprise = surprise1
    else:
        top = tl.maximum(m, other)
        a = tl.exp2(m - top)
        b = tl.exp2(other - top)
        surprise = a * (surprise1 + l1 * (m - top)) + b * (surprise2 + l2 * (other - top))
    sums = (
        l1 * a + l2 * b,
        surprise,
        far1 * a + far2 * b,
        previous1 * a + previous2 * b,
        current1 * a + current2 * b,
        weighed(found1, a, found2, b, LOOKUPS),
    )
    return top, sums


@jit
def earliest(m: tl.tensor, best: tl.tensor, other: tl.tensor, place: tl.tensor) -> Any:
    """The arg-max of two classes: the larger score, of equal ones the lower key."""
    return tl.where((other > m) | ((other == m) & (place < best)), place, best)
