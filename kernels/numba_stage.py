"""The stage of a strip on a CPU: torch multiplies, one compiled function does all the rest, without Python's lock.

It serves float32 statistics of softmax attention; see `numba_backend` for which calls get it.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.numba_arguments import Answer, Given, Place, Totals
from probe.kernels.numba_strip import run_strip
from probe.kernels.scores import LOG2E, put_scores
from probe.kernels.sequences import Sequence
from probe.kernels.stages import StripOf
from probe.kernels.strips import Strip, Workspace, hide, keys_of, workspace
from probe.kernels.sums import Sums


class Buffers:
    """A workspace in which weights take the place of scores, as numpy sees it, and sums over a few rows."""

    def __init__(self, work: Workspace, keys: int) -> None:
        """keys: of the longest sequence."""
        self.torch = work
        self.weights = work.scores.numpy()
        self.bits = self.weights.view(np.int32)
        self.column, self.profile = np.zeros(keys, np.float32), np.zeros(keys, np.float32)


class NumbaStage:
    """See `stages.Stage`."""

    def workspace(self, served: list[Sequence], like: Tensor) -> Buffers:
        """One buffer for scores and weights."""
        return Buffers(workspace(served, like, in_place=True), max(sequence.n_keys for sequence in served))

    def strips(self, sums: Sums, work: Buffers) -> StripOf:
        """Scores by torch, weights and sums compiled, the product with v by torch."""
        sequence, group, prepared = sums.sequence, sums.item.group, sums.item.prepared
        given, answer, totals = _given(sums), _answer(sums), _totals(sums, work)

        def strip_of(start: int, stop: int) -> tuple[Strip, Float[Tensor, "r rows"]]:
            low, high = keys_of(sequence, start, stop)
            r, rows, pad = sequence.group, stop - start, work.torch.pad
            lines = work.torch.scores[: r * rows, pad : pad + high - low]
            s = put_scores(lines, sequence, group, slice(start, stop), slice(low, high), prepared)
            seen = None
            if sequence.allowed is not None:  # no span: put on the scores, as on the other stage
                seen = hide(s, sequence, group, start, stop, low, high, work.torch)
            place = _place(sums, start, stop, low, high, pad)
            run_strip(place, work.weights, work.bits, given, answer, totals)
            inverse = torch.from_numpy(totals.inverse[:, :rows])
            output = torch.mm(lines, sums.v[low:high]).view(r, rows, -1)
            own = sums.rows_of(start, stop)
            torch.mul(output, inverse[..., None], out=sums.z[:, own])
            total, mass, shift, _, surprise, *_ = sums.rows[:, :, own].unbind(0)
            return Strip(sequence, start, stop, low, high, s, shift, mass, total, output, surprise, seen), inverse

        return strip_of


def _place(sums: Sums, start: int, stop: int, low: int, high: int, pad: int) -> Place:
    sequence, request = sums.sequence, sums.item.request
    return Place(
        heads=sequence.group,
        rows=stop - start,
        start=start,
        row=sequence.first_row + start,
        position=start + sequence.offset,
        head=sequence.index * sums.raw.z.shape[1] + sums.item.heads.start,
        low=low,
        high=high,
        pad=pad,
        n_keys=sequence.n_keys,
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
        raw.local_part.flatten(0, 1).numpy(),
        raw.lookups.flatten(1, 2).numpy(),
    )


def _totals(sums: Sums, work: Buffers) -> Totals:
    thumbnail = torch.zeros(0, 0, 0, dtype=torch.float64) if sums.thumbnail is None else sums.thumbnail
    inverse = np.zeros((sums.sequence.group, sums.rows_a_strip), np.float32)
    return Totals(
        sums.received.numpy(), sums.by_distance.numpy(), thumbnail.numpy(), work.column, work.profile, inverse
    )
