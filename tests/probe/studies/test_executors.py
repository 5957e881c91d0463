"""The same results from wherever the work is done, and nothing left running."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from probe.analyses.pieces import Piece
from probe.errors import ResultsError, StudyError
from probe.studies import executors
from probe.studies.executors import in_process, on_ray, processes

PIECES = [Piece("t", "zero", "ablated", (f"L{number}H0",), (0, 4), {}) for number in range(9)]


def made(slip=None):
    """A worker whose result depends on the piece alone, and that can be made to fail."""
    if slip == "setup":
        raise StudyError("the setup failed")

    def compute(piece):
        if slip == "dies" and piece.units == ("L4H0",):
            os.kill(os.getpid(), signal.SIGKILL)
        if slip == "raises" and piece.units == ("L4H0",):
            raise StudyError("the work failed")
        if slip == "slow":
            time.sleep(30)
        return np.array([float(piece.units[0][1:-2]), 0.1, np.nan])

    return compute


def collected(run):
    return {piece.key: result.tobytes() for piece, result in run(PIECES)}


def expected():
    return collected(in_process(made()))


def test_in_process_keeps_the_order_and_waits_to_be_asked():
    done = []

    def compute(piece):
        done.append(piece)
        return np.zeros(1)

    results = in_process(compute)(PIECES)
    assert done == []
    assert [piece for piece, _ in results] == PIECES


def test_processes_give_the_same():
    with processes(made, 2) as run:
        assert collected(run) == expected()
        assert collected(run) == expected(), "a second round, with the same workers"


@pytest.mark.parametrize("slip", ["setup", "raises"])
def test_errors_come_back_as_they_were_raised(slip):
    with pytest.raises(StudyError, match="failed"), processes(functools.partial(made, slip), 2) as run:
        collected(run)


def test_a_worker_that_dies_is_told_and_what_came_before_is_there():
    arrived = []

    def arrive():
        with processes(functools.partial(made, "dies"), 1) as run:
            arrived.extend(piece for piece, _ in run(PIECES))

    with pytest.raises(ResultsError, match=r"a worker process died.*run the same command again"):
        arrive()
    # Results are sent one by one, and the fifth piece kills the worker; the fourth may be lost on the way.
    assert 3 <= len(arrived) <= 4


def test_interrupted_it_does_not_wait_for_the_work():
    def interrupted():
        with processes(functools.partial(made, "slow"), 2) as run:
            signal.signal(signal.SIGALRM, _interrupt)
            signal.setitimer(signal.ITIMER_REAL, 6)
            next(run(PIECES))

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - begun < 25, "a piece takes 30 s"


def _interrupt(number, frame):
    raise KeyboardInterrupt


ORPHANS = """
import functools, os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_executors as here
from probe.studies.executors import processes
if __name__ == "__main__":
    with processes(functools.partial(here.made, "slow"), 2) as run:
        results = run(here.PIECES)
        import threading, time
        def die():
            while not (pids := [c.pid for c in __import__("multiprocessing").active_children()]) or len(pids) < 2:
                time.sleep(0.1)
            time.sleep(5)
            print(*pids, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=die).start()
        next(results)
"""


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(ORPHANS)
    done = subprocess.run(
        [sys.executable, str(script), os.path.dirname(__file__)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    children = [int(word) for word in done.stdout.split()]
    assert len(children) == 2
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in children):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ray_that_is_not_installed_is_refused_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    wanted = r"Ray is not installed here; run: pip install 'headprobe\[ray\]'"
    with pytest.raises(StudyError, match=wanted), on_ray(made, 1):
        pass


@pytest.fixture
def ray(monkeypatch):
    """Ray, where it is installed; its workers find this module."""
    found = pytest.importorskip("ray", reason="not checked: no Ray (pip install 'headprobe[ray]')")
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return found


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_same_and_is_put_away(ray):
    import test_executors as importable

    with on_ray(importable.made, 2) as run:
        assert collected(run) == expected()
        assert collected(run) == expected(), "a second round, with the same workers"
    assert not ray.is_initialized()


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize(
    ("slip", "error", "message"),
    [
        ("raises", StudyError, "the work failed"),
        ("setup", StudyError, "the setup failed"),
        ("dies", ResultsError, r"a Ray worker died.*run the same command again"),
    ],
)
def test_errors_come_back_from_ray(ray, slip, error, message):
    import test_executors as importable

    with pytest.raises(error, match=message), on_ray(functools.partial(importable.made, slip), 1) as run:
        collected(run)
    assert not ray.is_initialized()


def test_every_executor_has_a_name():
    assert executors.EXECUTORS == ("local", "ray")
