"""The stage of a strip on a CPU: torch multiplies, one compiled function does all the rest, without Python's lock.

It serves float32 statistics of softmax attention; see `numba_backend` for which calls get it.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.kernels.numba_arguments import Answer, Given, Layout, Totals, Work
from probe.kernels.numba_strip import run_strip, write_output
from probe.kernels.scores import LOG2E, heads_of, put_scores
from probe.kernels.sequences import Sequence
from probe.kernels.strips import Strip, Workspace, hide, keys_of, workspace
from probe.kernels.sums import Sums


class Buffers:
    """A workspace in which weights take the place of scores, outputs of a strip, and sums over a few rows."""

    def __init__(self, torch_: Workspace, heads: int, keys: int, width: int) -> None:
        """heads of a group; keys of the longest sequence; width of v."""
        self.torch, scores = torch_, torch_.scores.numpy()
        self.output = torch_.scores.new_empty(scores.shape[0], width)

        def room(*shape: int) -> np.ndarray:
            return np.zeros(shape, np.float32)

        inverse = room(heads, scores.shape[0] // heads)
        self.numpy = Work(scores, scores.view(np.int32), room(keys), room(keys), inverse, room(4))


class NumbaStage:
    """See `stages.Stage`."""

    def workspace(self, served: list[Sequence], like: Tensor) -> Buffers:
        """One buffer for scores and weights."""
        keys = max(sequence.n_keys for sequence in served)
        return Buffers(workspace(served, like, in_place=True), served[0].group, keys, like.shape[-1])

    def strips(self, sums: Sums, work: Buffers) -> NumbaStrips:
        """See `stages.Strips`."""
        return NumbaStrips(sums, work)


class NumbaStrips:
    """Scores by torch, weights and sums compiled, the product with v by torch."""

    def __init__(self, sums: Sums, work: Buffers) -> None:
        """What the strips have in common, as the compiled functions want it."""
        self.sums, self.work = sums, work
        self.layout, self.given, self.answer = _layout(sums, work.torch.pad), _given(sums), _answer(sums)
        self.totals, self.z = _totals(sums), sums.raw.z.flatten(0, 1).numpy()
        self.seen: Bool[Tensor, "#r rows keys"] | None = None

    def run(self, start: int, stop: int) -> None:
        """See `stages.Strips`."""
        sums, work, sequence, group = self.sums, self.work, self.sums.sequence, self.sums.item.group
        low, high = keys_of(sequence, start, stop)
        rows, pad = stop - start, work.torch.pad
        lines = work.torch.scores[: sequence.group * rows, pad : pad + high - low]
        put_scores(lines, sequence, group, slice(start, stop), slice(low, high), sums.item.prepared)
        if sequence.allowed is not None:  # spans are the compiled function's; this is none
            s = heads_of(lines, sequence.group)
            self.seen = hide(s, sequence, group, start, stop, low, high, work.torch)
        run_strip(self.layout, start, rows, low, high, self.given, self.answer, self.totals, work.numpy)
        output = work.output[: sequence.group * rows]
        torch.mm(lines, sums.v[low:high], out=output)
        write_output(self.layout, start, rows, output.numpy(), work.numpy.inverse, self.z)
        self.now = start, stop, low, high, lines, output

    def last(self) -> tuple[Strip, Float[Tensor, "r rows"]]:
        """See `stages.Strips`."""
        start, stop, low, high, lines, output = self.now
        sums, r, rows = self.sums, self.sums.sequence.group, stop - start
        total, mass, shift, _, surprise, *_ = sums.rows[:, :, sums.rows_of(start, stop)].unbind(0)
        weights, by_row = heads_of(lines, r), output.view(r, rows, -1)
        part = Strip(sums.sequence, start, stop, low, high, weights, shift, mass, total, by_row, surprise, self.seen)
        return part, torch.from_numpy(self.work.numpy.inverse[:, :rows])


def _layout(sums: Sums, pad: int) -> Layout:
    sequence, request = sums.sequence, sums.item.request
    return Layout(
        heads=sequence.group,
        head=sequence.index * sums.raw.z.shape[1] + sums.item.heads.start,
        first_row=sequence.first_row,
        offset=sequence.offset,
        n_keys=sequence.n_keys,
        pad=pad,
        causal=sequence.causal,
        window=0 if sequence.window is None else sequence.window,
        learned=sequence.score.sinks is not None,
        sinks=request.sinks,
        near=request.window,
        bands=0 if sums.thumbnail is None else sums.raw.bands,
        profiled=sums.profiled,
    )


def _given(sums: Sums) -> Given:
    sinks = sums.sequence.score.sinks
    learned = torch.zeros(0) if sinks is None else sinks[sums.item.heads].float() * LOG2E
    order, first, stop = (part.numpy() for part in sums.item.found.runs)
    return Given(sums.v.numpy(), sums.back.numpy(), sums.farthest, learned.numpy(), order, first, stop)


def _answer(sums: Sums) -> Answer:
    raw = sums.raw
    return Answer(
        raw.rows.flatten(1, 2).numpy(),
        raw.sink_weights.flatten(0, 1).numpy(),
        raw.sink_part.flatten(0, 1).numpy(),
        raw.local_part.flatten(0, 1).numpy(),
        raw.lookups.flatten(1, 2).numpy(),
    )


def _totals(sums: Sums) -> Totals:
    thumbnail = torch.zeros(0, 0, 0, dtype=torch.float64) if sums.thumbnail is None else sums.thumbnail
    return Totals(sums.received.numpy(), sums.by_distance.numpy(), thumbnail.numpy())
