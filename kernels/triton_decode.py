"""Decoding in Triton: the keys are split among programs, each writes its part, the parts are merged in order.

A program holds every query row of one key/value head (all query heads of the group, all queries), so a key is read
once. Nothing is shared between programs and nothing is added atomically: equal inputs give equal bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from probe.kernels.decode_blocks import finished, key_range
from probe.kernels.decoded import Decoded, DecodeRequest
from probe.kernels.inputs import Attention
from probe.kernels.merge import Part, merge_stack, strongest
from probe.kernels.spans import visible_keys
from probe.kernels.triton_jit import is_interpreted, jit
from probe.kernels.triton_tiles import HIDDEN, LN2, LOG2E, bend, ends_of, keys_seen

FIELDS = 6
"""Raw sums a part writes: maximum · log2 e; Σ w; Σ w (s − m) · log2 e; Σ w (i − j); Σ w of the sinks, of the window."""

PROGRAMS = 512
"""Programs wanted at least: four for each of the 132 multiprocessors of an H100. From shapes alone, so bits do not
depend on the device."""

LEAST_KEYS, MOST_SPLITS = 256, 256
NONE = tl.constexpr(-(2**63))
"""Rank of a key out of sight."""


OPTIONS = {"enable_fp_fusion": True}
"""Pinned: its default changes with the version of Triton, and with it the last bits."""


@jit
def decode_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    lengths: tl.tensor,
    slopes: tl.tensor,
    temperature: tl.tensor,
    out: tl.tensor,
    sums: tl.tensor,
    arg: tl.tensor,
    ranked: tl.tensor,
    sq_b: tl.tensor,
    sq_h: tl.tensor,
    sq_t: tl.tensor,
    sq_d: tl.tensor,
    sk_b: tl.tensor,
    sk_g: tl.tensor,
    sk_s: tl.tensor,
    sk_d: tl.tensor,
    sv_b: tl.tensor,
    sv_g: tl.tensor,
    sv_s: tl.tensor,
    sv_d: tl.tensor,
    factor: tl.tensor,
    softcap: tl.tensor,
    G: tl.tensor,
    T: tl.tensor,
    S: tl.tensor,
    n_rows: tl.tensor,
    offset: tl.tensor,
    key_from: tl.tensor,
    key_to: tl.tensor,
    chunk: tl.tensor,
    mask_window: tl.tensor,
    sinks: tl.tensor,
    window: tl.tensor,
    D: tl.constexpr,
    DV: tl.constexpr,
    D_BLOCK: tl.constexpr,
    DV_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    RANKED: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr,
    CAPPED: tl.constexpr,
    UPCAST: tl.constexpr,
) -> None:
    """One program: rows [ROWS] of one key/value head (axis 1 blocks of them, axis 2 batch and head) on one split.

    Row n is query n % T of the group's head n // T. Scores are kept in units of log 2.
    """
    split, block, pair = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    b, g = (pair // G).to(tl.int64), (pair % G).to(tl.int64)
    row = block * ROWS + tl.arange(0, ROWS)
    real = row < n_rows
    head, t = (g * (n_rows // T) + row // T), row % T
    d, e = tl.arange(0, D_BLOCK), tl.arange(0, DV_BLOCK)
    q_at = q + b * sq_b + head[:, None] * sq_h + t[:, None].to(tl.int64) * sq_t + d[None, :] * sq_d
    query = tl.load(q_at, mask=real[:, None] & (d < D)[None, :], other=0.0)
    if UPCAST:
        query = query.to(tl.float32)
    position = t + offset
    first, end = ends_of(lengths, b, S)
    low, high = keys_seen(position, real, first, end, mask_window, lengths, None, None, CAUSAL, WINDOWED)
    slope = tl.zeros([ROWS], tl.float32)
    if slopes is not None:
        slope += tl.load(slopes + head, mask=real, other=0.0)
    row_factor = tl.zeros([ROWS], tl.float32) + factor
    if temperature is not None:
        row_factor /= tl.load(temperature + b * T + t, mask=real, other=1.0)
    begin, stop = key_from + split * chunk, tl.minimum(key_from + (split + 1) * chunk, key_to)

    m = tl.full([ROWS], -1.0e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    surprise, distance, sink_mass, local_mass = total, total, total, total
    best = tl.full([ROWS], -1, tl.int32)
    output = tl.zeros([ROWS, DV_BLOCK], tl.float32)
    for start in range(begin, stop, KEYS):
        column = start + tl.arange(0, KEYS)
        inside, far = column < stop, column.to(tl.int64)
        k_at = k + b * sk_b + g * sk_g + far[None, :] * sk_s + d[:, None] * sk_d
        keys = tl.load(k_at, mask=inside[None, :] & (d < D)[:, None], other=0.0)
        if UPCAST:
            keys = keys.to(tl.float32)
        gap = position[:, None] - column[None, :]
        qk = tl.dot(query, keys, input_precision="ieee")
        s = bend(qk, row_factor[:, None], softcap, slope[:, None], gap, CAPPED, slopes is not None)
        seen = (column[None, :] >= low[:, None]) & (column[None, :] < high[:, None]) & inside[None, :]
        s = tl.where(seen, s, HIDDEN)
        if RANKED:
            place = ranked + ((b * G + g) * n_rows + row[:, None]) * (key_to - key_from) + (far - key_from)[None, :]
            tl.store(place, _sortable(s, column[None, :], seen), mask=real[:, None] & inside[None, :])
        largest = tl.max(s, 1)
        lowest = tl.min(tl.where(s == largest[:, None], column[None, :], 0x7FFFFFFF), 1)
        best = tl.where(largest > m, lowest, best)  # a later tile wins only by a larger score
        new = tl.maximum(m, largest)
        alpha = tl.exp2(m - new)
        s -= new[:, None]
        p = tl.where(seen, tl.exp2(s), 0.0)
        is_sink = (column - first < sinks)[None, :]
        near = (gap < window) & (column - first >= sinks)[None, :]
        # Σ w (s − m) moves to the new maximum before it shrinks, so nothing cancels.
        surprise = (surprise + (m - new) * total) * alpha + tl.sum(p * s, 1)
        total = total * alpha + tl.sum(p, 1)
        distance = distance * alpha + tl.sum(p * gap.to(tl.float32), 1)
        sink_mass = sink_mass * alpha + tl.sum(tl.where(is_sink, p, 0.0), 1)
        local_mass = local_mass * alpha + tl.sum(tl.where(near, p, 0.0), 1)
        v_at = v + b * sv_b + g * sv_g + far[:, None] * sv_s + e[None, :] * sv_d
        values = tl.load(v_at, mask=inside[:, None] & (e < DV)[None, :], other=0.0)
        if UPCAST:
            values = values.to(tl.float32)
        output = tl.dot(p.to(values.dtype), values, output * alpha[:, None], input_precision="ieee")
        m = new
    n_out = (n_rows * G).to(tl.int64) * (tl.num_programs(2) // G)
    line = split * n_out + (b * G + g) * n_rows + row
    tl.store(out + line[:, None] * DV + e[None, :], output, mask=real[:, None] & (e < DV)[None, :])
    field = tl.num_programs(0) * n_out
    tl.store(sums + line, m, mask=real)
    tl.store(sums + field + line, total, mask=real)
    tl.store(sums + 2 * field + line, surprise, mask=real)
    tl.store(sums + 3 * field + line, distance, mask=real)
    tl.store(sums + 4 * field + line, sink_mass, mask=real)
    tl.store(sums + 5 * field + line, local_mass, mask=real)
    tl.store(arg + line, best, mask=real)


@jit
def _sortable(s: tl.tensor, column: tl.tensor, seen: tl.tensor) -> tl.tensor:
    """Integers in the order of (score, −key): the float's bits made monotone above, the key turned round below."""
    bits = tl.where(s == 0, 0.0, s).to(tl.int32, bitcast=True)  # −0 and 0 are one score
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    packed = (bits.to(tl.int64) << 32) | (0x7FFFFFFF - column).to(tl.int64)
    return tl.where(seen, packed, NONE)


@dataclass(frozen=True)
class Tile:
    """How a program is cut: rows and keys of its tile, warps, pipeline stages."""

    rows: int
    keys: int
    warps: int
    stages: int


def tile_of(rows: int, call: Attention) -> Tile:
    """The tile for `rows` query rows of one key/value head: 16, 32 or 64 of them.

    64 keys, 32 where rows are many or k and v are wide: more spill registers (compiled for sm_80 and sm_90).
    """
    wide = (padded(call.q.shape[3]) + padded(call.v.shape[3])) * call.q.dtype.itemsize > 1024
    if rows <= 16:
        return Tile(16, 32 if wide else 64, 4, 2)
    return Tile(32, 32, 4, 2) if rows <= 32 else Tile(64, 32, 8, 2)


def padded(width: int) -> int:
    """The width of a tile that holds `width` columns: a power of two, 16 at least (the smallest matrix product)."""
    return max(16, 1 << (width - 1).bit_length())


def refusal(call: Attention) -> str | None:
    """Why this kernel cannot compute the call; None where it can."""
    if call.q.device.type != "cuda" and not is_interpreted():
        return f"its tensors are on {call.q.device}, Triton wants a CUDA device"
    if call.q.dtype == torch.float64:
        return "its inputs are float64, the kernel accumulates in float32"
    if call.mask.allowed is not None or call.mask.documents is not None:
        return "mask.allowed and mask.documents are rules that it does not have"
    if call.score.bias is not None:
        return "score.bias is a rule that it does not have"
    widest = max(call.q.shape[3], call.v.shape[3])
    return f"its heads are {widest} wide, at most 256 fit" if widest > 256 else None


def triton_decode(call: Attention, request: DecodeRequest) -> Decoded:
    """The statistics of a validated call that `refusal` has nothing against. Gradients are not recorded."""
    (B, H, T, _), (G, S), Dv, device = call.q.shape, call.k.shape[1:3], call.v.shape[3], call.q.device
    low, high = key_range(call)
    rows = T * (H // G)
    tile = tile_of(rows, call)
    blocks = -(-rows // tile.rows)
    chunk = keys_a_split(high - low, B * G * blocks, tile.keys)
    splits = max(1, -(-(high - low) // chunk))
    out = torch.empty(splits, B, H, T, Dv, dtype=torch.float32, device=device)
    sums = torch.empty(FIELDS, splits, B, H, T, dtype=torch.float32, device=device)
    arg = torch.empty(splits, B, H, T, dtype=torch.int32, device=device)
    ranked = torch.empty(B, H, T, high - low if request.top else 0, dtype=torch.int64, device=device)
    lengths = None if call.mask.lengths is None else call.mask.lengths.to(device, torch.int32).contiguous()
    score, cap = call.score, call.score.softcap
    slopes, temperature = (_vector(values, device) for values in (score.slopes, score.temperature))
    decode_kernel[(splits, blocks, B * G)](
        *(call.q, call.k, call.v, lengths, slopes, temperature, out, sums, arg, ranked),
        *(*call.q.stride(), *call.k.stride(), *call.v.stride()),
        *(score.scale / cap if cap else score.scale * LOG2E.value, cap or 1.0),
        *(G, T, S, rows, call.mask.query_offset, low, high, chunk),
        *(call.mask.window or 0, request.sinks, request.window),
        **constants_of(call, tile, request),
        **OPTIONS,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    part = merge_stack(_part(out, sums, arg))
    return finished(call, part, visible_keys(call)[:, None].expand_as(part.lse), _top(ranked, request.top))


def _vector(values: Tensor | None, device: torch.device) -> Tensor | None:
    return None if values is None else values.to(device, torch.float32).contiguous()


def keys_a_split(keys: int, pairs: int, step: int) -> int:
    """Keys of one split, a multiple of the tile: enough splits for `PROGRAMS`, none below `LEAST_KEYS`."""
    splits = min(MOST_SPLITS, max(1, -(-PROGRAMS // pairs)))
    return -(-max(LEAST_KEYS, -(-keys // splits)) // step) * step


def constants_of(call: Attention, tile: Tile, request: DecodeRequest) -> dict[str, Any]:
    """The kernel's compile-time arguments."""
    D, Dv = call.q.shape[3], call.v.shape[3]
    return {
        **{"D": D, "DV": Dv, "D_BLOCK": padded(D), "DV_BLOCK": padded(Dv)},
        **{"ROWS": tile.rows, "KEYS": tile.keys, "RANKED": request.top > 0},
        **{"CAUSAL": call.mask.causal, "WINDOWED": call.mask.window is not None},
        # The interpreter multiplies the raw bits of bfloat16.
        **{"CAPPED": call.score.softcap is not None, "UPCAST": is_interpreted() and call.q.dtype == torch.bfloat16},
    }


def _part(
    out: Float[Tensor, "splits B H T Dv"],
    sums: Float[Tensor, "fields splits B H T"],
    arg: Int[Tensor, "splits B H T"],
) -> Part:
    """Raw sums of every split, normalised: a part each, stacked. A split without a key for a row has w = 0 there."""
    m, total, surprise, distance, sink, local = sums.unbind(0)
    empty = total == 0
    total = total.masked_fill(empty, 1)
    peak = (m * LN2.value).masked_fill(empty, -torch.inf)
    return Part(
        lse=peak + total.log(),
        mass=(~empty).to(total.dtype),
        output=out / total[..., None],
        entropy=total.log() - surprise / total * LN2.value,
        peak=peak,
        argmax=arg.long().masked_fill(empty, -1),
        means={"distance": distance / total, "sink": sink / total, "local": local / total},
    )


def _top(ranked: Int[Tensor, "B H T keys"], top: int) -> tuple[Float[Tensor, "B H T n"], Int[Tensor, "B H T n"]]:
    """The strongest keys of all: the sortable integers differ from each other, so `topk` has no tie to break."""
    packed = ranked.topk(min(top, ranked.shape[-1]), dim=-1).values
    bits = packed >> 32
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int32)
    key = (0x7FFFFFFF - (packed & 0xFFFFFFFF)).masked_fill(packed == NONE.value, -1)
    return strongest(bits.view(torch.float32) * LN2.value, key, top)
