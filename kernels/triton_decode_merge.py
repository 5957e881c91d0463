"""Decoding in Triton, second launch: the splits of each row joined, in a fixed order, into what is asked for.

The formulas are those of `merge`, on raw sums instead of normalised parts: each split's sums are relative to its own
maximum m, and move to the largest of all by exp(m − largest). A learned sink joins last, as one more term of the
normaliser. Sums over splits are trees over `MOST_SPLITS` places, so their shape does not depend on how many are there.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from probe.kernels.decoded import DecodeRequest
from probe.kernels.inputs import Attention
from probe.kernels.triton_decode import FIELDS, OPTIONS, constants_of, tile_of
from probe.kernels.triton_jit import jit
from probe.kernels.triton_tiles import HIDDEN, LN2, LOG2E, ends_of, keys_seen
from probe.kernels.triton_top import NONE, joined_top, top_of_runs, unrank

MOST_SPLITS = 256
"""Splits of a row at most."""

STEP, LISTS = 32, 8
"""Splits whose outputs a program reads at once, and whose strongest keys it does."""

MERGE_OPTIONS = OPTIONS | {"num_warps": 4, "num_stages": 2, "maxnreg": 255}  # fewer spill with 256 kept keys

STATISTICS = ("lse", "entropy", "max_weight", "row_mass", "distance", "sink_mass", "local_mass")
"""What is written of every row, in this order."""


@jit
def merge_kernel(
    out: tl.tensor, sums: tl.tensor, arg: tl.tensor, ranked: tl.tensor, lengths: tl.tensor, starts: tl.tensor,
    stops: tl.tensor, learned: tl.tensor, z: tl.tensor, statistics: tl.tensor, argmax: tl.tensor, visible: tl.tensor,
    top_weight: tl.tensor, top_key: tl.tensor, B: tl.tensor, H: tl.tensor, T: tl.tensor, S: tl.tensor,
    offset: tl.tensor, splits: tl.tensor, mask_window: tl.tensor, n_top: tl.tensor,
    DV: tl.constexpr, DV_BLOCK: tl.constexpr, TOP: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
    SPLITS: tl.constexpr, STEP: tl.constexpr, LISTS: tl.constexpr,
) -> None:  # fmt: skip
    """One program a row of [B, H, T]. Read: what `decode_kernel` writes. SPLITS: places for all splits."""
    line = tl.program_id(0).to(tl.int64)
    t, head, b = line % T, line // T % H, line // T // H
    position = (t + offset).to(tl.int32)
    first, end = ends_of(lengths, b, S)
    if starts is not None:  # so that the position of a query finds its entry
        starts += b * T - offset
        stops += b * T - offset
    low, high = keys_seen(position, position >= 0, first, end, mask_window, lengths, starts, stops, CAUSAL, WINDOWED)
    blind = high <= low

    part = tl.arange(0, SPLITS)
    there = part < splits
    sums += line * FIELDS * splits
    m = tl.load(sums + part, mask=there, other=HIDDEN)
    largest = tl.max(m, 0)
    alpha = tl.exp2(m - largest)
    own = tl.load(sums + splits + part, mask=there, other=0.0)
    mass = tl.sum(own * alpha, 0)
    moved = tl.load(sums + 2 * splits + part, mask=there, other=0.0) + own * (m - largest)
    surprise = tl.sum(moved * alpha, 0)
    distance = tl.sum(tl.load(sums + 3 * splits + part, mask=there, other=0.0) * alpha, 0)
    sink_mass = tl.sum(tl.load(sums + 4 * splits + part, mask=there, other=0.0) * alpha, 0)
    local_mass = tl.sum(tl.load(sums + 5 * splits + part, mask=there, other=0.0) * alpha, 0)
    # Splits follow the keys, so the lowest key of the largest score is in the first split that has that score.
    key = tl.load(arg + line * splits + part, mask=there, other=-1)
    best = tl.min(tl.where((m == largest) & (key >= 0), key, 0x7FFFFFFF), 0)

    normal = largest
    total = mass
    if learned is not None:
        logit = tl.load(learned + head) * LOG2E
        normal = tl.maximum(largest, logit)
        surprise = (surprise + mass * (largest - normal)) * tl.exp2(largest - normal)
        total = mass * tl.exp2(largest - normal) + tl.exp2(logit - normal)
    inverse = 1 / total
    share = tl.exp2(largest - normal) * inverse
    lost = total != total

    nan = float("nan")
    lines = tl.cast(B, tl.int64) * H * T
    statistics += line
    tl.store(statistics, tl.where(blind, nan, (normal + tl.log2(total)) * LN2))
    entropy = (mass * share * tl.log2(total) - surprise * inverse) * LN2
    tl.store(statistics + lines, tl.where(blind, nan, entropy))
    tl.store(statistics + 2 * lines, tl.where(blind, nan, share))
    tl.store(statistics + 3 * lines, tl.where(blind, nan, mass * share))
    ordered = CAUSAL & (blind == 0)
    tl.store(statistics + 4 * lines, tl.where(ordered, distance * share, nan))
    tl.store(statistics + 5 * lines, tl.where(ordered, sink_mass * share, nan))
    tl.store(statistics + 6 * lines, tl.where(ordered, local_mass * share, nan))
    tl.store(argmax + line, tl.where(blind | lost, -1, best).to(tl.int64))
    tl.store(visible + line, (high - low).to(tl.int64))

    e = tl.arange(0, DV_BLOCK)
    joined = tl.zeros([DV_BLOCK], tl.float32)
    for start in range(0, splits, STEP):
        some = start + tl.arange(0, STEP)
        shrunk = tl.exp2(tl.load(sums + some, mask=some < splits, other=HIDDEN) - largest)
        values_at = out + (line * splits + some)[:, None] * DV + e[None, :]
        values = tl.load(values_at, mask=(some < splits)[:, None] & (e < DV)[None, :], other=0.0)
        joined += tl.sum(values * shrunk[:, None], 0)
    joined = tl.where(blind, 0.0, joined * share)
    tl.store(z + line * DV + e, joined.to(z.dtype.element_ty), mask=e < DV)

    if TOP > 0:
        n = tl.arange(0, TOP)
        turn = (tl.arange(0, LISTS) % 2)[:, None]
        strongest = tl.full([LISTS, TOP], NONE, tl.int64)
        for start in range(0, splits, LISTS):
            lists = start + tl.arange(0, LISTS)
            # The lists rise: read from its end, every second one meets one that falls.
            place = tl.where(turn == 0, TOP - 1 - n[None, :], n[None, :])
            ranks_at = ranked + (line * splits + lists)[:, None] * TOP + place
            strongest = joined_top(strongest, tl.load(ranks_at, mask=(lists < splits)[:, None], other=NONE), -1)
        score, number = unrank(top_of_runs(tl.reshape(strongest, [1, LISTS * TOP]), TOP))
        weight = tl.where(number < 0, 0.0, tl.exp2(score - normal) * inverse)
        at = line * n_top + n[None, :]
        tl.store(top_weight + at, tl.where(lost, nan, weight), mask=(n < n_top)[None, :])
        tl.store(top_key + at, tl.where(lost, -1, number), mask=(n < n_top)[None, :])


def merge_constants_of(call: Attention, request: DecodeRequest) -> dict[str, Any]:
    """The kernel's compile-time arguments: what it shares with the first launch, and its own."""
    shared = constants_of(call, tile_of(1, call, request.top), request)
    own: dict[str, Any] = {"SPLITS": MOST_SPLITS, "STEP": STEP, "LISTS": LISTS}
    if call.score.sinks is None:
        own["learned"] = None
    return {name: value for name, value in (shared | own).items() if name in merge_kernel.arg_names}
