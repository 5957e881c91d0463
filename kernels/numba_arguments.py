"""What the compiled stage is given: where a strip stands, what it reads, where its rows and sums go."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """What the strips of an item have in common, in whole numbers."""

    heads: int
    head: int
    """First head, over all sequences."""
    first_row: int
    """Row 0 of the sequence in the answer's tensors."""
    offset: int
    """Row 0 on the axis of the keys."""
    n_keys: int
    pad: int
    """Column of a strip's first key."""
    causal: bool
    window: int
    """0 for none."""
    learned: bool
    sinks: int
    near: int
    """The request's window."""
    bands: int
    """0 where there is no thumbnail."""
    profiled: bool


class Place(NamedTuple):
    """Rows [start, start + rows) of a layout against keys [low, high)."""

    all: Layout
    start: int
    rows: int
    low: int
    high: int


class Given(NamedTuple):
    """What an item's strips read."""

    v: np.ndarray
    back: np.ndarray
    farthest: int
    learned: np.ndarray
    order: np.ndarray
    first: np.ndarray
    stop: np.ndarray


class Answer(NamedTuple):
    """Where rows go: [fields, heads, T], [heads, T, sinks], twice [heads, T, Dv], [lookups, heads, T]."""

    rows: np.ndarray
    sinks: np.ndarray
    sink_part: np.ndarray
    local_part: np.ndarray
    lookups: np.ndarray


class Totals(NamedTuple):
    """Sums over rows, float64 [r, ...]."""

    received: np.ndarray
    by_distance: np.ndarray
    thumbnail: np.ndarray


class Work(NamedTuple):
    """A thread's own memory, float32: the strip's scores and weights, and the same as whole numbers; sums by key and
    by distance of a few rows; 1 / total of the strip's rows [r, rows], and of four of them."""

    w: np.ndarray
    bits: np.ndarray
    column: np.ndarray
    profile: np.ndarray
    inverse: np.ndarray
    share: np.ndarray
