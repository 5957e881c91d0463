"""The GPU benchmark on a tiny plan, through Triton's interpreter: every path runs, and every statistic is checked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from probe.kernels.dispatch import attention_statistics
from probe.kernels.inputs import Attention, Request
from probe.kernels.triton_jit import interpreted
from tests.benchmarks import gpu
from tests.benchmarks.gpu import Plan, checks, measure, write
from tests.benchmarks.measuring import Clock

TINY = Plan(
    heads=2,
    kv_heads=1,
    width=16,
    dtype=torch.float16,
    lengths=(32,),
    eager_lengths=(32,),
    memory_lengths=(16, 32),
    checked=((40, 1),),
    decode_keys=(70,),
    bands=4,
    rates=(("size", 64), ("copied", 1024), ("programs", 1)),
)
CPU = torch.device("cpu")


class OneRun(Clock):
    """A clock that runs everything once."""

    def time(self, work: Any) -> Any:
        return gpu.Timing(self._once(work), 0.0, 0.0, 1)


@pytest.fixture
def interpreter() -> Iterator[None]:
    with interpreted():
        yield


@pytest.mark.usefixtures("interpreter")
def test_the_whole_of_it_runs_and_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "flex", lambda call: 1 / 0 if call is None else lambda: None)  # compiling it takes minutes
    document = measure(TINY, CPU, OneRun(CPU))
    path = write(document, tmp_path)
    assert json.loads(path.with_suffix(".json").read_text()) == json.loads(json.dumps(document))
    assert all(row["worst"] <= 1 for row in document["checks"]), document["checks"]
    assert {"z", "argmax", "thumbnail", "dropped", "streaming", "decoding: top_key"} <= {
        row["what"] for row in document["checks"]
    }
    timed = {row["what"] for row in document["times"] if "seconds" in row}
    assert {"pass 1: output, lse, cheap statistics", "both passes, class outputs consumed", "pass 2: received"} <= timed
    text = path.read_text()
    assert "no GPU" in text
    assert "| 32 | pass 1: output, lse, cheap statistics |" in text


def test_the_checks_see_a_wrong_statistic(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(call: Attention, request: Request, backend: str) -> Any:
        assert backend == "triton"
        z, found = attention_statistics(call, request, backend="blockwise")
        return z, replace(found, entropy=found.entropy * 1.001)

    monkeypatch.setattr(gpu, "attention_statistics", wrong)
    plan = replace(TINY, checked=((40, 2),), decode_keys=())
    worst = {row["what"]: row["worst"] for row in checks(plan, CPU)}
    assert worst.pop("entropy") > 1
    assert max(worst.values()) <= 1


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.gpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no CUDA device here: nothing was measured" in done.stderr
