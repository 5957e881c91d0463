"""A lazy mask answers like the dense one that transformers would have built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    chunked_causal_mask_function,
    sdpa_mask,
    sliding_window_causal_mask_function,
)

from probe.hooks.mask import HookError, given_mask, lazy_mask


def request(**changes: Any) -> dict[str, Any]:
    return {
        "batch_size": 2,
        "q_length": 9,
        "kv_length": 9,
        "q_offset": 0,
        "kv_offset": 0,
        "mask_function": causal_mask_function,
        "attention_mask": None,
        "allow_is_causal_skip": True,
        "device": "cpu",
        **changes,
    }


PADDING = torch.tensor([[1] * 9, [0, 0, 0] + [1] * 6], dtype=torch.bool)
CASES = {
    "causal": request(),
    "padded": request(attention_mask=PADDING),
    "window": request(mask_function=sliding_window_causal_mask_function(3), local_size=3),
    "chunks": request(
        mask_function=chunked_causal_mask_function(4, torch.zeros(2, dtype=torch.long)), local_size=4
    ),
    "decoding": request(q_length=2, q_offset=7, attention_mask=PADDING),
    "sliding cache": request(q_length=1, kv_length=4, q_offset=8, kv_offset=5, attention_mask=PADDING),
    "static cache": request(kv_length=16, q_offset=torch.tensor(0), attention_mask=PADDING),
    "element by element": request(
        mask_function=and_masks(causal_mask_function, lambda b, h, q, k: (q - k) % 2 == 0), use_vmap=True
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_blocks_are_those_of_the_dense_mask(name: str) -> None:
    asked = CASES[name]
    dense = sdpa_mask(**{**asked, "allow_is_causal_skip": False})
    assert dense is not None
    mask = lazy_mask(**asked)
    assert mask.shape == dense.shape
    rows = torch.tensor([mask.queries - 1, 0])
    columns = torch.tensor([2, 0, mask.keys - 1])
    block = mask.block(rows, columns)
    assert torch.equal(block.expand(2, 1, 2, 3), dense[:, :, rows][..., columns])


@pytest.mark.parametrize("name", CASES)
def test_the_sdpa_mask_is_transformers_own(name: str) -> None:
    wanted, given = sdpa_mask(**CASES[name]), lazy_mask(**CASES[name]).sdpa()
    if wanted is None:
        assert given is None
    else:
        assert given is not None
        assert torch.equal(given, wanted)


def test_a_mask_that_comes_back_is_passed_on() -> None:
    mask = lazy_mask(**request())
    assert lazy_mask(**request(attention_mask=mask)) is mask
    assert mask.to("cpu") is mask
    assert mask.contiguous() is mask
    assert (mask.ndim, mask.dim(), mask.size(), mask.size(2)) == (4, 4, mask.shape, 9)


def test_slicing_is_refused() -> None:
    with pytest.raises(HookError, match="slices its attention mask"):
        lazy_mask(**request())[:, :, :, :4]


@pytest.mark.parametrize(
    "fold", [lambda mask: torch.zeros(1) + mask, lambda mask: torch.where(mask, 0.0, 1.0)]
)
def test_computing_with_it_is_refused(fold: Any) -> None:
    with pytest.raises(HookError, match=r"computes with its attention mask \((where|add)"):
        fold(lazy_mask(**request()))


def test_valid_keys_follow_the_cache() -> None:
    mask = lazy_mask(**CASES["sliding cache"])
    assert mask.valid_keys() is not None
    assert mask.valid_keys().tolist() == [[True] * 4, [True] * 4]
    static = lazy_mask(**CASES["static cache"]).valid_keys()
    assert static is not None
    assert static.sum(-1).tolist() == [9, 6]


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16])
def test_given_masks_are_rules_or_biases(dtype: torch.dtype) -> None:
    visible = torch.ones(2, 3, 4, 6, dtype=torch.bool).tril(2)
    visible[1, 2, 3, 0] = False
    tensor = (
        visible
        if dtype == torch.bool
        else torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    )
    mask, bias = given_mask(tensor)
    assert bias is None
    assert mask is not None
    assert mask.sdpa() is tensor
    assert torch.equal(mask.block(torch.arange(4), torch.arange(6)), visible)


def test_a_float_mask_with_values_is_a_bias() -> None:
    tensor = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert given_mask(tensor) == (None, tensor)


@pytest.mark.parametrize("tensor", [torch.zeros(3, 3), torch.zeros(1, 1, 3, 3, dtype=torch.long)])
def test_other_masks_are_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(HookError, match="attention mask of"):
        given_mask(tensor)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rows", [slice(0, 2), slice(1, 2), slice(0, 1), slice(0, 2, 2)])
def test_a_narrowed_mask_is_that_of_its_sequences(name: str, rows: slice) -> None:
    mask = lazy_mask(**{**CASES[name], "allow_is_causal_skip": False})
    part = mask.narrowed(*rows.indices(2), torch.tensor([1]))
    everything = torch.arange(mask.queries), torch.arange(mask.keys)
    wanted = mask.block(*everything).expand(2, 1, -1, -1)[rows]
    assert torch.equal(part.block(*everything).expand(wanted.shape), wanted)
    assert (part is mask) == (rows == slice(0, 2))
    dense = part.sdpa()
    assert dense is not None
    assert torch.equal(dense, wanted)
    assert (part.offset, part.start) == (mask.offset, mask.start)


def test_a_narrowed_causal_mask_keeps_the_fast_kernel() -> None:
    assert lazy_mask(**CASES["causal"]).narrowed(1, 2, 1, torch.tensor([0])).sdpa() is None
    assert lazy_mask(**CASES["padded"]).narrowed(0, 1, 1, torch.tensor([0])).sdpa() is None
    assert lazy_mask(**CASES["padded"]).narrowed(1, 2, 1, torch.tensor([0])).sdpa() is not None


def test_a_narrowed_mask_that_was_given_by_head() -> None:
    visible = torch.rand(2, 6, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    mask, _ = given_mask(visible)
    assert mask is not None
    part = mask.narrowed(1, 2, 1, torch.tensor([0, 4]))
    assert torch.equal(part.block(torch.arange(4), torch.arange(5)), visible[1:, [0, 4]])
    shared, _ = given_mask(visible[:1, :1])
    assert shared is not None
    part = shared.narrowed(1, 2, 1, torch.tensor([0, 4]))
    assert torch.equal(part.block(torch.arange(4), torch.arange(5)), visible[:1, :1])


@pytest.mark.parametrize("name", ["padded", "sliding cache", "static cache"])
def test_first_tokens_stand_after_the_padding(name: str) -> None:
    mask = lazy_mask(**CASES[name])
    first, tokens = mask.first_token(), mask.tokens()
    assert first is not None
    assert tokens is not None
    assert first.tolist() == [0, 3]
    assert torch.equal(tokens, mask.valid_keys())
    plain = lazy_mask(**CASES["causal"])
    assert plain.first_token() is plain.tokens() is None


def test_tokens_of_a_given_mask_are_those_that_are_seen() -> None:
    visible = torch.ones(2, 1, 4, 4, dtype=torch.bool).tril()
    visible[1, :, :, 0] = False
    for given in (visible, torch.where(visible, 0.0, -torch.inf)):
        mask, _ = given_mask(given)
        assert mask is not None
        tokens, first = mask.tokens(), mask.first_token()
        assert tokens is not None
        assert first is not None
        assert tokens.tolist() == [[True] * 4, [False, True, True, True]]
        assert first.tolist() == [0, 1]
