"""Looking at the map itself: any window of it, and its strongest entries."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from probe.kernels import reference
from probe.kernels.inputs import Attention, Mask
from probe.kernels.testing import bound_of
from probe.kernels.validate import KernelError
from probe.kernels.window import pattern_window, strongest_pairs, strongest_queries

Call = Callable[..., Attention]
RULES = [
    "causal", "bidirectional", "window 17", "bidirectional window", "soft cap", "learned sinks", "bias", "everything",
    "decoding", "decoding in a window", "left padding", "right padding", "nothing seen", "packed", "sigmoid",
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_window_is_that_part_of_the_map(rule: str, dtype: torch.dtype, call: Call) -> None:
    made = call(150, rule=rule, ratio=3, dtype=dtype)
    P, unit = reference.pattern(made), bound_of(made).unit
    S = P.shape[-1]
    for rows, columns in (
        (range(150), range(S)), (range(1), range(1)), (range(149, 150), range(S - 1, S)),
        (range(30, 131), range(3, 40)), (range(127, 129), range(100, 150)), (range(5, 5), range(0, 9)),
        (range(0, 20), range(60, 90)),
    ):  # fmt: skip
        found = pattern_window(made, rows, columns)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert found.shape == (*P.shape[:2], len(rows), len(columns))
        truth = P[:, :, rows.start : rows.stop, columns.start : columns.stop]
        assert ((found.double() - truth).abs() <= unit * truth + 1e-35).all()


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (range(0, 11), range(3), r"rows are 0:11:1; wanted a step of 1 within 0:10"),
        (range(-1, 3), range(3), r"rows are -1:3:1"),
        (range(3), range(5, 12), r"columns are 5:12:1; wanted a step of 1 within 0:10"),
        (range(0, 8, 2), range(3), r"rows are 0:8:2"),
        (range(5, 2), range(3), r"rows are 5:2:1"),
    ],
)
def test_a_window_outside_the_call_is_refused(rows: range, columns: range, message: str, call: Call) -> None:
    with pytest.raises(KernelError, match=message):
        pattern_window(call(10), rows, columns)


def strongest(P: torch.Tensor, count: int) -> list[tuple[float, int, int]]:
    """By falling weight, rising query, rising key; only entries above 0."""
    entries = [(-float(P[i, j]), int(i), int(j)) for i, j in P.nonzero().tolist()]
    return [(-weight, i, j) for weight, i, j in sorted(entries)[:count]]


@pytest.mark.parametrize("rule", RULES)
def test_the_strongest_pairs_are_those_of_the_map(rule: str, call: Call) -> None:
    made = call(100, rule=rule, dtype=torch.float64)
    P, unit = reference.pattern(made), bound_of(made).unit
    for head in (0, 3):
        weight, query, key = strongest_pairs(made, head, 50)
        for b in range(2):
            wanted = strongest(P[b, head], 50)
            n = len(wanted)
            assert [(i, j) for _, i, j in wanted] == list(zip(query[b, :n].tolist(), key[b, :n].tolist(), strict=True))
            assert weight[b, :n].tolist() == pytest.approx([entry[0] for entry in wanted], rel=unit)
            assert (weight[b, n:] == 0).all()
            assert (query[b, n:] == -1).all()
            assert (key[b, n:] == -1).all()


@pytest.mark.parametrize("count", [1, 3, 5, 40, 64, 150, 700])
@pytest.mark.parametrize("kind", ["uniform", "two", "late"])
def test_ties_go_to_the_earlier_query_then_key(kind: str, count: int, call: Call) -> None:
    """Exact ties by the hundred: equal scores, and strong entries among them in any order."""
    made = call(300, B=1, ratio=1)
    q = torch.zeros_like(made.q)
    window = {"uniform": None, "two": 2, "late": 4}[kind]
    k = torch.zeros_like(made.k)
    if kind == "late":
        q[..., 7::11, 0], k[..., 7::11, 0] = 1e3, 1e3  # every eleventh query sees only its own key
    made = replace(made, q=q, k=k, mask=Mask(window=window))
    P = pattern_window(made, range(300), range(300))[0, 1]
    weight, query, key = strongest_pairs(made, 1, count)
    wanted = strongest(P, count)
    assert list(zip(weight[0].tolist(), query[0].tolist(), key[0].tolist(), strict=True))[: len(wanted)] == wanted


def test_more_pairs_than_there_are(call: Call) -> None:
    weight, query, key = strongest_pairs(call(3), 0, 20)
    assert (weight[:, :6] > 0).all()
    assert (weight[:, 6:] == 0).all()
    assert (query[:, 6:] == -1).all()
    assert (key[:, 6:] == -1).all()


@pytest.mark.parametrize(("head", "count"), [(4, 1), (-1, 1), (0, 0)])
def test_a_head_or_count_that_is_not_there_is_refused(head: int, count: int, call: Call) -> None:
    with pytest.raises(KernelError, match=f"head {head}, count {count}; wanted a head below 4 and a count above 0"):
        strongest_pairs(call(5), head, count)


def strongest_rows(P: torch.Tensor, count: int, skip: int) -> list[tuple[float, int, int]]:
    """Each row's first largest entry from key `skip` on, then by falling weight and rising row; entries above 0."""
    found = []
    for i, row in enumerate(P[:, skip:].tolist()):
        best = max(row, default=0.0)
        if best > 0:
            found.append((-best, i, row.index(best) + skip))
    return [(-weight, i, j) for weight, i, j in sorted(found)[:count]]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("skip", [0, 4, 200])
def test_strongest_queries_are_those_of_the_whole_map(rule: str, skip: int, call: Call) -> None:
    made = call(70, rule=rule, ratio=2, dtype=torch.float64)
    P = reference.pattern(made)
    weight, query, key = strongest_queries(made, 9, skip=skip)
    first = [0, 0] if made.mask.lengths is None else made.mask.lengths[:, 0].tolist()
    for b, h in itertools.product(range(P.shape[0]), range(P.shape[1])):
        # Keys are counted from the sequence's own first one.
        truth = strongest_rows(P[b, h, :, first[b] :], 9, skip)
        n = len(truth)
        assert query[b, h, :n].tolist() == [i for _, i, _ in truth]
        assert key[b, h, :n].tolist() == [j + first[b] for _, _, j in truth]
        assert weight[b, h, :n].tolist() == pytest.approx([entry[0] for entry in truth], rel=bound_of(made).unit)
        assert (query[b, h, n:] == -1).all()
        assert (key[b, h, n:] == -1).all()
        assert (weight[b, h, n:] == 0).all()


def test_equal_weights_go_to_the_earlier_query_and_key(call: Call) -> None:
    made = call(12, dtype=torch.float64)
    flat = replace(made, q=torch.zeros_like(made.q))
    weight, query, key = strongest_queries(flat, 4, skip=1)
    # Uniform rows: row i has weight 1/(i + 1) everywhere, so rows 1, 2, 3, 4 come first, each with key 1.
    assert query[0, 0].tolist() == [1, 2, 3, 4]
    assert key[0, 0].tolist() == [1, 1, 1, 1]
    assert weight[0, 0].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1 / 5])


@pytest.mark.parametrize(("count", "skip"), [(0, 0), (3, -1)])
def test_no_count_and_a_skip_below_0_are_refused(count: int, skip: int, call: Call) -> None:
    with pytest.raises(KernelError, match=r"wanted a count above 0 and a skip of 0 or more"):
        strongest_queries(call(10), count, skip=skip)
