"""One entrance: backends by name, checked calls, the same answer from both."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from probe.kernels import reference
from probe.kernels.dispatch import BACKENDS, attention_statistics, chosen
from probe.kernels.inputs import Attention, Request
from probe.kernels.testing import assert_output_close, assert_statistics_close, bound_of
from probe.kernels.validate import KernelError


def test_auto_is_the_blockwise_sweep(call: Callable[..., Attention], request_for: Callable[..., Request]) -> None:
    made = call(20)
    chosen, named = (attention_statistics(made, request_for(made), backend=name) for name in ("auto", "blockwise"))
    assert torch.equal(chosen[0], named[0])
    assert torch.equal(chosen[1].entropy, named[1].entropy)


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
    there = "auto, blockwise, triton, reference"
    with pytest.raises(KernelError, match=f"backend 'cuda' does not exist; wanted one of {there}"):
        attention_statistics(call(4), backend="cuda")
    assert set(BACKENDS) >= {"blockwise", "reference"}


def test_auto_follows_the_device_and_a_name_is_kept() -> None:
    assert chosen(torch.device("cuda")) == "triton"
    assert chosen(torch.device("cpu")) == chosen(torch.device("mps")) == "blockwise"
    assert chosen(torch.device("cuda"), "blockwise") == "blockwise"
