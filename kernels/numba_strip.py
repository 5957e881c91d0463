"""The elementwise stage of a strip, compiled by numba: each row's scores become weights and sums while in the cache.

Imported only where numba is used (see `numba_stage`). Every function is in this file: numba's cache on disk notices a
change of the file that a function stands in, not of those it calls.

Nothing here assumes that numbers are finite. Sums may be taken in another order (vector lanes) and products fused
into them; the order depends on shapes alone, so equal inputs give equal bits on one machine.
"""

from __future__ import annotations

import numpy as np

from probe.kernels.numba_arguments import Answer, Given, Layout, Place, Totals, Work
from probe.kernels.numba_compile import compiled
from probe.kernels.raw import FIELDS

TOTAL, MASS, SHIFT, PEAK, SURPRISE, FIRST, PREVIOUS, CURRENT, LOCAL, DISTANCE = range(len(FIELDS))
HIDDEN = np.float32(-1e30)
LOWEST = np.float32(-127)
"""2 to this power is put to exactly 0."""
ROUNDER = np.float32(1.5 * 2**23)
"""A float32 of this size has no fraction: adding it rounds to the nearest whole number, kept in the lowest bits."""
C1, C2, C3, C4, C5 = (
    np.float32(c) for c in (0.693146977527, 0.240222421236, 0.055507339628, 0.00967151132436, 0.00132646523922)
)
"""1 + C1 f + … + C5 f⁵ is within 9.2e-8 of 2^f, relatively, for |f| <= 1/2: fitted by linear programming."""
ONE = np.float32(1)
ZERO = np.float32(0)
MAGNITUDE = np.int32(0x7FFFFFFF)
UNIT = np.int32(127 << 23)
"""The bits of 1."""


@compiled("contract")
def power(t: np.float32) -> np.float32:
    """2^t for LOWEST <= t <= 0, to about 1.5e-7 of itself: exactly 1 at 0, exactly 0 below −126.5; NaN stays NaN.

    Without `reassoc`: ROUNDER must not cancel.
    """
    shifted = t + ROUNDER
    f = t - (shifted - ROUNDER)
    n = np.int32(np.float32(shifted).view(np.int32) << np.int32(23))
    scale = np.int32(n + UNIT).view(np.float32)
    series = ONE + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * C5))))
    return series * scale


@compiled("contract")
def weight_of(score: np.float32, shift: np.float32) -> np.float32:
    """2^(score − shift); a difference that is NaN stays it."""
    below = score - shift
    return power(LOWEST if below < LOWEST else below)


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
    """A row's scores to weights, 2^(s − shift). Returns Σ w, Σ w (s − shift), Σ w · back."""
    mass, surprise, distance = ZERO, ZERO, ZERO
    for x in range(w.shape[0]):
        below = w[x] - shift
        below = LOWEST if below < LOWEST else below
        weight = power(below)
        w[x] = weight
        mass += weight
        surprise += weight * below
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
def span(place: Place, k: int) -> tuple[int, int]:
    """First and last-plus-one key of row k, as `Sequence.span` has it, within the strip's."""
    position = place.all.offset + place.start + k
    first, stop = place.low, place.high
    if place.all.causal:
        stop = min(stop, position + 1)
    if place.all.window > 0:
        first = max(first, position - place.all.window + 1)
        if not place.all.causal:
            stop = min(stop, position + place.all.window)
    return min(first, stop), stop


@compiled("contract")
def weigh_row(place: Place, h: int, k: int, given: Given, rows: np.ndarray, work: Work) -> np.float32:
    """Scores of one row to weights, their sums to `rows`. Returns 1 / total, 0 for a row that sees nothing."""
    line, (first, stop), at = h * place.rows + k, span(place, k), place.all.pad - place.low
    work.w[line, place.all.pad : at + first] = ZERO
    work.w[line, at + stop : at + place.high] = ZERO
    own, head, t = work.w[line, at + first : at + stop], place.all.head + h, place.all.first_row + place.start + k
    largest = highest(work.bits[line, at + first : at + stop])
    shift, learned = largest, ZERO
    if place.all.learned:
        shift = given.learned[h] if given.learned[h] > largest else largest
        learned = weight_of(given.learned[h], shift)
    begin = given.farthest - place.all.offset - place.start + first
    mass, surprise, distance = weigh(own, shift, given.back[begin : begin + stop - first])
    if shift == HIDDEN:  # 2^0 would weigh every key
        own[:] = ZERO
        mass, surprise, distance = ZERO, ZERO, ZERO
    total = mass + learned
    rows[TOTAL, head, t], rows[MASS, head, t], rows[SHIFT, head, t] = total, mass, shift
    rows[SURPRISE, head, t], rows[DISTANCE, head, t] = surprise, distance
    rows[PEAK, head, t] = weight_of(largest, shift)
    if place.low == 0 and place.high > 0:
        rows[FIRST, head, t] = work.w[line, place.all.pad]
    return ZERO if total == ZERO else ONE / total


@compiled("contract")
def write_row(place: Place, row: np.ndarray, h: int, k: int, inverse: np.float32, given: Given, answer: Answer) -> None:
    """What else is told of one row: keys before it, sinks, the window's output, labels."""
    (first, stop), position = span(place, k), place.all.offset + place.start + k
    head, t, at = place.all.head + h, place.all.first_row + place.start + k, place.all.pad - place.low
    if place.all.causal:
        if first <= position < stop:
            answer.rows[CURRENT, head, t] = row[at + position]
        if first <= position - 1 < stop:
            answer.rows[PREVIOUS, head, t] = row[at + position - 1]
        near = max(first, position - place.all.near + 1)
        answer.rows[LOCAL, head, t] = total_of(row[at + near : at + max(near, stop)])
        for key in range(place.low, min(place.all.sinks, place.high)):
            answer.sinks[head, t, key] = row[at + key]
        kept = min(place.all.sinks, stop)
        if first < kept:
            add_values(answer.sink_part[head, t], inverse, row[at + first : at + kept], given.v[first:kept])
        near = max(near, place.all.sinks)
        if near < stop:
            add_values(answer.local_part[head, t], inverse, row[at + near : at + stop], given.v[near:stop])
    for n in range(given.order.shape[0]):
        low, high = given.first[n, place.start + k], given.stop[n, place.start + k]
        if first > 0:
            low += np.searchsorted(given.order[n, low:high], first)
        if low < high and given.order[n, high - 1] >= stop:
            high = low + np.searchsorted(given.order[n, low:high], stop)
        found = 0.0
        for x in range(low, high):
            found += row[at + given.order[n, x]]
        answer.lookups[n, head, t] = found


@compiled()
def add_rows(
    out: np.ndarray, share: np.ndarray, w: np.ndarray, line: int, last: int, first: int, stop: int, step: int
) -> None:
    """out += Σ share · columns [first, stop) of four lines, none beyond `last`; each `step` further right."""
    second, third, fourth = min(line + 1, last), min(line + 2, last), min(line + 3, last)
    a, b = w[line, first:stop], w[second, first + step : stop + step]
    c, d = w[third, first + 2 * step : stop + 2 * step], w[fourth, first + 3 * step : stop + 3 * step]
    add_four(out, share, a, b, c, d)


@compiled()
def add_profile(
    place: Place, line: int, k: int, n: int, first: int, stop: int, w: np.ndarray, share: np.ndarray, out: np.ndarray
) -> None:
    """Rows k … k + n − 1 by distance, d in place n_keys − 1 − d: what they have in common at once, the rest row by row.

    Seen by distance, each row stands one column further left than the one before.
    """
    at, position = place.all.pad - place.low, place.all.offset + place.start + k
    base = place.all.n_keys - 1 - position
    low = max(first, -base)
    high = max(low, min(stop - 3, position + 1))
    add_rows(out[base + low : base + high], share, w, line, line + n - 1, at + low, at + high, 1)
    for x in range(n):
        own = base - x
        left, right = max(first, -own), min(stop, position + x + 1)
        begin = min(max(left, low + x), right)
        add_one(out[own + left : own + begin], share[x], w[line + x, at + left : at + begin])
        begin = max(begin, high + x)
        if begin < right:
            add_one(out[own + begin : own + right], share[x], w[line + x, at + begin : at + right])


@compiled()
def close_rows(place: Place, h: int, band: int, sums: Totals, column: np.ndarray) -> None:
    """Sums by key of some rows: float32 so far, added to those of all rows and to the thumbnail's band."""
    for cell in range(place.all.bands):
        first = max(place.low, -(-cell * place.all.n_keys // place.all.bands))
        stop = min(place.high, -(-(cell + 1) * place.all.n_keys // place.all.bands))
        if first < stop:
            sums.thumbnail[h, band, cell] += total_of(column[first:stop])
    for key in range(place.low, place.high):
        sums.received[h, key] += column[key]
        column[key] = ZERO


@compiled()
def run_rows(place: Place, h: int, k: int, n: int, given: Given, answer: Answer, work: Work) -> None:
    """Rows k … k + n − 1 of a head, four at most: weights, what is told of each row, float32 sums by key."""
    line, share, w = h * place.rows + k, work.share, work.w
    share[:] = ZERO
    for x in range(n):
        inverse = weigh_row(place, h, k + x, given, answer.rows, work)
        write_row(place, w[line + x], h, k + x, inverse, given, answer)
        work.inverse[h, k + x], share[x] = inverse, inverse
    (first, _), (_, stop), at = span(place, k), span(place, k + n - 1), place.all.pad - place.low
    add_rows(work.column[first:stop], share, w, line, line + n - 1, at + first, at + stop, 0)
    if place.all.profiled:
        if place.all.offset + place.start + k == 0:
            share[0] = ZERO  # the profile is over positions 1 and later
        add_profile(place, line, k, n, first, stop, w, share, work.profile)


@compiled()
def run_strip(
    layout: Layout, start: int, rows: int, low: int, high: int, given: Given, answer: Answer, sums: Totals, work: Work
) -> None:
    """One strip: scores in `work.w` become weights, everything is counted."""
    place = Place(layout, start, rows, low, high)
    for h in range(layout.heads):
        k = 0
        while k < rows:  # the rows of one band of the thumbnail, or all of them
            band, end = 0, rows
            if layout.bands > 0:
                band = layout.bands * (start + k) // layout.n_keys
                end = min(end, -(-(band + 1) * layout.n_keys // layout.bands) - start)
            while k < end:
                n = min(4, end - k)
                run_rows(place, h, k, n, given, answer, work)
                k += n
            close_rows(place, h, band, sums, work.column)
        if layout.profiled:
            for x in range(layout.n_keys):
                sums.by_distance[h, x] += work.profile[x]
                work.profile[x] = ZERO


@compiled()
def write_output(layout: Layout, start: int, rows: int, output: np.ndarray, inverse: np.ndarray, z: np.ndarray) -> None:
    """Σ w v of a strip's rows, normalised, to their place in the answer."""
    for h in range(layout.heads):
        for k in range(rows):
            own, line = z[layout.head + h, layout.first_row + start + k], output[h * rows + k]
            for x in range(own.shape[0]):
                own[x] = line[x] * inverse[h, k]
