"""A piece's name: one text for one piece, and back."""

from __future__ import annotations

import json
import pickle

import pytest

from probe.analyses.pieces import Piece
from probe.errors import ResultsError

PIECE = Piece("ioi", "mean", "ablated", ("L3H5", "L3H6"), (0, 64), {"phase": "both", "draw": 2})


def test_the_key_holds_every_field_and_no_order_of_writing():
    again = Piece("ioi", "mean", "ablated", ("L3H5", "L3H6"), (0, 64), {"draw": 2, "phase": "both"})
    assert again.key == PIECE.key
    assert again == PIECE
    assert len({again, PIECE}) == 1
    assert set(json.loads(PIECE.key)) == {"task", "mode", "kind", "units", "prompts", "parameters"}


@pytest.mark.parametrize(
    "other",
    [
        Piece("mcq", "mean", "ablated", ("L3H5", "L3H6"), (0, 64), {"phase": "both", "draw": 2}),
        Piece("ioi", "zero", "ablated", ("L3H5", "L3H6"), (0, 64), {"phase": "both", "draw": 2}),
        Piece("ioi", "mean", "gradient", ("L3H5", "L3H6"), (0, 64), {"phase": "both", "draw": 2}),
        Piece("ioi", "mean", "ablated", ("L3H6", "L3H5"), (0, 64), {"phase": "both", "draw": 2}),
        Piece("ioi", "mean", "ablated", ("L3H5", "L3H6"), (0, 63), {"phase": "both", "draw": 2}),
        Piece("ioi", "mean", "ablated", ("L3H5", "L3H6"), (0, 64), {"phase": "both", "draw": 3}),
    ],
)
def test_every_field_decides(other):
    assert other != PIECE


def test_a_piece_comes_back_from_its_key_and_from_another_process():
    assert Piece.from_key(json.loads(PIECE.key)) == PIECE
    assert pickle.loads(pickle.dumps(PIECE)) == PIECE


def test_parameters_are_what_json_holds():
    with pytest.raises(ResultsError, match="object cannot be written as JSON"):
        _ = Piece("ioi", "mean", "clean", (), (0, 1), {"model": object()}).key
