"""What the GPU passes share: who sees whom as spans, a tile of scores, and the extent of a loop.

Every rule of `Mask` that can be said in numbers is, for one query, a span of keys, and for one key a span of queries.
So a pass splits its loop into the tiles that all its rows see whole, which need no mask, and those at the edges.
Scores are in units of log 2 (the scale times log2 e), so that one `exp2` is the exponential.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from probe.kernels.triton_jit import jit

HIDDEN = tl.constexpr(-1.0e30)
"""Score of a key out of sight: finite, so that 0 · HIDDEN is 0 and HIDDEN − HIDDEN is not NaN."""

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@jit
def none() -> Any:
    """An empty tuple, to which `+` adds one tensor after the other."""
    return ()


@jit
def ends_of(lengths_ptr: tl.tensor, b: tl.tensor, S: tl.tensor) -> Any:
    """First and last-plus-one valid key of sequence b."""
    first = 0
    end = S
    if lengths_ptr is not None:
        first = tl.load(lengths_ptr + 2 * b)
        end = tl.load(lengths_ptr + 2 * b + 1)
    return first, end


@jit
def keys_seen(
    position: tl.tensor,
    real: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    window: tl.tensor,
    lengths_ptr: tl.tensor,
    starts_ptr: tl.tensor,
    stops_ptr: tl.tensor,
    CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr,
) -> Any:
    """Span [low, high) of the keys that the query at each position sees; empty where `real` is false."""
    low = position * 0 + first
    high = position * 0 + end
    if CAUSAL:
        high = tl.minimum(high, position + 1)
    if WINDOWED:
        low = tl.maximum(low, position - window + 1)
        if not CAUSAL:
            high = tl.minimum(high, position + window)
    if starts_ptr is not None:
        low = tl.maximum(low, tl.load(starts_ptr + position, mask=real, other=0))
        high = tl.minimum(high, tl.load(stops_ptr + position, mask=real, other=0))
    if lengths_ptr is not None:
        real = real & (position >= first) & (position < end)
    return low, tl.where(real, tl.maximum(high, low), low)


@jit
def queries_seen(
    column: tl.tensor,
    real: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    window: tl.tensor,
    offset: tl.tensor,
    T: tl.tensor,
    lengths_ptr: tl.tensor,
    starts_ptr: tl.tensor,
    stops_ptr: tl.tensor,
    CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr,
) -> Any:
    """Span [low, high) of the query rows (not positions) that see each key; empty where `real` is false."""
    low = column * 0 + offset
    high = column * 0 + offset + T
    if CAUSAL:
        low = tl.maximum(low, column)
    if WINDOWED:
        high = tl.minimum(high, column + window)
        if not CAUSAL:
            low = tl.maximum(low, column - window + 1)
    if starts_ptr is not None:
        low = tl.maximum(low, tl.load(starts_ptr + column, mask=real, other=0))
        high = tl.minimum(high, tl.load(stops_ptr + column, mask=real, other=0))
    if lengths_ptr is not None:
        low = tl.maximum(low, first)
        high = tl.minimum(high, end)
        real = real & (column >= first) & (column < end)
    low = low - offset
    return low, tl.where(real, tl.maximum(high - offset, low), low)


@jit
def extent(
    low: tl.tensor,
    high: tl.tensor,
    counted: tl.tensor,
    limit: tl.tensor,
    back: tl.tensor,
    BLOCK: tl.constexpr,
    LOW_EDGE: tl.constexpr,
) -> Any:
    """Where a loop over [low, high) of all rows begins, where its tiles need no mask, and where it stops.

    counted: rows that the unmasked part must be right for. back: places before the earliest end that are to be met
    under a mask although all see them. Returns (begin, whole, edge, stop): masked, unmasked and masked in between.
    """
    some = high > low
    begin = tl.min(tl.where(some, low, limit), 0)
    stop = tl.max(tl.where(some, high, 0), 0)
    whole = begin
    if LOW_EDGE:
        inner = tl.minimum(tl.max(tl.where(counted, low, 0), 0), tl.maximum(stop, begin))
        whole = begin + (inner - begin + BLOCK - 1) // BLOCK * BLOCK
    outer = tl.minimum(tl.min(tl.where(counted, high, limit), 0) - back, stop)
    edge = whole + tl.maximum(outer - whole, 0) // BLOCK * BLOCK
    return begin, whole, edge, stop


@jit
def bend(
    qk: tl.tensor,
    factor: tl.tensor,
    cap: tl.tensor,
    slope: tl.tensor,
    distance: tl.tensor,
    CAPPED: tl.constexpr,
    SLOPED: tl.constexpr,
) -> Any:
    """Scores in units of log 2 from raw products: scale (and temperature) in `factor`, soft cap, slope · |i − j|.

    factor: times log2 e, but for a soft cap, where it leads to the argument of tanh.
    """
    s = qk * factor
    if CAPPED:
        s = tanh(s) * (cap * LOG2E)
    if SLOPED:
        s -= slope * LOG2E * tl.abs(distance).to(tl.float32)
    return s


@jit
def tanh(x: tl.tensor) -> Any:
    """tanh with a small relative error everywhere: near 0, 1 − e^(−2|x|) would cancel."""
    e = tl.exp2(tl.abs(x) * (-2 * LOG2E))
    far = tl.where(x < 0, -1.0, 1.0) * (1 - e) / (1 + e)
    y = x * x  # Lambert's continued fraction, cut at the seventh level: below 1e-9 for |x| < 0.7
    near = x * (135135 + y * (17325 + y * (378 + y))) / (135135 + y * (62370 + y * (3150 + y * 28)))
    return tl.where(tl.abs(x) < 0.7, near, far)


@jit
def gate(s: tl.tensor) -> Any:
    """Sigmoid of scores in units of log 2; exactly 0 for HIDDEN."""
    return 1 / (1 + tl.exp2(-s))
