"""Counts from rules alone against the dense mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from probe.kernels.inputs import Attention, Mask
from probe.kernels.reference import visibility
from probe.kernels.spans import seeing_queries, visible_keys

RULES = (
    "causal", "bidirectional", "window 1", "window 17", "bidirectional window", "decoding", "decoding in a window",
    "left padding", "right padding", "documents", "everything in tensors",
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("T", [1, 30])
def test_counts_are_those_of_the_mask(rule: str, T: int, call: Callable[..., Attention]) -> None:
    made = call(T, rule=rule)
    seen = visibility(made)[:, 0]
    assert torch.equal(visible_keys(made), seen.sum(-1))
    assert torch.equal(seeing_queries(made), seen.sum(-2))


def test_queries_past_the_keys_and_chunks_count(call: Callable[..., Attention]) -> None:
    whole = call(30)
    for mask, rows, keys in (
        (Mask(causal=False, window=6), slice(0, 30), slice(0, 12)),
        (Mask(window=4, query_offset=10), slice(0, 7), slice(0, 30)),
        (Mask(query_offset=5, lengths=torch.tensor([[3, 20], [0, 9]])), slice(0, 20), slice(0, 30)),
    ):
        made = replace(whole, q=whole.q[:, :, rows], k=whole.k[:, :, keys], v=whole.v[:, :, keys], mask=mask)
        seen = visibility(made)[:, 0]
        assert torch.equal(visible_keys(made), seen.sum(-1))
        assert torch.equal(seeing_queries(made), seen.sum(-2))
