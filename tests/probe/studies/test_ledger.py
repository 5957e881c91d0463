"""What is in the ledger stays, to the bit, whatever happens next to it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from probe.analyses.pieces import Piece
from probe.errors import ResultsError
from probe.studies import ledger as module
from probe.studies.ledger import LEDGER_FILE, Ledger


def piece(number: int) -> Piece:
    return Piece("ioi", "mean", "ablated", (f"L{number}H0",), (0, 3), {"phase": "both"})


def filled(folder, count=3):
    with Ledger(folder) as ledger:
        for number in range(count):
            ledger.put(piece(number), np.array([number, 0.1, -1e-300]))
    return (folder / LEDGER_FILE).read_bytes()


def test_what_is_put_is_there_after_opening_again(tmp_path):
    filled(tmp_path)
    with Ledger(tmp_path) as ledger:
        assert len(ledger) == 3
        assert list(ledger) == [piece(0), piece(1), piece(2)]
        assert piece(2) in ledger
        assert piece(3) not in ledger
        assert ledger.get(piece(3)) is None
        assert ledger.get(piece(2)).tolist() == [2.0, 0.1, -1e-300]
        assert ledger.notice is None
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER_FILE]


@given(
    st.one_of(
        arrays(np.float64, array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3)),
        arrays(np.float32, array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3)),
        arrays(np.int64, array_shapes(max_dims=2, max_side=3)),
        arrays(np.bool_, array_shapes(max_dims=2, max_side=3)),
    )
)
def test_every_number_comes_back_exactly(values):
    key, found = module._parsed(module._line(module._work(piece(0).key, values)))
    assert key == piece(0).key
    assert found.dtype == values.dtype
    assert found.shape == values.shape
    # NaN is one number here: which of its bit patterns it was is not kept.
    assert np.array_equal(found, values, equal_nan=values.dtype.kind == "f")
    if values.dtype.kind == "f":
        assert np.array_equal(np.signbit(found), np.signbit(values) & ~np.isnan(values))


def test_a_line_is_strict_json_that_others_can_check(tmp_path):
    import hashlib

    with Ledger(tmp_path) as ledger:
        ledger.put(piece(0), np.array([[1.5, np.nan], [-np.inf, 0.1]], dtype=np.float32))
    line = (tmp_path / LEDGER_FILE).read_text()
    assert line.endswith("}\n")

    def refuse(word):
        raise AssertionError(word)

    document = json.loads(line, parse_constant=refuse)
    assert set(document) == {"sha256", "work"}
    assert document["work"]["piece"] == json.loads(piece(0).key)
    assert document["work"]["values"] == [1.5, "nan", "-inf", 0.10000000149011612]
    work = line[line.index('"work":') + 7 : -2]
    assert hashlib.sha256(work.encode()).hexdigest() == document["sha256"]


def test_a_tail_torn_at_any_byte_costs_one_line_and_is_said(tmp_path):
    whole = filled(tmp_path)
    start = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for cut in range(start, len(whole)):
        (tmp_path / LEDGER_FILE).write_bytes(whole[:cut])
        with Ledger(tmp_path) as ledger:
            assert len(ledger) == 2
            if cut == start:
                assert ledger.notice is None
            else:
                assert ledger.notice == "effects.jsonl: the end was torn (line 3); cut, 2 results kept"
            ledger.put(piece(2), np.array([2, 0.1, -1e-300]))
        assert (tmp_path / LEDGER_FILE).read_bytes() == whole


@pytest.mark.parametrize("place", [0, 12, 90, 200, -3])
def test_a_damaged_last_line_is_cut_and_a_damaged_middle_named(tmp_path, place):
    whole = filled(tmp_path)
    lines = whole.splitlines(keepends=True)

    def damaged(line):
        changed = bytearray(line)
        changed[place] ^= 1
        return bytes(changed)

    (tmp_path / LEDGER_FILE).write_bytes(b"".join([*lines[:2], damaged(lines[2])]))
    with Ledger(tmp_path) as ledger:
        assert len(ledger) == 2
        assert ledger.notice is not None
    middle = b"".join([lines[0], damaged(lines[1]), lines[2]])
    (tmp_path / LEDGER_FILE).write_bytes(middle)
    with pytest.raises(ResultsError, match=r"effects\.jsonl, line 2: damaged"), Ledger(tmp_path):
        pass
    assert (tmp_path / LEDGER_FILE).read_bytes() == middle
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER_FILE], "the lock is given back"


def test_sorting_forgets_the_order_of_work(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder, order in (("a", (2, 0, 1)), ("b", (1, 2, 0))):
        with Ledger(tmp_path / folder) as ledger:
            for number in order:
                ledger.put(piece(number), np.array([number]))
            ledger.sort()
            ledger.put(piece(5), np.array([5]))
    assert (tmp_path / "a" / LEDGER_FILE).read_bytes() == (tmp_path / "b" / LEDGER_FILE).read_bytes()
    with Ledger(tmp_path / "a") as ledger:
        assert list(ledger) == [piece(0), piece(1), piece(2), piece(5)]


def test_equal_work_gives_equal_numbers_or_is_refused(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.put(piece(0), np.array([1.0, np.nan]))
        ledger.put(piece(0), np.array([1.0, np.nan]))
        with pytest.raises(ResultsError, match="two results"):
            ledger.put(piece(0), np.array([1.0, 2.0]))
        with pytest.raises(ResultsError, match="complex64"):
            ledger.put(piece(1), np.array([1j], dtype=np.complex64))
    assert (tmp_path / LEDGER_FILE).read_bytes().count(b"\n") == 1


def test_results_are_copies(tmp_path):
    values = np.array([1.0])
    with Ledger(tmp_path) as ledger:
        ledger.put(piece(0), values)
        values[0] = 2.0
        ledger.get(piece(0))[0] = 3.0
        assert ledger.get(piece(0)).tolist() == [1.0]


def test_put_wants_an_open_ledger(tmp_path):
    with pytest.raises(ResultsError, match="is not open"):
        Ledger(tmp_path).put(piece(0), np.array([1.0]))


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    """The stand-in takes a part of the line before it refuses, as a disk does."""
    whole = filled(tmp_path)
    real, taken = os.write, []

    def full(descriptor, data):
        if taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken.append(data)
        return real(descriptor, data[:300])

    with Ledger(tmp_path) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(ResultsError, match=r"No space left on device\); its 3 results are kept"):
                ledger.put(piece(3), np.arange(200.0))
        assert (tmp_path / LEDGER_FILE).read_bytes() == whole
        ledger.put(piece(3), np.arange(200.0))
    with Ledger(tmp_path) as ledger:
        assert len(ledger) == 4
        assert ledger.notice is None


def test_fsync_comes_before_the_result_counts(tmp_path, monkeypatch):
    with Ledger(tmp_path) as ledger, monkeypatch.context() as patch:

        def refuse(descriptor):
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(os, "fsync", refuse)
        with pytest.raises(ResultsError, match="Input/output error"):
            ledger.put(piece(0), np.array([1.0]))
        assert piece(0) not in ledger
    assert (tmp_path / LEDGER_FILE).read_bytes() == b""


LIMITED = """
import resource
import signal, sys
import numpy as np
from probe.analyses.pieces import Piece
from probe.errors import ResultsError
from probe.studies.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
with Ledger(sys.argv[1]) as ledger:
    try:
        for number in range(100):
            ledger.put(Piece("ioi", "mean", "ablated", (f"L{number}H0",), (0, 3), {}), np.arange(3.0))
    except ResultsError as error:
        print(number, error)
"""


def test_a_real_short_write_is_undone(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    number, said = done.stdout.split(" ", 1)
    assert f"its {number} results are kept" in said
    assert int(number) > 3
    with Ledger(tmp_path) as ledger:
        assert len(ledger) == int(number)
        assert ledger.notice is None


KILLED = """
import os, signal, sys
import numpy as np
from probe.analyses.pieces import Piece
from probe.studies.ledger import Ledger
real = os.write
def write(descriptor, data):
    if b"L7H0" in data:
        real(descriptor, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return real(descriptor, data)
os.write = write
with Ledger(sys.argv[1]) as ledger:
    for number in range(20):
        ledger.put(Piece("ioi", "mean", "ablated", (f"L{number}H0",), (0, 3), {"phase": "both"}), np.arange(3.0))
"""


def test_killed_half_way_through_a_line(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with Ledger(tmp_path) as ledger:
        assert list(ledger) == [piece(number) for number in range(7)]
        assert ledger.notice == "effects.jsonl: the end was torn (line 8); cut, 7 results kept"


MANY = """
import sys, time
import numpy as np
from probe.analyses.pieces import Piece
from probe.errors import ResultsError
from probe.studies.ledger import Ledger
for _ in range(400):
    try:
        with Ledger(sys.argv[1]) as ledger:
            for number in range(5):
                piece = Piece("ioi", "mean", "ablated", (f"L{number}H{sys.argv[2]}",), (0, 3), {})
                ledger.put(piece, np.arange(3.0))
            break
    except ResultsError as error:
        if "is being written" not in str(error):
            raise
        time.sleep(0.02)
"""


def test_four_writers_take_turns(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", MANY, str(tmp_path), str(name)]) for name in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 4
    with Ledger(tmp_path) as ledger:
        assert len(ledger) == 20
