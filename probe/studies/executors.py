"""Where pieces of work are computed: in this process, in several on this machine, or by Ray on many machines.

An executor computes; it writes nothing. Results come as they are ready, in any order, to the one process that
keeps the ledger, so every executor gives the same study.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from types import ModuleType

import numpy as np
import torch

from probe.analyses.pieces import Compute, Piece
from probe.errors import ResultsError, StudyError

EXECUTORS = ("local", "ray")
RAY_INSTALL = "pip install 'headprobe[ray]'"
KEPT = "what came before is kept: run the same command again"

Executor = Callable[[Sequence[Piece]], Iterator[tuple[Piece, np.ndarray]]]
"""Takes pieces, gives each with its result as soon as it is there."""

Make = Callable[[], Compute]
"""Sets a worker up (loads the model, makes the prompts). Sent to other processes: a function of a module, or a
`functools.partial` of one."""


def in_process(compute: Compute) -> Executor:
    """One piece after the other, here, in their order."""

    def run(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, np.ndarray]]:
        return ((piece, compute(piece)) for piece in pieces)

    return run


@contextmanager
def processes(make: Make, workers: int) -> Iterator[Executor]:
    """`workers` new processes (spawned, so that none inherits a lock or a device), each set up once.

    They share this process' threads between them, and end with it however it ends. Raises ResultsError where one
    dies; errors of the work itself are raised as they are.
    """
    context = multiprocessing.get_context("spawn")
    ending, lifeline = context.Pipe(duplex=False)
    threads = max(1, torch.get_num_threads() // workers)
    pool = ProcessPoolExecutor(workers, context, _begin, (make, threads, ending))

    def run(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, np.ndarray]]:
        try:
            futures = {pool.submit(_work, piece): piece for piece in pieces}
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool as error:
            raise ResultsError(
                f"a worker process died (was it killed, or out of memory with {workers} workers?); {KEPT}"
            ) from error

    try:
        yield run
    except BaseException:
        lifeline.close()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        pool.shutdown()
        lifeline.close()
        ending.close()


@contextmanager
def on_ray(make: Make, workers: int) -> Iterator[Executor]:
    """`workers` Ray actors, each set up once: on the cluster named by RAY_ADDRESS, else on a Ray started here.

    Machines of a cluster need the same headprobe and libraries; a worker that finds others refuses. Raises
    StudyError where Ray is not installed, ResultsError where an actor dies.
    """
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="error", **here)
    _check_room(ray, workers)
    remote = ray.remote(num_cpus=1)(_Worker)
    threads = max(1, torch.get_num_threads() // workers)
    actors = [remote.remote(make, threads) for _ in range(workers)]

    def run(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, np.ndarray]]:
        waiting, running = list(reversed(pieces)), {}
        for actor in actors[: len(waiting)]:
            piece = waiting.pop()
            running[actor.compute.remote(piece)] = (actor, piece)
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            actor, piece = running.pop(done)
            result = _fetched(ray, done)
            if waiting:
                following = waiting.pop()
                running[actor.compute.remote(following)] = (actor, following)
            yield piece, result

    try:
        yield run
    finally:
        for actor in actors:
            ray.kill(actor)
        if started:
            ray.shutdown()


def _ray() -> ModuleType:
    try:
        return import_module("ray")
    except ImportError:
        raise StudyError(f"executor ray: Ray is not installed here; run: {RAY_INSTALL}") from None


def _check_room(ray: ModuleType, workers: int) -> None:
    """Ray would wait for ever for processors that the cluster does not have."""
    free = int(ray.available_resources().get("CPU", 0))
    if free < workers:
        raise StudyError(f"executor ray: found {free} free processors, wanted {workers}; ask for fewer --workers")


class _Worker:
    """Set up with its first piece, so that an error of the setup travels as an error of the work does."""

    def __init__(self, make: Make, threads: int) -> None:
        torch.set_num_threads(threads)
        self._make = make
        self._ready: Compute | None = None

    def compute(self, piece: Piece) -> np.ndarray:
        self._ready = self._ready or self._make()
        return self._ready(piece)


def _fetched(ray: ModuleType, done: object) -> np.ndarray:
    """A result, or the error that the work raised, as it raised it."""
    try:
        return np.array(ray.get(done))
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:200]
        raise ResultsError(f"a Ray worker died ({reason}); {KEPT}") from error


_worker: list[_Worker] = []
"""The one of this process, in the processes that `processes` starts."""


def _begin(make: Make, threads: int, ending: Connection) -> None:
    """Begin a new worker process: interrupts are the parent's to handle, and its end is ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(ending,), daemon=True).start()
    _worker.append(_Worker(make, threads))


def _end_with_parent(ending: Connection) -> None:
    """Waits for the parent's end of the pipe to close, as it does when the parent is killed."""
    try:
        ending.recv()
    except (EOFError, OSError):
        os._exit(1)


def _work(piece: Piece) -> np.ndarray:
    return _worker[0].compute(piece)
