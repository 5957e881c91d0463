"""The compiled stage as a backend: what it refuses, what it says where numba is missing, and when numba is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from probe.kernels import numba_backend
from probe.kernels.dispatch import attention_statistics
from probe.kernels.inputs import Attention, Request
from probe.kernels.numba_backend import refusal
from probe.kernels.validate import KernelError

Call = Callable[..., Attention]


def test_calls_that_are_refused_say_why(call: Call) -> None:
    assert refusal(call(4)) is None
    for made, reason in (
        (call(4, dtype=torch.float64), "it computes in float32, and q is float64"),
        (call(4, rule="sigmoid"), "sigmoid gates are not among its rules"),
    ):
        assert refusal(made) == reason
        with pytest.raises(KernelError, match=f"backend 'numba' cannot compute this call: {reason}; take 'blockwise'"):
            attention_statistics(made, backend="numba")
    elsewhere = replace(call(4), q=torch.empty(1, device="meta"))
    assert refusal(elsewhere) == "it computes on a CPU, and q is on meta"


def test_every_rule_but_gates_is_served(call: Call, rules: list[str]) -> None:
    assert [rule for rule in rules if refusal(call(4, rule=rule)) is not None] == ["sigmoid"]
    assert all(refusal(call(4, dtype=dtype)) is None for dtype in (torch.bfloat16, torch.float16))


def test_asked_for_by_name_without_numba_is_one_clear_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_backend, "numba_version", lambda: None)
    with pytest.raises(KernelError) as caught:
        attention_statistics(call(4), backend="numba")
    assert str(caught.value) == "backend 'numba' needs numba: pip install 'headprobe[fast]', or take 'blockwise'"


def test_a_numba_that_cannot_be_imported_is_one_clear_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numba_stage", "numba_strip", "numba_compile"):
        monkeypatch.delitem(sys.modules, f"probe.kernels.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(numba_backend, "numba_version", lambda: "1.0")
    with pytest.raises(KernelError, match=r"numba cannot be imported \(.*\); mend it, or take backend 'blockwise'"):
        attention_statistics(call(4), Request(), backend="numba")


def test_numba_is_not_imported_with_the_toolkit() -> None:
    code = "import sys, probe, probe.scan, probe.kernels.dispatch; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
