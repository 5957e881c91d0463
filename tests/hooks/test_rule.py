"""Recognised rules are the mask, and what is no plain rule is never called one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

from probe.hooks import rule as rule_module
from probe.hooks.mask import LazyMask, given_mask, lazy_mask
from probe.hooks.rule import derive_rule
from probe.hooks.verify import rule_block

LEFT = torch.tensor([[1] * 20, [0] * 5 + [1] * 15], dtype=torch.bool)
RIGHT = LEFT.flip(1)
HOLES = torch.tensor([[1] * 20, [1] * 8 + [0] + [1] * 11], dtype=torch.bool)


def mask_of(
    function: Any, queries: int = 20, keys: int = 20, padding: Tensor | None = None, **rest: Any
) -> LazyMask:
    return lazy_mask(
        batch_size=2,
        q_length=queries,
        kv_length=keys,
        mask_function=function,
        attention_mask=padding,
        **{"q_offset": 0, "kv_offset": 0, "device": "cpu", **rest},
    )


WINDOW = sliding_window_causal_mask_function(4)
BAND = sliding_window_bidirectional_mask_function(3)
PLAIN = {
    "causal": (mask_of(causal_mask_function), (True, None, 0, None)),
    "window": (mask_of(WINDOW), (True, 4, 0, None)),
    "window longer than the text": (mask_of(sliding_window_causal_mask_function(99)), (True, None, 0, None)),
    "all": (mask_of(bidirectional_mask_function), (False, None, 0, None)),
    "band": (mask_of(BAND), (False, 4, 0, None)),
    "causal, left padding": (
        mask_of(causal_mask_function, padding=LEFT),
        (True, None, 0, [[0, 20], [5, 20]]),
    ),
    "causal, right padding": (
        mask_of(causal_mask_function, padding=RIGHT),
        (True, None, 0, [[0, 20], [0, 15]]),
    ),
    "window, left padding": (mask_of(WINDOW, padding=LEFT), (True, 4, 0, [[0, 20], [5, 20]])),
    "all, left padding": (
        mask_of(bidirectional_mask_function, padding=LEFT),
        (False, None, 0, [[0, 20], [5, 20]]),
    ),
    "all ones": (
        mask_of(causal_mask_function, padding=torch.ones(2, 20, dtype=torch.bool)),
        (True, None, 0, None),
    ),
    "decoding": (
        mask_of(causal_mask_function, queries=1, q_offset=19, padding=LEFT),
        (True, None, 19, [[0, 20], [5, 20]]),
    ),
    "chunk of queries": (mask_of(WINDOW, queries=6, q_offset=14), (True, 4, 14, None)),
    "static cache": (
        mask_of(causal_mask_function, queries=6, keys=64, padding=LEFT[:1, :6].repeat(2, 1)),
        (True, None, 0, None),
    ),
    "sliding cache": (mask_of(WINDOW, queries=1, keys=4, q_offset=30, kv_offset=27), (True, None, 3, None)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_rules_are_recognised(name: str) -> None:
    mask, wanted = PLAIN[name]
    rule = mask.rule()
    lengths = None if rule.lengths is None else rule.lengths.tolist()
    assert (rule.causal, rule.window, rule.query_offset, lengths) == wanted
    assert rule.allowed is None
    assert mask.rule() is rule


OTHER = {
    "chunks": mask_of(chunked_causal_mask_function(6, torch.zeros(2, dtype=torch.long))),
    "holes": mask_of(causal_mask_function, padding=HOLES),
    "a window in one sequence": mask_of(lambda b, h, q, k: (k <= q) & ((q - k < 3) | (b == 0))),
    "one key less": mask_of(lambda b, h, q, k: (k <= q) & ((q != 13) | (k != 7))),
    "one key more": mask_of(lambda b, h, q, k: (k <= q) | ((q == 3) & (k == 17))),
    "packed": mask_of(lambda b, h, q, k: (k <= q) & ((k < 9) == (q < 9))),
    "given": given_mask(torch.ones(2, 3, 5, 5, dtype=torch.bool).tril(1))[0],
}


@pytest.mark.parametrize("name", OTHER)
def test_other_rules_become_block_functions(name: str) -> None:
    mask = OTHER[name]
    assert mask is not None
    rule = mask.rule()
    assert rule.allowed is not None
    assert (rule.window, rule.lengths) == (None, None)
    rows, columns = torch.arange(mask.queries), torch.arange(mask.keys)
    ahead = mask.block(rows, columns, padding=False) & (columns > rows[:, None] + mask.offset)
    assert rule.causal == (not bool(ahead.any()))
    assert torch.equal(rule.allowed(rows + rule.query_offset, columns), mask.block(rows, columns))


@pytest.mark.parametrize("name", {**PLAIN, **OTHER})
def test_rules_written_out_are_the_mask(name: str) -> None:
    mask = PLAIN[name][0] if name in PLAIN else OTHER[name]
    assert mask is not None
    rows, columns = torch.arange(mask.queries), torch.arange(mask.keys)
    wanted = mask.block(rows, columns).expand(mask.batch, mask.heads, -1, -1)
    rule = mask.rule()
    given = rule_block(rule, mask.queries, mask.keys, rows.device).expand_as(wanted)
    kept = torch.ones(mask.batch, mask.queries, dtype=torch.bool)
    if rule.lengths is not None:
        position = rows + rule.query_offset
        kept = (position >= rule.lengths[:, :1]) & (position < rule.lengths[:, 1:])
    kept = kept[:, None].expand(wanted.shape[:3])
    assert torch.equal(given[kept], wanted[kept])


def test_padding_of_another_sequence_says_nothing_of_the_queries() -> None:
    mask = mask_of(bidirectional_mask_function, padding=LEFT)
    assert mask.rule(cross=True).allowed is not None
    assert mask.rule(cross=False).allowed is None


@pytest.mark.parametrize(
    ("function", "plain"),
    [
        (causal_mask_function, True),
        (WINDOW, True),
        (BAND, True),
        (sliding_window_causal_mask_function(301), True),
        (chunked_causal_mask_function(64, torch.zeros(2, dtype=torch.long)), False),
        (lambda b, h, q, k: (k <= q) & ((k < 200) == (q < 200)), False),
    ],
)
def test_large_masks_are_compared_by_borders_and_samples(
    function: Any, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule_module, "EXHAUSTIVE", 1 << 10)
    padding = torch.ones(2, 600, dtype=torch.bool)
    padding[1, :37] = False
    for mask in (mask_of(function, 600, 600), mask_of(function, 600, 600, padding)):
        assert (derive_rule(mask).allowed is None) == plain


def test_no_large_tensor_appears(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    def function(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        nonlocal largest
        seen = key <= query
        largest = max(largest, seen.numel())
        return seen

    assert derive_rule(mask_of(function, 4096, 4096)).causal
    assert largest <= rule_module.STRIP
