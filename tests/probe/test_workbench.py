"""Pieces are complete, cost what they say, and give the same whatever process and order they are computed in."""

from __future__ import annotations

import numpy as np
import pytest

from probe.analyses.exact import Where
from probe.analyses.pieces import Piece
from probe.analyses.units import set_unit
from probe.analyses.workbench import Workbench, here
from probe.errors import TokensError
from probe.models import load


@pytest.fixture
def bench(make_llama, make_task):
    return Workbench(load(make_llama()), make_task(4))


def test_pieces_cover_every_unit_and_prompt_once(bench, monkeypatch):
    monkeypatch.setattr("probe.analyses.workbench.PIECE_TOKENS", 2 * 9)
    pieces = bench.ablation_pieces("zero", bench.units)
    cells = [(unit, row) for piece in pieces for unit in piece.units for row in range(*piece.prompts)]
    assert sorted(cells) == sorted((unit.name, row) for unit in bench.units for row in range(4))
    assert [piece.prompts for piece in pieces] == [(0, 2)] * 3 + [(2, 4)] * 3
    # 4 heads of layer l of 3 cost 3 − l blocks each, over all prompts.
    assert sum(map(bench.cost, pieces)) == 4 * (3 + 2 + 1)
    assert sum(map(bench.cost, bench.clean_pieces("zero"))) == 3


def test_a_piece_that_went_through_its_key_gives_the_same_bits(make_llama, make_task):
    first = Workbench(load(make_llama()), make_task(4), where=Where((3, 4)), given=[(0, 1)])
    second = Workbench(load(make_llama()), make_task(4), where=Where((3, 4)), given=[(0, 1)])
    pieces = [*first.ablation_pieces("resample", [*first.units[:5], set_unit("a", [(0, 0), (2, 3)])]),
              *first.clean_pieces("resample")]  # fmt: skip
    for piece in pieces:
        again = Piece.from_key({**vars(piece), "units": list(piece.units), "prompts": list(piece.prompts)})
        assert np.array_equal(first.compute(piece), second.compute(again))


def test_estimates_of_a_group_are_the_sum_over_its_heads(make_llama, make_task):
    heads = Workbench(load(make_llama()), make_task(3))
    groups = Workbench(load(make_llama()), make_task(3), unit="kv_group")
    (one,), (two,) = (bench.estimate_pieces("gradient", "zero") for bench in (heads, groups))
    by_head, by_group = heads.compute(one), groups.compute(two)
    np.testing.assert_allclose(by_group, by_head.reshape(-1, 2, 3).sum(1), rtol=1e-12)


def test_importance_has_a_row_a_prompt_and_a_place_for_every_head(bench):
    (piece,) = bench.importance_pieces(["write_norm"])
    assert bench.compute(piece).shape == (4, 3, 4)


def test_here_answers_in_order_and_reports_its_work(bench):
    seen = []
    pieces = bench.clean_pieces("zero") + bench.ablation_pieces("zero", bench.units[:4])
    found = here(bench, lambda done, total, what: seen.append((done, total, what)))(pieces)
    assert [array.shape for array in found] == [(4,), (4, 4)]
    assert seen == [(3.0, 15.0, "small, clean"), (15.0, 15.0, "small, ablated")]


def test_what_is_not_on_the_bench_is_refused(bench, make_llama, make_task):
    stranger = Piece("other", "zero", "clean", (), (0, 2))
    with pytest.raises(TokensError, match="this bench has small"):
        bench.compute(stranger)
    with pytest.raises(TokensError, match="no head L9H9"):
        Workbench(load(make_llama()), make_task(3), given=[(9, 9)])
    with pytest.raises(TokensError, match="no position 'END'"):
        Workbench(load(make_llama()), make_task(3), where=Where("END"))
    second = Workbench(load(make_llama()), make_task(3), given=[(0, 0)])
    with pytest.raises(TokensError, match="method exact for a second pass"):
        second.estimate_pieces("gradient", "zero")
