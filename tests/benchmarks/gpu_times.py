"""Times and peak memory of the GPU passes, beside torch's kernels, FlexAttention and eager on the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend

from probe.kernels.decode import decode_statistics
from probe.kernels.decoded import DecodeRequest
from probe.kernels.inputs import Attention
from probe.kernels.triton_config import CHEAP
from probe.kernels.triton_launch import ColumnsWanted, RowsMade, RowsWanted, launch_columns, launch_rows
from tests.benchmarks.gpu_peers import eager, flex, sdpa, sdpa_one, tried
from tests.benchmarks.gpu_pieces import Record
from tests.benchmarks.gpu_plan import Plan, make_call
from tests.benchmarks.gpu_rates import exponentials
from tests.benchmarks.measuring import Clock

MIB = 2**20

ALONE = RowsWanted(classes=False)
CHEAP_ROWS = RowsWanted(fields=CHEAP)
CONSUMED = RowsWanted(fields=CHEAP, partials=True)
WRITTEN = RowsWanted(fields=CHEAP, parts=True)


class Work(NamedTuple):
    """What it is, a call that does it, how many passes over the pairs it makes (0: no floor is stated), and whether it
    is somebody else's: only that may fail to run here."""

    what: str
    run: Callable[[], Any]
    passes: int = 0
    peer: bool = False


def both_passes(call: Attention, wanted: RowsWanted) -> RowsMade:
    """Pass 1, then the received mass from its log-sum-exp."""
    made = launch_rows(call, wanted)
    launch_columns(call, made.fields["lse"], ColumnsWanted())
    return made


def _passes(call: Attention) -> list[Work]:
    lse = launch_rows(call, ALONE).fields["lse"]
    return [
        Work("pass 1: output, lse", lambda: launch_rows(call, ALONE), 1),
        Work("pass 1: output, lse, cheap statistics", lambda: launch_rows(call, CHEAP_ROWS), 1),
        Work("pass 2: received", lambda: launch_columns(call, lse, ColumnsWanted())),
        Work("both passes, class outputs consumed", lambda: both_passes(call, CONSUMED), 2),
        Work("both passes, class outputs written", lambda: both_passes(call, WRITTEN), 2),
    ]


def times(plan: Plan, length: int, device: torch.device, clock: Clock) -> Iterator[Record]:
    """Torch's attention, then each pass, at one length."""
    call = make_call(plan, length, device)
    for backend, name in ((SDPBackend.FLASH_ATTENTION, "flash"), (SDPBackend.CUDNN_ATTENTION, "cuDNN")):
        yield timed(length, Work(f"{name} sdpa, output alone", sdpa(call, backend), 1, peer=True), clock)
    for work in _passes(call):
        yield timed(length, work, clock)


def timed(tokens: int, work: Work, clock: Clock) -> Record:
    """One row: seconds of a piece of work, or why it does not run here."""
    timing, why_not = tried(lambda: clock.time(work.run))
    row = {"kind": "time", "tokens": tokens, "what": work.what, "passes": work.passes, "peer": work.peer}
    if timing is None:
        return {**row, "why_not": why_not}
    return {**row, "seconds": timing.median, "low": timing.low, "high": timing.high, "runs": timing.runs}


def flex_times(plan: Plan, length: int, device: torch.device, clock: Clock) -> Iterator[Record]:
    """FlexAttention with its log-sum-exp, alone and with the row statistics from it in torch."""
    call = make_call(plan, length, device)
    for what, statistics in (("output and lse", False), ("with lse, the statistics in torch", True)):
        yield timed(length, Work(f"FlexAttention, {what}", flex(call, statistics=statistics), peer=True), clock)


def eager_times(plan: Plan, device: torch.device, clock: Clock) -> Iterator[Record]:
    """The dense pattern and reductions of it, where it fits."""
    for length in plan.eager_lengths:
        call = make_call(plan, length, device)
        yield timed(length, Work("eager T × T in float32, the statistics from it", eager(call), peer=True), clock)


def decode_times(plan: Plan, device: torch.device, clock: Clock) -> Iterator[Record]:
    """One token against all its keys, with and without the strongest keys."""
    for keys in plan.decode_keys:
        call = make_call(plan, keys, device, queries=1)
        for top in (0, 64):
            yield timed(keys, Work(f"decoding one token, {top} strongest keys", _decoding(call, top)), clock)
        yield timed(keys, Work("decoding one token, sdpa, output alone", sdpa_one(call), peer=True), clock)


def _decoding(call: Attention, top: int) -> Callable[[], Any]:
    return lambda: decode_statistics(call, DecodeRequest(top=top), backend="triton")


def compiled_once(plan: Plan, device: torch.device, clock: Clock | None = None) -> Iterator[Record]:
    """Everything of ours that is timed later, run once at the smallest size: later pieces find it in Triton's cache."""
    one = make_call(plan, min(plan.decode_keys), device, queries=1)
    works = _passes(make_call(plan, min(plan.lengths), device))
    works += [Work(f"decoding, {top} strongest keys", _decoding(one, top)) for top in (0, 64)]
    works += [Work("exponentials", lambda: exponentials(torch.empty(1024, device=device)))]
    for work in works:
        work.run()
        yield {"kind": "compiled", "what": work.what}


def memory(plan: Plan, device: torch.device, clock: Clock | None = None) -> Iterator[Record]:
    """Peak memory of both passes beside their inputs and z, at each length.

    Allowed: 32 MiB, and for each row or column vector (log-sum-exp and received included) its own 4 bytes a token and
    head: 16 MiB at 131,072 tokens of 32 heads.
    """
    cases = {"lse and received": ALONE, "cheap statistics and received, classes consumed": CONSUMED}
    for what, wanted in cases.items():
        for length in plan.memory_lengths:
            call = make_call(plan, length, device)
            mib = _peak(lambda call=call, wanted=wanted: both_passes(call, wanted), device) / MIB
            z = call.q.numel() * call.q.element_size() / MIB
            vectors = (len(wanted.fields) + 1) * 4 * plan.heads * length / MIB
            yield {"kind": "memory", "what": what, "tokens": length, "mib": mib - z, "allowed_mib": 32 + vectors}


def _peak(work: Callable[[], Any], device: torch.device) -> float:
    """Bytes that torch allocated at most during the work, above those before it; 0 where the device does not count.

    Registers that spill go to memory of the driver's, which is not among them.
    """
    work()
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    made = work()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del made
    return float(peak)
