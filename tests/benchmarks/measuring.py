"""Timings and what is made of them: medians, a line through memory, the least a device can take. No GPU in here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one piece of work over several runs: median, quartiles, number of runs."""

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Line:
    """A least-squares line y = slope · x + intercept; worst: largest |residual| as a share of the largest y."""

    slope: float
    intercept: float
    worst: float


@dataclass(frozen=True)
class Rates:
    """What the device does at best, as measured: operations of bf16 products, exponentials, bytes copied; a second."""

    products: float
    exponentials: float
    bytes: float


def summary(samples: Sequence[float]) -> Timing:
    """Median and quartiles of a list of seconds."""
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [samples[0]] * 3
    return Timing(statistics.median(samples), low, high, len(samples))


def line(x: Sequence[float], y: Sequence[float]) -> Line:
    """The line through at least two points."""
    slope, intercept = statistics.linear_regression(x, y)
    residual = max(abs(b - slope * a - intercept) for a, b in zip(x, y, strict=True))
    return Line(slope, intercept, residual / max(map(abs, y)) if any(y) else 0.0)


def floors(length: int, heads: int, kv_heads: int, width: int, passes: int, rates: Rates) -> dict[str, float]:
    """The least seconds of causal attention and its statistics, by what limits it.

    Pairs (i, j <= i) of all query heads; the row pass multiplies q·k and p·v, the column pass q·k again; each pass
    takes one exponential a pair; q, k, v are read and z written once, in two bytes a number.
    """
    pairs = heads * length * (length + 1) / 2
    numbers = length * width * (2 * heads + 2 * kv_heads)
    return {
        "products": pairs * width * (4 + 2 * (passes - 1)) / rates.products,
        "exponentials": pairs * passes / rates.exponentials,
        "bytes": 2 * numbers / rates.bytes,
    }


class Clock:
    """Times work on a device: CUDA events around each run, the second-level cache emptied before it.

    Emptying takes the GPU about half a millisecond, in which the CPU launches what is timed: small work is timed
    without its launches, as inside a model whose layers are launched ahead.
    """

    FLUSHES = 4

    def __init__(self, device: torch.device, *, least: float = 0.5, most_runs: int = 50, longest: float = 3.0) -> None:
        """least: seconds of measured work wanted altogether. most_runs: no more than these, and no fewer than 5, but
        of work that takes longer than `longest` seconds a single one."""
        self.device, self.least, self.most_runs, self.longest = device, least, most_runs, longest
        size = 256 * 2**20 if device.type == "cuda" else 1
        self.cache = torch.empty(size, dtype=torch.int8, device=device)

    def time(self, work: Callable[[], Any]) -> Timing:
        """Two runs to warm up (the first may compile), then runs until there is enough to take a median of."""
        work()
        once = self._once(work)
        if once > self.longest:
            return summary([once])
        samples: list[float] = []
        while len(samples) < 5 or (sum(samples) < self.least and len(samples) < self.most_runs):
            samples.append(self._once(work))
        return summary(samples)

    def _once(self, work: Callable[[], Any]) -> float:
        for _ in range(self.FLUSHES):
            self.cache.zero_()
        if self.device.type != "cuda":
            begun = time.perf_counter()
            work()
            return time.perf_counter() - begun
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize(self.device)
        return float(begin.elapsed_time(end)) / 1000
