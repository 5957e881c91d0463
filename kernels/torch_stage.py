"""The stage of a strip in plain torch: any device, any rule, float32 or float64.

Python's time between products is what short sequences wait for, so a step touches each tensor as seldom as it can:
raw sums go to their rows as they are, and `Raw.finish` does the arithmetic for all rows at once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probe.kernels.sequences import Sequence
from probe.kernels.strips import Strip, Workspace, strip, workspace
from probe.kernels.sums import Sums


class TorchStage:
    """See `stages.Stage`."""

    def workspace(self, served: list[Sequence], like: Tensor) -> Workspace:
        """A buffer for scores and one for weights."""
        return workspace(served, like)

    def strips(self, sums: Sums, work: Workspace) -> TorchStrips:
        """See `stages.Strips`."""
        return TorchStrips(sums, work)


class TorchStrips:
    """Weights first, then everything that is counted of them."""

    def __init__(self, sums: Sums, work: Workspace) -> None:
        """work: from `TorchStage.workspace`."""
        self.sums, self.work = sums, work

    def run(self, start: int, stop: int) -> None:
        """See `stages.Strips`."""
        sums = self.sums
        part = strip(sums.sequence, sums.item.group, start, stop, self.work, sums.item.prepared)
        inverse = part.total.reciprocal()
        if part.seen is not None or sums.sequence.blind(stop - 1 + sums.sequence.offset):
            inverse.masked_fill_(part.total == 0, 0)
        _write_rows(sums, part, sums.rows_of(start, stop), inverse, self.work)
        _add_sums(sums, part, inverse)
        self.part, self.inverse = part, inverse

    def last(self) -> tuple[Strip, Float[Tensor, "r rows"]]:
        """See `stages.Strips`."""
        return self.part, self.inverse


def _write_rows(sums: Sums, part: Strip, rows: slice, inverse: Tensor, work: Workspace) -> None:
    """Output and raw row sums of one strip."""
    weights, low, high = part.weights, part.low, part.high
    total, mass, shift, peak, surprise, first, previous, current, local, distance = sums.rows[:, :, rows].unbind(0)
    torch.mul(part.output, inverse[..., None], out=sums.z[:, rows])
    total.copy_(part.total)
    if low == 0 and high:
        first.copy_(weights[..., 0])
    mass.copy_(part.mass)
    shift.copy_(part.shift)
    surprise.copy_(part.surprise)
    if sums.sequence.score.sinks is not None:
        peak.copy_(weights.amax(-1))
    if sums.sequence.causal:
        position = part.start + sums.sequence.offset
        # Distance from the strip's first row keeps the summands small beside what they add up to.
        begin = sums.farthest - (position - low)
        back = sums.back[begin : begin + high - low]
        distance.copy_(torch.mv(weights.flatten(0, 1), back).view(inverse.shape))
        diagonals = part.by_distance()
        n = diagonals.shape[-1]
        current.copy_(diagonals[..., n - 1])
        if n > 1:
            previous.copy_(diagonals[..., n - 2])
        torch.sum(diagonals[..., max(0, n - sums.item.request.window) :], -1, out=local)
        _write_classes(sums, part, rows, inverse, work)
    for name, pairs in sums.item.found.pairs.items():
        pairs.mass(part, sums.raw.lookup[name][sums.sequence.index, sums.item.heads, rows])


def _write_classes(sums: Sums, part: Strip, rows: slice, inverse: Tensor, work: Workspace) -> None:
    """Weights and output of the sinks, and the output of the window without them: two small products."""
    weights, low, high = part.weights, part.low, part.high
    near = max(0, min(sums.item.request.sinks, high) - low)
    if near:
        of_sinks = weights[..., :near]
        sums.sink_weights[:, rows, low : low + near] = of_sinks
        out = torch.mm(of_sinks.flatten(0, 1), sums.v[low : low + near]).view(*inverse.shape, -1)
        torch.mul(out, inverse[..., None], out=sums.sink_part[:, rows])
    window_start = part.start + sums.sequence.offset - sums.item.request.window + 1
    begin = max(low + near, window_start)
    if begin >= high:
        return
    band = weights[..., begin - low :]
    count = weights.shape[1]
    skip = begin - window_start  # rows whose window begins at `begin` or before need no mask
    if skip < count:
        band = band.clone()
        reach = min(count - skip, high - begin)
        band[:, skip:, :reach].masked_fill_(work.behind[: count - skip, :reach], 0)
    out = torch.mm(band.flatten(0, 1), sums.v[begin:high]).view(*inverse.shape, -1)
    torch.mul(out, inverse[..., None], out=sums.local_part[:, rows])


def _add_sums(sums: Sums, part: Strip, inverse: Tensor) -> None:
    """Sums over the rows of one strip, by key, by band and by distance: one small product a head."""
    weights, low, high = part.weights, part.low, part.high
    chosen = inverse[:, None]  # [r, 1, rows]: one row of factors a sum
    first_band = last_band = 0
    band_of_key = sums.item.band_of_key
    if band_of_key is not None:
        bands, n = sums.raw.bands, sums.sequence.n_keys
        first_band, last_band = bands * part.start // n, bands * (part.stop - 1) // n
        if first_band < last_band:
            of_row = band_of_key[part.start : part.stop, first_band : last_band + 1]
            chosen = chosen * of_row.t()
    by_key = torch.bmm(chosen, weights)  # [r, bands of the strip, keys]
    if sums.thumbnail is not None and band_of_key is not None:
        cells = by_key.flatten(0, 1) @ band_of_key[low:high]
        sums.thumbnail[:, first_band : last_band + 1] += cells.view(*by_key.shape[:2], -1)
    sums.received[:, low:high] += by_key[:, 0] if first_band == last_band else by_key.sum(1)
    if sums.profiled:
        if part.start + sums.sequence.offset == 0:
            inverse = inverse.clone()
            inverse[:, 0] = 0  # the profile is over positions 1 and later
        diagonals = part.by_distance()
        n, limit = diagonals.shape[-1], sums.sequence.n_keys
        # Kept with distance 0 in the last place, as the view has it; turned round by `join`.
        by_distance = torch.bmm(inverse[:, None], diagonals)[:, 0]
        sums.by_distance[:, max(0, limit - n) :] += by_distance[:, max(0, n - limit) :]
