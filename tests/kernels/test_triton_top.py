"""The network that keeps the strongest keys, through Triton's interpreter, against plain sorting."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl

from probe.kernels.triton_jit import interpreted, jit
from probe.kernels.triton_top import NONE, joined_top, log2, rank_of, top_of, top_of_runs, unrank


@jit
def kept_kernel(
    s: tl.tensor,
    score: tl.tensor,
    key: tl.tensor,
    tiles: tl.tensor,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    TOP: tl.constexpr,
) -> None:
    """Strongest keys of rows, tile by tile, into lists that rise."""
    row = tl.arange(0, ROWS)[:, None]
    best = tl.full([ROWS, TOP], NONE, tl.int64)
    for tile in range(tiles):
        column = tile * KEYS + tl.arange(0, KEYS)
        x = tl.load(s + row * KEYS * tiles + column[None, :])
        found = top_of(rank_of(x, column[None, :], x > -100), TOP)
        best = joined_top(best, found, 0)
    place = row * TOP + tl.arange(0, TOP)[None, :]
    value, number = unrank(best)
    tl.store(score + place, value)
    tl.store(key + place, number)


def kept(s: torch.Tensor, keys: int, top: int) -> tuple[list[list[float]], list[list[int]]]:
    rows = len(s)
    score, key = torch.zeros(rows, top), torch.zeros(rows, top, dtype=torch.long)
    with interpreted():
        kept_kernel[(1,)](s, score, key, s.shape[1] // keys, rows, keys, top)
    return score.flip(-1).tolist(), key.flip(-1).tolist()


def sorted_keys(row: list[float], top: int) -> list[int]:
    seen = [j for j, value in enumerate(row) if value > -100]
    found = sorted(seen, key=lambda j: (-row[j], j))[:top]
    return found + [-1] * (top - len(found))


@pytest.mark.parametrize(
    ("rows", "keys", "top"), [(4, 16, 1), (4, 16, 4), (2, 8, 8), (2, 4, 16), (1, 2, 2), (1, 16, 2)]
)
def test_the_strongest_of_all_tiles_in_order(rows: int, keys: int, top: int) -> None:
    """Many equal scores of both signs, −0 beside 0, some keys hidden: fewer than are asked for in the second row."""
    generator = torch.Generator().manual_seed(rows + keys + top)
    s = torch.randn(rows, 3 * keys, generator=generator).mul(2).round()
    s[torch.rand(s.shape, generator=generator) < 0.2] = -0.0
    s[torch.rand(s.shape, generator=generator) < 0.2] = -1e30
    s[1:2, 1:] = -1e30
    score, key = kept(s, keys, top)
    for row in range(rows):
        wanted = sorted_keys(s[row].tolist(), top)
        assert key[row] == wanted
        assert [value for value, j in zip(score[row], wanted, strict=True) if j >= 0] == [
            float(s[row, j]) for j in wanted if j >= 0
        ]


def test_scores_and_keys_come_back_to_the_bit() -> None:
    s = torch.tensor([[1e-45, -1e-45, 3.4e38, -3.4e38 * 0, 99.5, -99.5, 2.0**-126, 0.0]])
    score, key = kept(s, 8, 8)
    assert key[0] == sorted_keys(s[0].tolist(), 8)
    assert score[0] == sorted(s[0].tolist(), reverse=True)


@jit
def lists_kernel(lists: tl.tensor, out: tl.tensor, LISTS: tl.constexpr, TOP: tl.constexpr) -> None:
    """Two rows of sorted lists that rise, joined by turns, then all of them into one that falls."""
    list_, n = tl.arange(0, LISTS)[:, None], tl.arange(0, TOP)[None, :]
    best = tl.full([LISTS, TOP], NONE, tl.int64)
    for step in range(2):
        place = tl.where(list_ % 2 == 0, TOP - 1 - n, n)
        best = joined_top(best, tl.load(lists + (step * LISTS + list_) * TOP + place), -1)
    top = top_of_runs(tl.reshape(best, [1, LISTS * TOP]), TOP)
    tl.store(out + n, top)


@pytest.mark.parametrize(("lists", "top"), [(2, 1), (4, 8), (8, 2)])
def test_lists_are_joined_by_turns(lists: int, top: int) -> None:
    numbers = torch.randperm(2 * lists * top, generator=torch.Generator().manual_seed(lists)).view(2 * lists, top)
    out = torch.zeros(1, top, dtype=torch.long)
    with interpreted():
        lists_kernel[(1,)](numbers.sort(-1).values, out, lists, top)
    assert out[0].tolist() == sorted(numbers.flatten().tolist(), reverse=True)[:top]


def test_the_exponent_of_a_power_of_two() -> None:
    assert [log2(1), log2(2), log2(1024)] == [0, 1, 10]
