"""What the passes are timed against computes the same things, and a peer that cannot run is a line, not a crash."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend

from probe.kernels import reference
from probe.kernels.inputs import Attention, Mask, Request, Score
from tests.benchmarks import gpu_peers
from tests.benchmarks.gpu_peers import causal_blocks, eager, sdpa, sdpa_one, statistics_from_lse, tried

NAMES = ("entropy", "max_weight", "distance", "first", "local", "sink_mass", "local_mass")


@pytest.fixture
def call() -> Attention:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 90, 16, generator=generator, dtype=torch.float64) for heads in (4, 2, 2))
    return Attention(q, k, v, Mask(), Score(0.25))


def test_statistics_from_an_lse_are_the_definition(call: Attention, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_peers, "ROWS", 32)
    _, truth = reference.statistics(call, Request())
    for name, found in zip(NAMES, statistics_from_lse(call, truth.lse), strict=True):
        # The weights are float32: distances up to 90 of relative error 90 additions · eps.
        assert torch.allclose(found.double(), getattr(truth, name), rtol=1e-4, atol=1e-5), name


def test_eager_is_the_definition(call: Attention) -> None:
    z, truth = reference.statistics(call, Request())
    found = eager(call)()
    assert torch.allclose(found[0], z, atol=1e-5)
    for name, value in zip(NAMES, found[1:], strict=True):
        assert torch.allclose(value.double(), getattr(truth, name), rtol=1e-4, atol=1e-5), name


def test_sdpa_is_the_output(call: Attention) -> None:
    assert torch.allclose(sdpa(call, SDPBackend.MATH)(), reference.output(call))


def test_the_block_mask_is_the_causal_one() -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    for T in (64, 200):
        mine = causal_blocks(T, torch.device("cpu"), size=32)
        theirs = create_block_mask(lambda b, h, i, j: i >= j, None, None, T, T, device="cpu", BLOCK_SIZE=32)
        assert torch.equal(mine.to_dense(), theirs.to_dense())
        rows = torch.arange(-(-T // 32))
        assert torch.equal(mine.full_kv_num_blocks[0, 0], rows)
        assert torch.equal(theirs.full_kv_num_blocks[0, 0, : T // 32], rows[: T // 32])
        assert torch.equal(mine.kv_indices[0, 0, :, 0], rows)


def test_one_query_by_sdpa_is_the_output(call: Attention) -> None:
    late = replace(call, q=call.q[:, :, -1:], mask=Mask(query_offset=89))
    assert torch.allclose(sdpa_one(late)(), reference.output(late))


def test_a_peer_that_cannot_run_is_told_in_one_line(call: Attention) -> None:
    assert tried(lambda: 3) == (3, None)
    found, why_not = tried(sdpa(call, SDPBackend.CUDNN_ATTENTION))
    assert found is None
    assert why_not is not None
    assert why_not.startswith("does not run: ")
    assert "\n" not in why_not
    assert tried(lambda: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("x")))[1] == "out of memory"
    with pytest.raises(ZeroDivisionError):
        tried(lambda: 1 / 0)
