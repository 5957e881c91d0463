"""Processes that end well, end badly, say too much or take too long: what they recorded is there."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.benchmarks.gpu_pieces import Ended, Piece, Record, read_records, run_pieces, write_records

CODES = {
    "good": "record({'n': 1}); record({'n': 2})",
    "bad": "record({'n': 3}); print('why'); sys.exit(4)",
    "crash": "record({'n': 4}); os.kill(os.getpid(), 6)",
    "slow": "record({'n': 5}); time.sleep(60)",
    "parent": "import subprocess; subprocess.Popen(['sleep', '61']).wait()",
}
HEAD = """
import json, os, sys, time
file = open(sys.argv[1], 'w')
def record(x): print(json.dumps(x), file=file, flush=True)
"""


def command(name: str, records: Path) -> list[str]:
    return [sys.executable, "-c", HEAD + CODES[name.split(" ")[0]], str(records)]


def ended(
    pieces: Iterable[Piece], folder: Path, *, seconds: float = 60.0, longest: float = 60.0, jobs: int = 2
) -> dict[str, Ended]:
    limits = {"deadline": time.monotonic() + seconds, "longest": longest}
    return {piece.name: end for piece, end in run_pieces(pieces, command, folder, **limits, jobs=jobs)}


def test_every_end_is_told_with_its_records(tmp_path: Path) -> None:
    found = ended([Piece("crash now"), Piece("good", alone=False), Piece("bad", alone=False)], tmp_path)
    assert {name: end.status for name, end in found.items()} == {"good": "0", "bad": "4", "crash now": "signal 6"}
    assert {name: end.records for name, end in found.items()} == {
        "good": [{"n": 1}, {"n": 2}], "bad": [{"n": 3}], "crash now": [{"n": 4}],
    }  # fmt: skip
    assert found["bad"].said == "why"
    assert found["good"].whole
    assert not found["bad"].whole


def test_out_of_time(tmp_path: Path) -> None:
    begun = time.monotonic()
    found = ended([Piece("slow"), Piece("good")], tmp_path, seconds=4.0)
    assert time.monotonic() - begun < 30
    assert found["slow"].status == "out of time"
    assert found["slow"].records == [{"n": 5}]
    assert found["good"] == Ended("not started: out of time", 0.0)


def test_a_piece_that_hangs_leaves_time_for_the_others(tmp_path: Path) -> None:
    found = ended([Piece("slow"), Piece("good")], tmp_path, longest=4.0)
    assert {name: end.status for name, end in found.items()} == {"slow": "out of time", "good": "0"}


def test_what_a_stopped_piece_started_is_stopped_too(tmp_path: Path) -> None:
    ended([Piece("parent")], tmp_path, seconds=4.0)
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists()]
    assert not any(line == b"sleep\x0061\x00" for line in lines)


def test_pieces_that_time_run_alone_and_the_others_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each writes when it was there; those that may run beside others overlap, the others do not."""
    body = "record(time.time()); time.sleep(1.5); record(time.time())"
    monkeypatch.setitem(CODES, "span", body)
    pieces = [Piece("span 1"), Piece("span 2"), *(Piece(f"span {n}", alone=False) for n in (3, 4))]
    spans = {name: [float(str(time)) for time in end.records] for name, end in ended(pieces, tmp_path).items()}
    assert spans["span 3"][0] < spans["span 4"][1]
    assert spans["span 4"][0] < spans["span 3"][1]
    assert spans["span 1"][0] > max(spans["span 3"][1], spans["span 4"][1])
    assert spans["span 2"][0] > spans["span 1"][1]


def test_records_on_disk_before_the_next_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "records"

    def some() -> Iterable[Record]:
        yield {"n": 1}
        assert read_records(path) == [{"n": 1}]
        raise RuntimeError("and then it broke")

    with pytest.raises(RuntimeError, match="broke"):
        write_records(some(), path)
    with path.open("a") as file:
        file.write(json.dumps({"n": 2})[:-3])
    assert read_records(path) == [{"n": 1}]
    assert read_records(tmp_path / "none") == []
    assert Piece("checks 8192").part == "checks"
