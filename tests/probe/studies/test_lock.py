"""One writer a folder: the living are respected, the dead are not."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from probe.errors import ResultsError
from probe.studies import lock
from probe.studies.lock import LOCK_FILE, locked

HOLD = """
import sys, time
from pathlib import Path
from probe.studies.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def held(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_living_process_keeps_its_folder_and_a_dead_one_does_not(tmp_path):
    other = held(tmp_path)
    try:
        who = f"written by process {other.pid} on {socket.gethostname()}"
        with pytest.raises(ResultsError, match=who), locked(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).exists()
    finally:
        other.send_signal(signal.SIGKILL)
        assert other.wait() == -signal.SIGKILL
        assert other.stdout is not None
        other.stdout.close()
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_the_same_process_is_no_exception(tmp_path):
    with locked(tmp_path), pytest.raises(ResultsError, match="is being written by process"), locked(tmp_path):
        pass


def test_another_machine_is_believed(tmp_path):
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(ResultsError, match=r"written on elsewhere.*remove .*lock"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', '{"pid": 3}'])
def test_half_written_locks_of_nobody_are_taken(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["host"] == socket.gethostname()


def test_errors_inside_pass_through_and_unlock(tmp_path):
    with pytest.raises(OSError, match="mine"), locked(tmp_path):
        raise OSError("mine")
    with locked(tmp_path):
        pass


def test_a_lock_removed_under_our_feet_is_asked_for_again(tmp_path, monkeypatch):
    """The holder removes the file on leaving; one who had opened it before would lock a file without a name."""
    real, calls = lock.fcntl.flock, []

    def flock(descriptor, how):
        if not calls:
            (tmp_path / LOCK_FILE).unlink()
        calls.append(how)
        real(descriptor, how)

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
    assert len(calls) == 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ResultsError, match=r"absent/lock: cannot be written"), locked(tmp_path / "absent"):
        pass
