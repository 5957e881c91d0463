"""Every statistic in one sweep over row strips: exact, float32 accumulation, memory linear in length.

Runs on any torch device; on a CPU the heads are shared among one Python thread a core, each with one intra-op
thread (many small products collapse under intra-op threading on a busy machine). Work is cut into items that do
not depend on the number of threads, and their sums are joined in a fixed order: equal bits for any thread count.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.inputs import Attention, Request
from probe.kernels.lookup import Found, pairs_of
from probe.kernels.raw import Raw
from probe.kernels.scores import prepared
from probe.kernels.sequences import sequences
from probe.kernels.stages import Stage
from probe.kernels.statistics import Statistics
from probe.kernels.sums import Item, Sums
from probe.kernels.sweep import band_of_key, sweep
from probe.kernels.torch_stage import TorchStage

WAYS = 4
"""Each key/value head's strips are dealt to this many items, so that few heads still keep several cores busy."""

TORCH: Stage = TorchStage()


def blockwise(
    call: Attention, request: Request, stage: Stage = TORCH
) -> tuple[Float[Tensor, "B H T Dv"], Statistics]:
    """Output and statistics of a validated call. Returns (z in the dtype of q, statistics).

    stage: what computes a strip; plain torch, or one that can serve this call (see `stages`).
    Accumulates in float32 (float64 for float64 inputs); sums over rows are float64. Gradients are not recorded.
    """
    raw = Raw(call, request, torch.float64 if call.q.dtype == torch.float64 else torch.float32)
    with torch.no_grad():
        for swept in _run(_items(call, request, raw), raw, stage):
            swept.join()
        return raw.z.to(call.q.dtype), raw.finish()


def _items(call: Attention, request: Request, raw: Raw) -> list[Item]:
    items: list[Item] = []
    for sequence in sequences(call):
        found = Found({name: pairs_of(lookup, sequence) for name, lookup in request.lookups.items()})
        raw.count(sequence)
        bands = band_of_key(sequence, request.bands if raw.thumbnail is not None else 0, raw.dtype)
        for group in range(call.k.shape[1]):
            tensors = prepared(sequence, group, raw.dtype)
            items += [Item(sequence, group, way, WAYS, found, request, tensors, bands) for way in range(WAYS)]
    # Later strips are longer: what takes longest goes first, so that no thread is left alone at the end.
    return sorted(items, key=lambda item: -item.way)


def _run(items: list[Item], raw: Raw, stage: Stage) -> list[Sums]:
    threads = max(1, min(torch.get_num_threads(), len(items))) if raw.z.device.type == "cpu" else 1
    # Buffers are made once a thread, not once an item: fresh memory costs more than what is computed in it.
    free: SimpleQueue[Any] = SimpleQueue()
    for _ in range(threads if items else 0):
        free.put(stage.workspace([item.sequence for item in items], raw.z))

    def work(item: Item) -> Sums:
        mine = free.get()
        try:
            with torch.no_grad():
                return sweep(item, raw, stage, mine)
        finally:
            free.put(mine)

    if threads <= 1:
        return [work(item) for item in items]
    before = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            return list(pool.map(work, items))
        finally:
            torch.set_num_threads(before)  # the workers' call also set the number that new threads start with
