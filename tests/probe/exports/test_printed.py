"""The cells that LaTeX and Markdown share."""

from __future__ import annotations

import pytest

from probe.errors import ResultsError
from probe.exports.printed import printed
from probe.exports.request import Asked
from probe.table import HeadTable


def test_cells_hold_value_and_interval(small: HeadTable):
    page = printed(small, Asked(("retrieval", "sink_learned", "roles"), top=2))
    assert page.header == ("head", "retrieval", "sink_learned", "roles")
    assert page.words == (True, False, False, True)
    assert page.body[0][:3] == ("L2H3", "0.55 [0.50, 0.61]", "n/a")
    assert page.title == "Attention heads of small: the 2 of 12 with the highest retrieval."
    assert page.notes[-1] == "In brackets: 95 % interval."
    assert page.notes[0].startswith("retrieval: Retrieval score, distinct answer tokens")


def test_all_heads_are_said_to_be_all(small: HeadTable):
    page = printed(small, Asked(("entropy",)))
    assert len(page.body) == 12
    assert page.title.endswith("all 12.")


def test_an_effect_has_its_corrected_p_beside_it(effect_table: HeadTable):
    page = printed(effect_table, Asked(("ablation_ioi",), top=1))
    assert page.header == ("head", "ablation_ioi", "ablation_ioi, q")
    assert page.body[0][0] == "L18H6"
    assert 0 < float(page.body[0][2]) < 0.05
    assert page.notes[-1].startswith("q: p-value corrected")


def test_encoders_and_cross_attention_are_named(encoder: HeadTable):
    cross = HeadTable(encoder.frame.assign(kind="cross"), {}, encoder.metadata)
    assert printed(cross, Asked(("entropy",))).body[0][0] == "EL0H0 (cross)"


def test_columns_are_wanted(small: HeadTable):
    with pytest.raises(ResultsError, match="choose with --column"):
        printed(small, Asked())
    with pytest.raises(ResultsError, match="no column 'x'"):
        printed(small, Asked(("x",)))
