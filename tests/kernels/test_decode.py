"""Decoding: the torch path against the definition, the definition against plain Python, and the one entrance."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch

from probe.kernels import decode_blocks as blocks
from probe.kernels.decode import chosen, decode_statistics
from probe.kernels.decode_testing import assert_decoded_close
from probe.kernels.decoded import Decoded, DecodeRequest
from probe.kernels.inputs import Mask, Score
from probe.kernels.testing import MismatchError
from probe.kernels.validate import KernelError
from tests.kernels.decoding import RULES, decoding, tied, tied_keys

REQUEST = DecodeRequest(sinks=3, window=20, top=5)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one partial, from 300 keys."""
    monkeypatch.setattr(blocks, "BLOCK", 64)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_blocks_agree_with_the_definition(rule: str, dtype: torch.dtype) -> None:
    call = decoding(rule, dtype=dtype)
    assert_decoded_close(decode_statistics(call, REQUEST, backend="blockwise"), call, REQUEST)


def test_rules_that_only_functions_can_say() -> None:
    call = decoding()
    rule = lambda i, j: ((i % 2 == 0)[:, None] & (j % 5 != 0))[None, None]  # noqa: E731 -- every other query is blind
    bias = lambda i, j: 0.1 * (i[:, None] - j[None])[None, None]  # noqa: E731
    for mask, score in (
        (replace(call.mask, allowed=rule), call.score),
        (call.mask, replace(call.score, bias=bias)),
    ):
        made = replace(call, mask=mask, score=score)
        assert_decoded_close(decode_statistics(made, REQUEST, backend="blockwise"), made, REQUEST)


def test_the_definition_is_what_one_would_write_down() -> None:
    call = decoding("learned sinks", T=1, seed=4, dtype=torch.float64)
    found = decode_statistics(call, DecodeRequest(sinks=2, window=5, top=3), backend="reference")
    b, h = 1, 3
    s = [float(call.q[b, h, 0] @ call.k[b, 1, j]) * call.score.scale for j in range(300)]
    assert call.score.sinks is not None
    total = sum(math.exp(x) for x in s) + math.exp(float(call.score.sinks[h]))
    P = [math.exp(x) / total for x in s]
    wanted = {
        "lse": math.log(total),
        "entropy": -sum(p * math.log(p) for p in P),
        "max_weight": max(P),
        "argmax": P.index(max(P)),
        "row_mass": sum(P),
        "distance": sum(p * (299 - j) for j, p in enumerate(P)),
        "sink_mass": P[0] + P[1],
        "local_mass": sum(P[295:]),
        "visible": 300,
    }
    for name, value in wanted.items():
        assert float(getattr(found, name)[b, h, 0]) == pytest.approx(value, rel=1e-12), name
    order = sorted(range(300), key=lambda j: -P[j])[:3]
    assert found.top_key[b, h, 0].tolist() == order
    assert found.top_weight[b, h, 0].tolist() == pytest.approx([P[j] for j in order], rel=1e-12)
    z = sum(P[j] * call.v[b, 1, j].double() for j in range(300))
    assert torch.allclose(found.z[b, h, 0], torch.as_tensor(z), rtol=1e-12)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("backend", ["blockwise", "reference"])
def test_ties_go_to_the_lowest_key(backend: str) -> None:
    found = decode_statistics(tied(), DecodeRequest(top=64), backend=backend)
    falling, rising = tied_keys(64)
    assert found.top_key[1, 0, 2].tolist() == found.top_key[0, 2, 2].tolist() == falling
    assert found.top_key[1, 1, 2].tolist() == found.top_key[0, 3, 2].tolist() == rising
    assert found.argmax[0, :, 2].tolist() == [falling[0], rising[0]] * 2


def test_more_keys_than_are_visible() -> None:
    call = decoding("window 1", T=1)
    found = decode_statistics(call, DecodeRequest(top=3), backend="blockwise")
    assert found.top_key.unique().tolist() == [-1, 299]
    assert found.top_weight[0, 0, 0].tolist() == [1.0, 0.0, 0.0]
    short = decoding(T=1, S=2)
    assert decode_statistics(short, DecodeRequest(top=4), backend="blockwise").top_key[0, 0, 0, 2:].tolist() == [-1, -1]


def test_a_query_that_sees_nothing() -> None:
    call = decoding("an empty sequence")
    found = decode_statistics(call, REQUEST, backend="blockwise")
    assert not found.z[1].any()
    assert not found.visible[1].any()
    assert found.lse[1].isnan().all()
    assert found.argmax[1].unique().tolist() == found.top_key[1].unique().tolist() == [-1]
    assert not found.top_weight[1].any()  # not NaN either


@pytest.mark.parametrize("backend", ["blockwise", "reference"])
def test_not_a_number_in_a_query_stays_in_its_row(backend: str) -> None:
    call = decoding()
    clean = decode_statistics(call, REQUEST, backend=backend)
    call.q[0, 1, 2, 3] = torch.nan
    found = decode_statistics(call, REQUEST, backend=backend)
    for entry in fields(Decoded):
        value, before = getattr(found, entry.name), getattr(clean, entry.name)
        broken = value[0, 1, 2].flatten()
        if entry.name in ("argmax", "top_key"):
            assert broken.unique().tolist() == [-1], entry.name
        elif entry.name != "visible":
            assert broken.isnan().all(), entry.name
        value[0, 1, 2] = before[0, 1, 2]
        assert torch.equal(value, before), entry.name


def test_several_queries_are_the_same_as_each_alone() -> None:
    call = decoding("window")
    together = decode_statistics(call, REQUEST, backend="blockwise")
    for t in range(3):
        alone = replace(call, q=call.q[:, :, t : t + 1], mask=replace(call.mask, query_offset=297 + t))
        assert_decoded_close(decode_statistics(alone, REQUEST, backend="blockwise"), alone, REQUEST)
        assert torch.equal(together.top_key[:, :, t], decode_statistics(alone, REQUEST).top_key[:, :, 0])


def test_auto_is_the_torch_path_on_a_cpu_and_asking_for_triton_there_is_an_error() -> None:
    call = decoding()
    assert chosen(call) == "blockwise"
    auto, named = decode_statistics(call), decode_statistics(call, backend="blockwise")
    assert torch.equal(auto.z, named.z)
    with pytest.raises(
        KernelError, match="'triton' cannot compute this call: the triton backend runs on CUDA but q is on cpu; take"
    ):
        decode_statistics(call, backend="triton")


@pytest.mark.parametrize(
    ("request_", "backend", "message"),
    [
        (DecodeRequest(), "tritn", "backend 'tritn' does not exist; wanted one of auto, triton, blockwise, reference"),
        (DecodeRequest(top=-1), "auto", "top is -1; wanted a number of keys, 0 or more"),
        (DecodeRequest(window=0), "auto", "sinks 4, window 0"),
    ],
)
def test_wrong_requests_are_refused(request_: DecodeRequest, backend: str, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        decode_statistics(decoding(), request_, backend=backend)


def test_wrong_calls_are_refused() -> None:
    call = decoding()
    with pytest.raises(KernelError, match="sigmoid attention has no log-sum-exp to merge"):
        decode_statistics(replace(call, score=Score(1.0, sigmoid=True)))
    with pytest.raises(KernelError, match="past the last of 300 keys"):
        decode_statistics(replace(call, mask=Mask(query_offset=298)))


def test_the_checker_sees_what_is_wrong() -> None:
    call = decoding("learned sinks")
    right = decode_statistics(call, REQUEST, backend="blockwise")
    assert_decoded_close(right, call, REQUEST)
    second = right.top_key[..., [1, 0, 2, 3, 4]]
    wrong = {
        "z": right.z * 1.001,
        "lse": right.lse + 1e-3,
        "entropy": right.entropy.masked_fill(torch.arange(3) == 1, torch.nan),
        "argmax": second[..., 0],
        "row_mass": right.row_mass.double(),
        "visible": right.visible - 1,
        "top_weight": right.top_weight[..., :4],
        "top_key": right.top_key[..., [0, 0, 2, 3, 4]],
        "distance": right.distance + 0.1,
        "sink_mass": right.sink_mass * 1.01,
    }
    for name, value in wrong.items():
        with pytest.raises(MismatchError, match=name):
            assert_decoded_close(replace(right, **{name: value}), call, REQUEST)
    with pytest.raises(MismatchError, match="top_key"):
        assert_decoded_close(replace(right, top_key=second), call, REQUEST)
    with pytest.raises(MismatchError, match="past the last"):
        assert_decoded_close(replace(right, argmax=right.argmax * 0 + 300), call, REQUEST)


def test_gradients_are_not_recorded() -> None:
    call = decoding()
    assert not decode_statistics(replace(call, q=call.q.requires_grad_()), REQUEST).z.requires_grad


def test_shapes_are_checked() -> None:
    call = decoding()
    with pytest.raises(KernelError, match="do not fit"):
        decode_statistics(replace(call, q=call.q[..., :8]))
