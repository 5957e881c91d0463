"""What pass 1 does with the sums of a block of rows: the few sinks, what normalises, and what is written.

A tile as wide as v takes a quarter of a program's registers, so a second one is met a half at a time (`halves`), and
what needs a third comes last, when the others are done with.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from probe.kernels.triton_jit import jit
from probe.kernels.triton_sweep import highest, labelled
from probe.kernels.triton_tiles import HIDDEN, LOG2E, bend, gate


@jit
def put(
    rows_ptr: tl.tensor, SLOT: tl.constexpr, size: tl.tensor, row: tl.tensor, value: tl.tensor, good: tl.tensor,
    real: tl.tensor,
) -> None:  # fmt: skip
    """Write one row statistic to its slot, NaN where it is not `good`; nothing where it was not asked for."""
    if SLOT >= 0:
        tl.store(rows_ptr + SLOT * size + row, tl.where(good, value, float("nan")), mask=real)


@jit
def add(
    partial_ptr: tl.tensor, FIELD: tl.constexpr, size: tl.tensor, at: tl.tensor, mine: tl.tensor, inside: tl.tensor,
    value: tl.tensor,
) -> None:  # fmt: skip
    """Sum a row value over the block, head by head, into this block's place of one partial."""
    total = tl.sum(tl.where(mine, value[:, None], 0.0), 0)
    tl.store(partial_ptr + FIELD * size + at, total, mask=inside)


@jit
def halves(x: tl.tensor) -> Any:
    """The left and the right half of a tile [M, N]: no data moves, the columns of a row are in one thread's reach."""
    return tl.split(tl.permute(tl.reshape(x, (x.shape[0], 2, x.shape[1] // 2)), (0, 2, 1)))


@jit
def along(x: tl.tensor, at: tl.tensor, stride: tl.tensor, real: tl.tensor, DV: tl.constexpr) -> tl.tensor:
    """⟨x, y⟩ of each row [M] with a vector y in memory, in float32."""
    left, right = halves(x)
    e = tl.arange(0, left.shape[1])
    y = tl.load(at[:, None] + e[None, :] * stride, mask=real[:, None] & (e < DV)[None, :], other=0.0)
    total = tl.sum(left * y.to(tl.float32), 1)
    e += left.shape[1]
    y = tl.load(at[:, None] + e[None, :] * stride, mask=real[:, None] & (e < DV)[None, :], other=0.0)
    return total + tl.sum(right * y.to(tl.float32), 1)


@jit
def between(
    x_at: tl.tensor, x_stride: tl.tensor, y_at: tl.tensor, y_stride: tl.tensor, real: tl.tensor, DV: tl.constexpr,
    DV_BLOCK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """⟨x, y⟩ of two vectors in memory for each row [M], in float32."""
    total = tl.zeros(real.shape, tl.float32)
    for begin in tl.static_range(0, DV_BLOCK, 16):
        e = begin + tl.arange(0, 16)
        mask = real[:, None] & (e < DV)[None, :]
        x = tl.load(x_at[:, None] + e[None, :] * x_stride, mask=mask, other=0.0).to(tl.float32)
        y = tl.load(y_at[:, None] + e[None, :] * y_stride, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(x * y, 1)
    return total


@jit
def write(at: tl.tensor, x: tl.tensor, real: tl.tensor, DV: tl.constexpr) -> None:
    """Store a tile of rows that lie one after the other in memory; at [M]: where each begins."""
    left, right = halves(x)
    e = tl.arange(0, left.shape[1])
    tl.store(at[:, None] + e[None, :], left.to(at.dtype.element_ty), mask=real[:, None] & (e < DV)[None, :])
    e += left.shape[1]
    tl.store(at[:, None] + e[None, :], right.to(at.dtype.element_ty), mask=real[:, None] & (e < DV)[None, :])


@jit
def first_keys(
    q: tl.tensor, k_ptr: tl.tensor, stride_ks: tl.tensor, stride_kd: tl.tensor, column: tl.tensor, inside: tl.tensor,
    position: tl.tensor, low: tl.tensor, high: tl.tensor, factor: tl.tensor, cap: tl.tensor, slope: tl.tensor,
    D: tl.constexpr, D_BLOCK: tl.constexpr, CAPPED: tl.constexpr, SLOPED: tl.constexpr, PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
) -> Any:  # fmt: skip
    """Scores of the tile that begins with the first key, in units of log 2, HIDDEN out of sight; distances."""
    d = tl.arange(0, D_BLOCK)
    k_at = k_ptr + column[None, :].to(tl.int64) * stride_ks + d[:, None] * stride_kd
    k = tl.load(k_at, mask=inside[None, :] & (d < D)[:, None], other=0.0)
    if UPCAST:
        k = k.to(tl.float32)
    distance = position[:, None] - column[None, :]
    s = bend(tl.dot(q, k, input_precision=PRECISION), factor[:, None], cap, slope, distance, CAPPED, SLOPED)
    visible = (column[None, :] >= low[:, None]) & (column[None, :] < high[:, None])
    return tl.where(visible, s, HIDDEN), distance


@jit
def sinks_of(
    s: tl.tensor, distance: tl.tensor, kept: tl.tensor, kept_window: tl.tensor, column: tl.tensor, inside: tl.tensor,
    labels: tl.tensor, key_label_ptr: tl.tensor, gap_ptr: tl.tensor, stride_kl: tl.tensor, SIGMOID: tl.constexpr,
    ARGMAX: tl.constexpr, LOOKUPS: tl.constexpr,
) -> Any:  # fmt: skip
    """The kept sinks as a class of their own: maximum, its place in the tile, weights, sums, mass in the window."""
    s = tl.where(kept[None, :], s, HIDDEN)
    m, place = highest(s, ARGMAX)
    if SIGMOID:
        x = gate(s)
        p = x
    else:
        x = s - m[:, None]
        # Where no sink is visible these are relative to HIDDEN, and count nothing beside the row's own key.
        p = tl.exp2(x)
    found = labelled(
        p, distance, column, inside, labels, key_label_ptr, gap_ptr, stride_kl, LOOKUPS, True, True
    )
    sums = (
        tl.sum(p, 1),
        tl.sum(p * x, 1),
        tl.sum(p * distance.to(tl.float32), 1),
        tl.sum(tl.where(distance == 1, p, 0.0), 1),
        tl.sum(tl.where(distance == 0, p, 0.0), 1),
        found,
    )
    return m, place, p, sums, tl.sum(tl.where(distance < kept_window, p, 0.0), 1)


@jit
def normalised(
    m: tl.tensor, mass: tl.tensor, surprise: tl.tensor, head: tl.tensor, real: tl.tensor, sinks_ptr: tl.tensor,
    SIGMOID: tl.constexpr,
) -> Any:  # fmt: skip
    """What normalises: the real keys and, beside them, a learned sink. Sigmoid gates are not normalised.

    Returns the maximum of all, 1 / total, the factor of sums that are relative to m, log2 of the total, `surprise`
    relative to the maximum of all, the learned sink's logit and its share.
    """
    top = m
    spent = m * 0
    logit = m
    if sinks_ptr is not None:
        logit = tl.load(sinks_ptr + head, mask=real, other=0.0) * LOG2E
        top = tl.maximum(m, logit)
        surprise = (surprise + mass * (m - top)) * tl.exp2(m - top)
        spent = tl.exp2(logit - top)
    if SIGMOID:
        inverse = tl.full(m.shape, 1.0, tl.float32)
        scale = inverse
        log_total = inverse
    else:
        total = mass * tl.exp2(m - top) + spent
        inverse = 1 / total
        scale = tl.exp2(m - top) * inverse
        log_total = tl.log2(total)
    return top, inverse, scale, log_total, surprise, logit, spent * inverse
