"""Raw sums and the arithmetic at the end: counts from the rules alone, and sinks that also lie in the window."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from probe.kernels import reference
from probe.kernels.inputs import Attention, Request
from probe.kernels.raw import FIELDS, Raw
from probe.kernels.sequences import sequences

Call = Callable[..., Attention]


@pytest.mark.parametrize("rule", ["causal", "window 17", "bidirectional window", "decoding", "left padding"])
def test_counts_need_no_map(rule: str, call: Call) -> None:
    made = call(40, rule=rule)
    raw, seen = Raw(made, Request(), torch.float32), reference.visibility(made)
    for sequence in sequences(made):
        raw.count(sequence)
    assert torch.equal(raw.visible, seen.sum(-1))
    assert torch.equal(raw.received_rows, seen.sum(-2))


def test_a_mask_of_its_own_is_counted_by_the_sweep(call: Call) -> None:
    made = call(40, rule="packed")
    raw = Raw(made, Request(), torch.float32)
    for sequence in sequences(made):
        raw.count(sequence)
    assert not raw.visible.any()
    assert not raw.received_rows.any()


def test_nothing_counted_is_nan_not_zero(call: Call) -> None:
    made = call(10)
    found = Raw(made, Request(), torch.float32).finish()
    for name in ("lse", "entropy", "max_weight", "distance", "first", "row_mass", "sink_part", "local_part"):
        assert getattr(found, name).isnan().all(), name
    assert (found.received == 0).all()
    assert len(set(FIELDS)) == len(FIELDS)
