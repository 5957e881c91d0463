"""The compiled stage against the torch one where the definitions say nothing: NaN, minus infinity, what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Request, Score
from probe.kernels.raw import Raw
from probe.kernels.scores import prepared
from probe.kernels.sequences import sequences
from probe.kernels.sums import Item, Sums
from probe.kernels.testing import bound_of

pytest.importorskip("numba")
from probe.kernels.blockwise import TORCH
from probe.kernels.lookup import Found
from probe.kernels.numba_stage import NumbaStage

Call = Callable[..., Attention]
STAGE = NumbaStage()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_of_either_sign_makes_its_row_nan(sign: float, call: Call, request_for: Callable[..., Request]) -> None:
    made = call(40)
    k = made.k.clone()
    k[0, 0, 30] = torch.copysign(torch.tensor(torch.nan), torch.tensor(sign))
    z, found = blockwise(replace(made, k=k), request_for(made), STAGE)
    z_torch, wanted = blockwise(replace(made, k=k), request_for(made))
    for one, two in ((z, z_torch), (found.lse, wanted.lse), (found.entropy, wanted.entropy)):
        assert torch.equal(one.isnan(), two.isnan())
    assert z[0, :2, 30:].isnan().all()
    assert not z[0, 2:].isnan().any()
    assert not z[0, :2, :30].isnan().any()


def test_minus_infinity_in_a_bias_hides_a_key(call: Call, request_for: Callable[..., Request]) -> None:
    def none(rows: Tensor, columns: Tensor) -> Tensor:
        return torch.where(columns % 3 == 1, -torch.inf, 0.0).expand(1, 1, len(rows), -1)

    made = call(60)
    biased, masked = replace(made, score=Score(made.score.scale, bias=none)), made
    masked = replace(made, mask=replace(made.mask, allowed=lambda rows, columns: none(rows, columns) == 0))
    (z, found), (z_wanted, wanted) = (blockwise(each, request_for(made), STAGE) for each in (biased, masked))
    unit = bound_of(made).unit
    assert (z - z_wanted).abs().max() <= unit * float(made.v.abs().max())
    for name in ("lse", "entropy", "max_weight", "row_mass"):
        assert (getattr(found, name) - getattr(wanted, name)).abs().max() <= unit, name


def test_both_stages_leave_the_same_strip(call: Call) -> None:
    made = call(70, rule="window 17", B=1)
    raw, sequence = Raw(made, Request(), torch.float32), sequences(made)[0]
    item = Item(sequence, 1, 0, 1, Found({}), Request(), prepared(sequence, 1, raw.dtype), None)
    left = []
    for stage in (TORCH, STAGE):
        strips = stage.strips(Sums(item, raw), stage.workspace([sequence], raw.z))
        strips.run(0, 64)
        strips.run(64, 70)
        part, inverse = strips.last()
        left.append([inverse, *(getattr(part, name).clone() for name in
                                ("weights", "shift", "mass", "total", "output", "surprise"))])  # fmt: skip
        assert (part.start, part.stop, part.low, part.high) == (64, 70, 48, 70)
        assert part.seen is None
    for one, two in zip(*left, strict=True):
        assert one.shape == two.shape
        assert (one - two).abs().max() < 1e-5
