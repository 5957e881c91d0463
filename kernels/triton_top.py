"""The strongest keys inside a Triton program: score and key in one integer, kept in order by a bitonic network.

Score and key together are one 64-bit integer, and no two keys have the same: the order is total, so neither which
keys are kept nor the order of equal scores depends on how they are computed.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from probe.kernels.triton_jit import jit

NONE = tl.constexpr(-(2**63))
"""Rank of no key: below every other."""

LOW = tl.constexpr(0x7FFFFFFF)
"""The bits of a rank that hold its key."""


@jit
def rank_of(s: tl.tensor, column: tl.tensor, seen: tl.tensor) -> Any:
    """Integers in the order of (score, −key): the float's bits made monotone above, the key turned round below."""
    bits = tl.where(s == 0, 0.0, s).to(tl.int32, bitcast=True)  # −0 and 0 are one score
    bits = bits ^ ((bits >> 31) & LOW)
    packed = (bits.to(tl.int64) << 32) | (column ^ LOW).to(tl.int64)
    return tl.where(seen, packed, NONE)


@jit
def unrank(rank: tl.tensor) -> Any:
    """Score and key of ranks; key −1, at a score of no meaning, for none."""
    bits = (rank >> 32).to(tl.int32)
    bits = bits ^ ((bits >> 31) & LOW)
    return bits.to(tl.float32, bitcast=True), tl.where(rank == NONE, -1, (rank & LOW) ^ LOW)


@triton.constexpr_function  # type: ignore[untyped-decorator]
def log2(n: int) -> int:
    """Exponent of a power of two, while compiling."""
    return n.bit_length() - 1


@jit
def top_of(x: tl.tensor, TOP: tl.constexpr) -> Any:
    """The TOP (a power of two) largest of each row of x [ROWS, N], falling; NONE behind them where N is less."""
    ROWS: tl.constexpr = x.shape[0]
    N: tl.constexpr = x.shape[1]
    RUN: tl.constexpr = N if N < TOP else TOP
    for stage in tl.static_range(1, log2(RUN) + 1):
        x = _merged(x, stage, 1 if (1 << stage) == N else -1)
    x = top_of_runs(tl.reshape(x, [ROWS, N]), RUN)
    for doubling in tl.static_range(log2(TOP // RUN)):
        wide = tl.join(x, tl.full(x.shape, NONE, tl.int64))
        x = tl.reshape(tl.permute(wide, (0, 2, 1)), [ROWS, RUN << (doubling + 1)])
    return x


@jit
def top_of_runs(x: tl.tensor, RUN: tl.constexpr) -> Any:
    """The RUN largest of each row of x [ROWS, N], falling, where runs of RUN rise and fall by turns (one run falls).

    Of two neighbours the larger, place by place, are the largest of both, and they turn at most once, which one merge
    sorts; and so on until one run is left.
    """
    ROWS: tl.constexpr = x.shape[0]
    N: tl.constexpr = x.shape[1]
    for halving in tl.static_range(log2(N // RUN)):
        pairs = tl.reshape(x, [(ROWS * (N // RUN)) >> (halving + 1), 2, RUN])
        x = _merged(tl.max(pairs, 1), log2(RUN), 1 if (RUN << (halving + 1)) == N else -1)
    return tl.reshape(x, [ROWS, RUN])


@jit
def joined_top(x: tl.tensor, y: tl.tensor, FALLING: tl.constexpr) -> Any:
    """The largest of the sorted lists x and y [LISTS, TOP], as many as each holds; where one falls the other rises.

    FALLING: 0 for lists that rise, −1 for lists that rise and fall by turns.
    """
    z = _merged(tl.maximum(x, y), log2(x.shape[1]), FALLING)
    return tl.reshape(z, x.shape)


@jit
def _merged(x: tl.tensor, STAGE: tl.constexpr, FALLING: tl.constexpr) -> Any:
    """Runs of 2^STAGE that turn at most once, sorted: rising (0), falling (1), or by turns, the first rising (−1)."""
    for step in tl.static_range(STAGE):
        x = _exchanged(x, STAGE - 1 - step, STAGE, FALLING)
    return x


@jit
def _exchanged(x: tl.tensor, PLACE: tl.constexpr, STAGE: tl.constexpr, FALLING: tl.constexpr) -> Any:
    """Entries 2^PLACE apart put in order, in runs of 2^STAGE."""
    SHAPE: tl.constexpr = (x.numel >> (PLACE + 1), 2, 1 << PLACE)
    pairs = tl.reshape(x, SHAPE)
    # The other of two: their sum less the one, exact in integers; the interpreter has no quick exclusive or.
    other = tl.sum(pairs, 1, keep_dims=True) - pairs
    number = tl.arange(0, x.numel)
    turned = number >> PLACE
    if FALLING < 0:
        turned = turned ^ (number >> STAGE)
    else:
        turned = turned ^ FALLING
    return tl.where((pairs > other) != (tl.reshape(turned & 1, SHAPE) == 1), other, pairs)
