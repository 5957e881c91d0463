"""The GPU benchmark on a tiny plan, through Triton's interpreter: every piece runs, and what it leaves is whole."""

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

from probe.kernels.triton_jit import interpreted
from tests.benchmarks import gpu, gpu_times
from tests.benchmarks.gpu import about, described, path_for, pieces, records_of, run, write
from tests.benchmarks.gpu_pieces import Ended, Piece
from tests.benchmarks.gpu_plan import Plan
from tests.benchmarks.gpu_report import complaints, joined, status
from tests.benchmarks.measuring import Clock, Timing

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
    test_shares=2,
)
CPU = torch.device("cpu")


class OneRun(Clock):
    """A clock that runs everything once."""

    def time(self, work: Any) -> Timing:
        return Timing(self._once(work), 0.0, 0.0, 1)


@pytest.fixture
def interpreter() -> Iterator[None]:
    with interpreted():
        yield


@pytest.mark.usefixtures("interpreter")
def test_every_piece_runs_and_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_times, "flex", lambda call, statistics: lambda: None)  # compiling it takes minutes
    clock, ended = OneRun(CPU), {}
    for piece in pieces(TINY):
        if piece.part != "tests":  # they need a GPU
            records = list(records_of(piece.name, TINY, CPU, clock))
            assert records, piece.name
            ended[piece.name] = Ended("0", 1.0, records)
    document = joined(None, about(CPU), described(TINY), ended)
    path = write(document, tmp_path)
    assert json.loads(path_for(document["device"], tmp_path).read_text()) == json.loads(json.dumps(document))
    assert [file.name for file in tmp_path.glob("*.part")] == []
    text = path.read_text()
    for wanted in ("| entropy |", "| argmax |", "| dropped |", "| streaming |", "| decoding: top_key |",
                   "| equal bits on a second run | 0.00 |", "| 32 | pass 2: received |", "no GPU",
                   "| 32 | both passes, class outputs consumed |", "| lse and received | 16 |",
                   "| 70 | decoding one token, 64 strongest keys |", "| 32 | FlexAttention, output and lse |",
                   "| 32 | eager T × T in float32, the statistics from it |"):  # fmt: skip
        assert wanted in text, wanted
    assert complaints(document) == []
    assert status(document) == 0


def test_pieces_that_time_something_come_last_and_alone() -> None:
    order = pieces(Plan())
    assert len({piece.name for piece in order}) == len(order)
    kinds = [piece.alone for piece in order]
    assert kinds == sorted(kinds)
    alone = {piece.part for piece in order if piece.alone}
    assert alone == {"rates", "times", "memory", "decoding", "eager", "flex"}


def test_a_run_keeps_what_a_broken_piece_found_and_what_an_older_run_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = {"kind": "check", "what": "z", "worst": 0.5, "where": "8 tokens"}

    def command(name: str, records: Path) -> list[str]:
        code = f"open({str(records)!r}, 'w').write({json.dumps(check)!r} + '\\n' + '{{\"kind\"')"
        end = "; print('no such address'); import os; os._exit(7)" if name == "checks 40" else ""
        return [sys.executable, "-c", code.replace("{{", "{") + end]

    device = about(CPU)
    first = run([Piece("checks 40", alone=False)], TINY, device, tmp_path, minutes=1, jobs=2, command=command)
    assert first["pieces"]["checks 40"] | {"seconds": 0} == {
        "status": "7", "seconds": 0, "records": [check], "said": "no such address",
    }  # fmt: skip
    assert status(first) == 3
    told = capsys.readouterr().out
    assert "0 pieces to go] checks 40: FAILED (7) after" in told
    assert "    no such address" in told
    second = run([Piece("rates")], TINY, device, tmp_path, minutes=1, jobs=2, command=command)
    assert list(second["pieces"]) == ["checks 40", "rates"]
    other = run([Piece("rates")], replace(TINY, heads=4), device, tmp_path, minutes=1, jobs=2, command=command)
    assert list(other["pieces"]) == ["rates"]
    assert json.loads(path_for(device, tmp_path).read_text()) == other


def test_a_child_is_told_its_piece_and_its_file(tmp_path: Path) -> None:
    assert gpu.child("checks 8192", tmp_path)[1:] == [
        "-m", "tests.benchmarks.gpu", "--piece", "checks 8192", "--records", str(tmp_path),
    ]  # fmt: skip


@pytest.mark.usefixtures("interpreter")
def test_one_piece_in_this_process_leaves_its_records(tmp_path: Path) -> None:
    assert gpu.run_piece("memory", tmp_path / "records", TINY, CPU) == 0
    lines = (tmp_path / "records").read_text().splitlines()
    assert [json.loads(line)["tokens"] for line in lines] == [16, 32, 16, 32]


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--only", "checks,speed"])
    assert "no part speed; wanted some of tests, compile, checks, rates" in capsys.readouterr().err


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.gpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no CUDA device here: nothing was measured" in done.stderr
