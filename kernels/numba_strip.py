"""The elementwise stage of a strip, compiled by numba: each row's scores become weights and sums while in the cache.

Imported only where numba is used (see `numba_stage`). Every function is in this file: numba's cache on disk notices a
change of the file that a function stands in, not of those it calls.

Nothing here assumes that numbers are finite. Sums may be taken in another order (vector lanes) and products fused
into them; the order depends on shapes alone, so equal inputs give equal bits on one machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

from probe.kernels.numba_arguments import (
    CURRENT,
    DISTANCE,
    FIRST,
    LOCAL,
    MASS,
    PEAK,
    PREVIOUS,
    SHIFT,
    SURPRISE,
    TOTAL,
    Answer,
    Given,
    Place,
    Totals,
)  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])

HIDDEN = np.float32(-1e30)
LOWEST = np.float32(-127)
"""2 to this power is put to exactly 0."""
ROUNDER = np.float32(1.5 * 2**23)
"""A float32 of this size has no fraction: adding it rounds to the nearest whole number, kept in the lowest bits."""
C1, C2, C3, C4, C5, C6 = (
    np.float32(c) for c in (0.69314718056, 0.24022650696, 0.05550410866, 0.00961812910, 0.00133335581, 0.00015403530)
)
"""Taylor's ln(2)^k / k! of 2^f: at |f| <= 1/2 the next term is 1.2e-7 of 2^f at most."""
ONE = np.float32(1)
ZERO = np.float32(0)
MAGNITUDE = np.int32(0x7FFFFFFF)
UNIT = np.int32(127 << 23)
"""The bits of 1."""


def compiled(*flags: str) -> Callable[[F], F]:
    """Compile with these fast-math flags, without the interpreter's lock, kept on disk where a folder allows it."""

    def make(function: F) -> F:
        try:
            return cast("F", njit(nogil=True, fastmath=set(flags), cache=True)(function))
        except RuntimeError:  # no folder can be written to: it is compiled anew in each process
            return cast("F", njit(nogil=True, fastmath=set(flags))(function))

    return make


@compiled("contract")
def power(t: np.float32) -> np.float32:
    """2^t for t <= 0, to about 1.2e-7 of itself: exactly 1 at 0, exactly 0 below −126.5; NaN stays NaN.

    Without `reassoc`: ROUNDER must not cancel.
    """
    t = LOWEST if t < LOWEST else t
    shifted = t + ROUNDER
    f = t - (shifted - ROUNDER)
    n = np.int32(np.float32(shifted).view(np.int32) << np.int32(23))
    scale = np.int32(n + UNIT).view(np.float32)
    series = ONE + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
    return series * scale


@compiled()
def ordered(bits: np.int32) -> np.int32:
    """A whole number that orders as the float of these bits does, and back. (A float's own maximum does not vectorise.)

    NaN without a sign orders above everything, NaN with one below: then the sum of the row's weights finds it.
    """
    return np.int32(bits ^ (np.int32(bits >> np.int32(31)) & MAGNITUDE))


@compiled("contract", "reassoc", "nsz")
def highest(bits: np.ndarray) -> np.float32:
    """Largest of a row's scores, given by their bits; HIDDEN of none."""
    best = ordered(np.float32(HIDDEN).view(np.int32))
    for x in range(bits.shape[0]):
        best = max(best, ordered(bits[x]))
    return np.int32(ordered(best)).view(np.float32)


@compiled("contract", "reassoc", "nsz")
def weigh(w: np.ndarray, shift: np.float32, back: np.ndarray) -> tuple[np.float32, np.float32, np.float32]:
    """Put 2^(s − shift) for a row's scores. Returns Σ w, Σ w (s − shift), Σ w · back."""
    mass, surprise, distance = ZERO, ZERO, ZERO
    for x in range(w.shape[0]):
        t = w[x] - shift
        t = LOWEST if t < LOWEST else t
        weight = power(t)
        w[x] = weight
        mass += weight
        surprise += weight * t
        distance += weight * back[x]
    return mass, surprise, distance


@compiled("contract", "reassoc", "nsz")
def total_of(w: np.ndarray) -> np.float32:
    """Σ w."""
    total = ZERO
    for x in range(w.shape[0]):
        total += w[x]
    return total


@compiled("contract", "reassoc", "nsz")
def add_four(out: np.ndarray, share: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> None:
    """out += share[0] · a + share[1] · b + share[2] · c + share[3] · d."""
    one, two, three, four = share[0], share[1], share[2], share[3]
    for x in range(out.shape[0]):
        out[x] += (one * a[x] + two * b[x]) + (three * c[x] + four * d[x])


@compiled("contract", "reassoc", "nsz")
def add_one(out: np.ndarray, share: np.float32, a: np.ndarray) -> None:
    """out += share · a."""
    for x in range(out.shape[0]):
        out[x] += share * a[x]


@compiled("contract", "reassoc", "nsz")
def add_values(out: np.ndarray, share: np.float32, w: np.ndarray, v: np.ndarray) -> None:
    """out = share · Σ_j w[j] v[j], eight keys at a time."""
    out[:] = ZERO
    whole = w.shape[0] - w.shape[0] % 8
    for j in range(0, whole, 8):
        a, b, c, d, e, f, g, h = w[j], w[j + 1], w[j + 2], w[j + 3], w[j + 4], w[j + 5], w[j + 6], w[j + 7]
        for x in range(out.shape[0]):
            one = (a * v[j, x] + b * v[j + 1, x]) + (c * v[j + 2, x] + d * v[j + 3, x])
            two = (e * v[j + 4, x] + f * v[j + 5, x]) + (g * v[j + 6, x] + h * v[j + 7, x])
            out[x] += one + two
    for j in range(whole, w.shape[0]):
        add_one(out, w[j], v[j])
    for x in range(out.shape[0]):
        out[x] *= share


@compiled()
def place_of(order: np.ndarray, low: int, high: int, key: int) -> int:
    """First place of order[low:high], which rises, with a key of at least `key`."""
    while low < high:
        middle = (low + high) // 2
        if order[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@compiled()
def span(place: Place, k: int) -> tuple[int, int]:
    """First and last-plus-one key of row k, as `Sequence.span` has it, within the strip's."""
    position = place.position + k
    first, stop = place.low, place.high
    if place.causal:
        stop = min(stop, position + 1)
    if place.window > 0:
        first = max(first, position - place.window + 1)
        if not place.causal:
            stop = min(stop, position + place.window)
    return min(first, stop), stop


@compiled("contract")
def weigh_row(
    place: Place, h: int, k: int, w: np.ndarray, bits: np.ndarray, given: Given, rows: np.ndarray
) -> np.float32:
    """Scores of one row to weights, their sums to `rows`. Returns 1 / total, 0 for a row that sees nothing."""
    line, (first, stop) = h * place.rows + k, span(place, k)
    at = place.pad - place.low
    w[line, place.pad : at + first] = ZERO
    w[line, at + stop : at + place.high] = ZERO
    own, head, t = w[line, at + first : at + stop], place.head + h, place.row + k
    largest = highest(bits[line, at + first : at + stop])
    shift, learned = largest, ZERO
    if place.learned:
        shift = given.learned[h] if given.learned[h] > largest else largest
        learned = power(given.learned[h] - shift)
    begin = given.farthest - place.position + first
    mass, surprise, distance = weigh(own, shift, given.back[begin : begin + stop - first])
    if shift == HIDDEN:  # 2^0 would weigh every key
        own[:] = ZERO
        mass, surprise, distance = ZERO, ZERO, ZERO
    total = mass + learned
    rows[TOTAL, head, t], rows[MASS, head, t], rows[SHIFT, head, t] = total, mass, shift
    rows[PEAK, head, t] = power(largest - shift)
    rows[SURPRISE, head, t], rows[DISTANCE, head, t] = surprise, distance
    if place.low == 0 and place.high > 0:
        rows[FIRST, head, t] = w[line, place.pad]
    return ZERO if total == ZERO else ONE / total


@compiled("contract")
def write_row(place: Place, h: int, k: int, inverse: np.float32, w: np.ndarray, given: Given, answer: Answer) -> None:
    """What else is told of one row: keys before it, sinks, the window's output, labels."""
    (first, stop), position = span(place, k), place.position + k
    head, t, at = place.head + h, place.row + k, place.pad - place.low
    row = w[h * place.rows + k]
    if place.causal:
        if first <= position < stop:
            answer.rows[CURRENT, head, t] = row[at + position]
        if first <= position - 1 < stop:
            answer.rows[PREVIOUS, head, t] = row[at + position - 1]
        near = max(first, position - place.near + 1)
        answer.rows[LOCAL, head, t] = total_of(row[at + near : at + max(near, stop)])
        for key in range(place.low, min(place.sinks, place.high)):
            answer.sinks[head, t, key] = row[at + key]
        near = max(near, place.sinks)
        if near < stop:
            add_values(answer.local[head, t], inverse, row[at + near : at + stop], given.v[near:stop])
    for n in range(given.order.shape[0]):
        low, high = given.first[n, place.start + k], given.stop[n, place.start + k]
        low = place_of(given.order[n], low, high, first)
        high = place_of(given.order[n], low, high, stop)
        found = 0.0
        for x in range(low, high):
            found += row[at + given.order[n, x]]
        answer.lookups[n, head, t] = found


@compiled()
def add_profile(
    place: Place, line: int, k: int, n: int, first: int, stop: int, w: np.ndarray, share: np.ndarray, out: np.ndarray
) -> None:
    """Rows k … k + n − 1 by distance, d in place n_keys − 1 − d: what they have in common at once, the rest row by row.

    Seen by distance, each row stands one column further left than the one before.
    """
    at, position = place.pad - place.low, place.position + k
    base = place.n_keys - 1 - position
    low = max(first, -base)
    high = max(low, min(stop - 3, position + 1))
    last = line + n - 1
    add_four(
        out[base + low : base + high],
        share,
        w[line, at + low : at + high],
        w[min(line + 1, last), at + low + 1 : at + high + 1],
        w[min(line + 2, last), at + low + 2 : at + high + 2],
        w[min(line + 3, last), at + low + 3 : at + high + 3],
    )
    for x in range(n):
        own = base - x
        left, right = max(first, -own), min(stop, position + x + 1)
        begin = min(max(left, low + x), right)
        add_one(out[own + left : own + begin], share[x], w[line + x, at + left : at + begin])
        begin = max(begin, high + x)
        if begin < right:
            add_one(out[own + begin : own + right], share[x], w[line + x, at + begin : at + right])


@compiled()
def close_rows(place: Place, h: int, band: int, totals: Totals) -> None:
    """Sums by key of some rows: float32 so far, added to those of all rows and to the thumbnail's band."""
    column = totals.column
    if place.bands > 0:
        for cell in range(place.bands):
            first = max(place.low, -(-cell * place.n_keys // place.bands))
            stop = min(place.high, -(-(cell + 1) * place.n_keys // place.bands))
            if first < stop:
                totals.thumbnail[h, band, cell] += total_of(column[first:stop])
    for key in range(place.low, place.high):
        totals.received[h, key] += column[key]
        column[key] = ZERO


@compiled()
def run_strip(place: Place, w: np.ndarray, bits: np.ndarray, given: Given, answer: Answer, totals: Totals) -> None:
    """One strip: scores in `w` become weights, everything is counted; four rows at a time go to the sums by key."""
    share, of_profile = np.zeros(4, np.float32), np.zeros(4, np.float32)
    for h in range(place.heads):
        k = 0
        while k < place.rows:
            band = place.bands * (place.start + k) // place.n_keys
            end = place.rows
            if place.bands > 0:
                end = min(end, -(-(band + 1) * place.n_keys // place.bands) - place.start)
            while k < end:
                n, line = min(4, end - k), h * place.rows + k
                share[:] = ZERO
                for x in range(n):
                    inverse = weigh_row(place, h, k + x, w, bits, given, answer.rows)
                    write_row(place, h, k + x, inverse, w, given, answer)
                    totals.inverse[h, k + x], share[x] = inverse, inverse
                first, stop = span(place, k)[0], span(place, k + n - 1)[1]
                at, last = place.pad - place.low, line + n - 1
                add_four(
                    totals.column[first:stop],
                    share,
                    w[line, at + first : at + stop],
                    w[min(line + 1, last), at + first : at + stop],
                    w[min(line + 2, last), at + first : at + stop],
                    w[min(line + 3, last), at + first : at + stop],
                )
                if place.profiled:
                    of_profile[:] = share
                    if place.position + k == 0:
                        of_profile[0] = ZERO  # the profile is over positions 1 and later
                    add_profile(place, line, k, n, first, stop, w, of_profile, totals.profile)
                k += n
            close_rows(place, h, band, totals)
        if place.profiled:
            for x in range(place.n_keys):
                totals.by_distance[h, x] += totals.profile[x]
                totals.profile[x] = ZERO
