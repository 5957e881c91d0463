"""Which rows and columns an export takes."""

from __future__ import annotations

import numpy as np
import pytest

from probe.errors import ResultsError
from probe.exports.request import Asked, check_columns, chosen, one_column
from probe.table import HeadTable


def test_everything_is_taken_where_nothing_is_asked(small: HeadTable):
    assert list(chosen(small, Asked())) == list(small.frame)
    assert len(chosen(small, Asked())) == 12


def test_a_metric_comes_with_what_stands_beside_it(small: HeadTable):
    frame = chosen(small, Asked(("retrieval", "sink_learned")))
    assert list(frame) == [
        "stack", "kind", "layer", "head", "kv_head", "retrieval", "retrieval_low", "retrieval_high", "sink_learned",
        "sink_learned_low", "sink_learned_high", "n_sink_learned", "roles",
    ]  # fmt: skip


def test_the_highest_come_first_and_undefined_ones_last(small: HeadTable):
    holes = small.frame.copy()
    holes.loc[11, "retrieval"] = np.nan
    frame = chosen(HeadTable(holes, {}, small.metadata), Asked(("retrieval",), top=3))
    assert list(zip(frame["layer"], frame["head"], strict=True)) == [(2, 2), (2, 1), (2, 0)]
    assert list(frame.index) == [0, 1, 2]
    assert np.isnan(chosen(HeadTable(holes, {}, small.metadata), Asked(("retrieval",), top=12))["retrieval"][11])


def test_ties_keep_the_order_of_the_table(small: HeadTable):
    level = HeadTable(small.frame.assign(retrieval=0.5), {}, small.metadata)
    frame = chosen(level, Asked(("retrieval",), top=2))
    assert list(frame["head"]) == [0, 1]


def test_an_unknown_column_is_refused_by_name(small: HeadTable):
    with pytest.raises(ResultsError, match=r"no column 'attention'.*retrieval, roles"):
        chosen(small, Asked(("attention",)))
    with pytest.raises(ResultsError, match="no column 'retrieval_low'"):
        check_columns(small, ("retrieval_low",))


@pytest.mark.parametrize("asked", [Asked(top=3), Asked(("roles",), top=3), Asked(("retrieval",), top=0)])
def test_a_top_without_a_metric_or_heads_is_refused(small: HeadTable, asked: Asked):
    with pytest.raises(ResultsError, match="--top"):
        chosen(small, asked)


@pytest.mark.parametrize("columns", [(), ("retrieval", "induction"), ("roles",)])
def test_a_form_of_one_metric_wants_one(small: HeadTable, columns: tuple[str, ...]):
    with pytest.raises(ResultsError, match="choose one --column of"):
        one_column(small, Asked(columns), "a list")
    assert one_column(small, Asked(("induction",)), "a list") == "induction"
