"""The checks find a wrong statistic, a second run that differs, and wrong decoding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from probe.kernels.decode import decode_statistics
from probe.kernels.decoded import Decoded, DecodeRequest
from probe.kernels.dispatch import attention_statistics
from probe.kernels.inputs import Attention, Request
from tests.benchmarks import gpu_checks
from tests.benchmarks.gpu_checks import checks, decode_checks
from tests.benchmarks.gpu_plan import Plan

PLAN = Plan(heads=2, kv_heads=1, width=16, dtype=torch.float32, checked=((40, 2),), decode_keys=(70, 90), bands=4)
CPU = torch.device("cpu")


def worst_of(monkeypatch: pytest.MonkeyPatch, change: Any) -> dict[str, float]:
    """The checks of a right backend whose statistics go through `change`."""
    runs: list[int] = []

    def stand_in(call: Attention, request: Request, backend: str) -> Any:
        assert backend == "triton"
        runs.append(1)
        z, found = attention_statistics(call, request, backend="blockwise")
        return z, change(found, len(runs))

    monkeypatch.setattr(gpu_checks, "attention_statistics", stand_in)
    worst: dict[str, float] = {}
    for record in checks(PLAN, 40, CPU):
        worst[record["what"]] = max(worst.get(record["what"], 0.0), record["worst"])
    return worst


def test_a_right_backend_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    worst = worst_of(monkeypatch, lambda found, run: found)
    assert max(worst.values()) <= 1
    assert {"z", "sink_part", "dropped", "streaming", "argmax", "thumbnail", "equal bits on a second run"} <= set(worst)


def test_a_wrong_statistic_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    worst = worst_of(monkeypatch, lambda found, run: replace(found, entropy=found.entropy * 1.001))
    assert worst.pop("entropy") > 1
    assert max(worst.values()) <= 1


def test_a_second_run_that_differs_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    worst = worst_of(monkeypatch, lambda found, run: replace(found, received=found.received * (1 + 1e-12 * (run == 3))))
    assert worst.pop("equal bits on a second run") > 1
    assert max(worst.values()) <= 1


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Factors on the entropy of the decoding backend."""
    factors: list[float] = [1.0]

    def stand_in(call: Attention, request: DecodeRequest, backend: str) -> Decoded:
        made = decode_statistics(call, request, backend="blockwise")
        return replace(made, entropy=made.entropy * factors[0])

    monkeypatch.setattr(gpu_checks, "decode_statistics", stand_in)
    return factors


def test_decoding_is_checked_at_every_number_of_keys(found: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    records = list(decode_checks(PLAN, CPU))
    assert {record["where"] for record in records} == {"70 keys", "90 keys"}
    assert all(record["worst"] <= 1 for record in records)
    assert "decoding: entropy" in {record["what"] for record in records}
    found[0] = 1.001
    assert [record["worst"] for record in decode_checks(PLAN, CPU)] == [float("inf")] * 2
    assert "entropy is off by" in capsys.readouterr().err
