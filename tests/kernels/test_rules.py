"""Rules in tensors mean what the same rules mean as functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from probe.kernels.inputs import Attention, Mask
from probe.kernels.rules import block_bias, block_mask


def test_documents_and_a_function_agree_block_by_block() -> None:
    documents = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 2, 2, 2]])
    rows, columns = torch.arange(1, 4), torch.arange(0, 5)
    mask = block_mask(Mask(documents=documents))
    assert mask is not None
    assert (
        mask(rows, columns)[0, 0].tolist()
        == [[True, True, False, False, False]] + [[False, False, True, True, True]] * 2
    )
    even = Mask(documents=documents, allowed=lambda i, j: (j % 2 == 0).expand(1, 1, len(i), len(j)))
    both = block_mask(even)
    assert both is not None
    assert both(rows, columns)[1, 0].tolist()[2] == [False, False, True, False, True]
    assert block_mask(Mask()) is None


def test_slopes_measure_distance_on_the_axis_of_the_keys(call: Callable[..., Attention]) -> None:
    made = call(6, rule="slopes")
    bias = block_bias(replace(made, mask=Mask(query_offset=3)))
    assert bias is not None
    assert made.score.slopes is not None
    found = bias(torch.tensor([0, 2]), torch.arange(6))
    assert torch.allclose(found[0, 1, 1].float(), -made.score.slopes[1] * (5 - torch.arange(6)))
    assert torch.allclose(found[0, 3, 0].float(), -made.score.slopes[3] * (3 - torch.arange(6)).abs())
    assert block_bias(replace(made, score=replace(made.score, slopes=None))) is None
