"""What the compiled stage is given: where a strip stands, what it reads, where its rows and sums go."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TOTAL, MASS, SHIFT, PEAK, SURPRISE, FIRST, PREVIOUS, CURRENT, LOCAL, DISTANCE = range(10)
"""Places in `raw.FIELDS`."""


class Place(NamedTuple):
    """Where a strip stands, in whole numbers."""

    heads: int
    rows: int
    start: int
    """First row, in the sequence."""
    row: int
    """The same in the answer's tensors."""
    position: int
    """The same on the axis of the keys."""
    head: int
    """First head, over all sequences."""
    low: int
    high: int
    pad: int
    """Column of key `low`."""
    n_keys: int
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
    """Where rows go: [fields, heads, T], [heads, T, sinks], [heads, T, Dv], [lookups, heads, T]."""

    rows: np.ndarray
    sinks: np.ndarray
    local: np.ndarray
    lookups: np.ndarray


class Totals(NamedTuple):
    """Sums over rows, float64 [r, ...], their float32 of a few rows, and 1 / total of the strip's rows."""

    received: np.ndarray
    by_distance: np.ndarray
    thumbnail: np.ndarray
    column: np.ndarray
    profile: np.ndarray
    inverse: np.ndarray
