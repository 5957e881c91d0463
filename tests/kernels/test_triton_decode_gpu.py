"""The decoding kernels on a GPU: the rules and shapes of `test_triton_decode`, and long splits, with its bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from probe.kernels.decode import decode_statistics
from probe.kernels.decode_testing import assert_decoded_close
from probe.kernels.decoded import DecodeRequest
from probe.kernels.inputs import Attention
from tests.kernels.decoding import RULES, decoding, tied, tied_keys
from tests.kernels.on_device import HALF, NEEDS_GPU, moved

pytestmark = NEEDS_GPU


def decoded(made: Attention, request: DecodeRequest) -> None:
    found = decode_statistics(moved(made), request, backend="triton")
    assert_decoded_close(moved(found, "cpu"), made, request)


def test_the_commonest_call() -> None:
    decoded(decoding("causal", T=1, ratio=4, S=3000, D=128, dtype=torch.bfloat16), DecodeRequest(top=8))


@pytest.mark.full
@pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule: str, dtype: torch.dtype) -> None:
    decoded(decoding(rule, dtype=dtype, D=64), DecodeRequest(sinks=3, window=20, top=5))


@pytest.mark.full
@pytest.mark.parametrize("D", [16, 80, 128, 256])
@pytest.mark.parametrize(("T", "ratio", "S"), [(1, 1, 300), (1, 7, 129), (1, 8, 20_000), (25, 3, 70)])
def test_numbers_of_queries_heads_and_keys(T: int, ratio: int, S: int, D: int) -> None:
    """Up to 79 tiles of keys a split, and rows that fill several blocks."""
    decoded(decoding("causal", T=T, ratio=ratio, S=S, D=D, dtype=torch.bfloat16), DecodeRequest(top=9))


@pytest.mark.full
@pytest.mark.parametrize("top", [0, 1, 64, 200])
def test_numbers_of_strongest_keys(top: int) -> None:
    decoded(decoding("causal", S=2000, D=64, dtype=torch.bfloat16), DecodeRequest(top=top))


@pytest.mark.full
def test_one_query_of_one_head() -> None:
    """Every count is 1, which a launch may take for a constant."""
    made = decoding("causal", T=1, ratio=1, S=400, D=64, dtype=torch.bfloat16)
    decoded(replace(made, q=made.q[:1, :1], k=made.k[:1, :1], v=made.v[:1, :1]), DecodeRequest(top=9))


@pytest.mark.full
def test_ties_go_to_the_lowest_key() -> None:
    found = moved(decode_statistics(moved(tied()), DecodeRequest(top=70), backend="triton"), "cpu")
    one, two = tied_keys(70)
    assert found.top_key[0, 0, -1].tolist() == one
    assert found.top_key[0, 1, -1].tolist() == two
    assert found.argmax[0, :2, -1].tolist() == [one[0], two[0]]


@pytest.mark.full
def test_equal_bits_every_time() -> None:
    made = moved(decoding("everything", S=300, D=64, dtype=torch.bfloat16))
    one, two = (decode_statistics(made, DecodeRequest(top=9), backend="triton") for _ in range(2))
    for name, value in vars(one).items():
        other = getattr(two, name)
        assert torch.equal(value.nan_to_num(-7), other.nan_to_num(-7)), name


@pytest.mark.full
def test_nothing_records_gradients() -> None:
    made = decoding("learned sinks", D=64)
    assert made.score.sinks is not None
    learned = replace(made, score=replace(made.score, sinks=made.score.sinks.clone().requires_grad_()))
    found = decode_statistics(moved(learned), DecodeRequest(), backend="triton")
    assert not any(value.requires_grad for value in vars(found).values())
