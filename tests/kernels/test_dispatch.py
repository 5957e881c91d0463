"""One entrance: backends by name, checked calls, the same answer from both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from probe.kernels import dispatch, numba_backend, reference
from probe.kernels.dispatch import attention_statistics, automatic, chosen
from probe.kernels.inputs import Attention, Request
from probe.kernels.testing import assert_output_close, assert_statistics_close, bound_of
from probe.kernels.validate import KernelError


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "numba_version", lambda: None)
    monkeypatch.setattr(numba_backend, "numba_version", lambda: None)


@pytest.mark.usefixtures("without_numba")
def test_auto_is_the_blockwise_sweep(call: Callable[..., Attention], request_for: Callable[..., Request]) -> None:
    made = call(20)
    assert chosen(made) == "blockwise"
    found, named = (attention_statistics(made, request_for(made), backend=name) for name in ("auto", "blockwise"))
    assert torch.equal(found[0], named[0])
    assert torch.equal(found[1].entropy, named[1].entropy)


def test_the_default_request_is_meant_when_none_is_given(call: Callable[..., Attention]) -> None:
    made = call(70)
    given, default = attention_statistics(made, Request())[1], attention_statistics(made)[1]
    assert default.thumbnail is not None
    assert given.thumbnail is not None
    assert torch.equal(default.thumbnail, given.thumbnail)
    assert default.thumbnail.shape[-1] == 64
    assert torch.equal(default.local, given.local)


def test_both_backends_agree(call: Callable[..., Attention], request_for: Callable[..., Request]) -> None:
    made = call(50, rule="everything")
    request, bound = request_for(made), bound_of(made)
    z_wanted, wanted = reference.statistics(made, request)
    z, found = attention_statistics(made, request)
    assert_statistics_close(found, wanted, bound)
    assert_output_close(z, z_wanted, made, bound)
    assert torch.equal(attention_statistics(made, request, backend="reference")[0], z_wanted)


def test_a_backend_that_does_not_exist_is_refused(call: Callable[..., Attention]) -> None:
    there = "auto, blockwise, numba, triton, reference"
    with pytest.raises(KernelError, match=f"backend 'cuda' does not exist; wanted one of {there}"):
        attention_statistics(call(4), backend="cuda")


def test_auto_follows_the_call_and_a_name_is_kept(
    call: Callable[..., Attention], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, elsewhere = call(4), replace(call(4), q=torch.empty(2, 4, 4, 16, device="meta"))
    monkeypatch.setattr(dispatch, "numba_version", lambda: "1.0")
    assert chosen(made) == "numba"
    assert chosen(made, "blockwise") == "blockwise"
    assert chosen(elsewhere) == "blockwise"
    assert chosen(elsewhere, "triton") == "triton"
    assert chosen(call(4, dtype=torch.float64)) == chosen(call(4, rule="sigmoid")) == "blockwise"
    assert automatic() == "numba 1.0"
    monkeypatch.setattr(dispatch, "numba_version", lambda: None)
    assert chosen(made) == automatic() == "blockwise"


def test_the_environment_names_what_auto_means(call: Callable[..., Attention], monkeypatch: pytest.MonkeyPatch) -> None:
    made = call(20)
    monkeypatch.setenv("HEADPROBE_BACKEND", "reference")
    assert chosen(made) == automatic() == "reference"
    assert chosen(made, "blockwise") == "blockwise"
    assert torch.equal(attention_statistics(made)[0], reference.statistics(made, Request())[0])
    monkeypatch.setenv("HEADPROBE_BACKEND", "torch")
    with pytest.raises(KernelError, match="backend 'torch' does not exist"):
        attention_statistics(made)
    monkeypatch.setenv("HEADPROBE_BACKEND", "")
    assert chosen(made) != ""
