"""Gates from a head table: reduced over query heads, refused where a column does not mean one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from probe.errors import ResultsError
from probe.exports.gates import CAN_GATE, NEAR, as_column, gates
from probe.table import HeadTable


def changed(table: HeadTable, **columns: object) -> HeadTable:
    return HeadTable(table.frame.assign(**columns), {}, table.metadata)


def test_a_group_takes_its_neediest_head_or_the_mean(small: HeadTable):
    most, mean = gates(small, "retrieval"), gates(small, "retrieval", "mean")
    assert most.values.tolist() == [[0.05, 0.15], [0.25, 0.35], [0.45, 0.55]]
    np.testing.assert_allclose(mean.values, most.values - 0.025)
    assert most.group == 2
    assert most.notes == ("2 query heads read one key/value head; its gate is the max of theirs",)


def test_heads_with_caches_of_their_own_are_not_reduced(small: HeadTable):
    alone = changed(small, kv_head=small.frame["head"])
    found = gates(alone, "retrieval")
    assert found.values.shape == (3, 4)
    assert found.notes == ()


def test_what_is_outside_is_clipped_and_counted(small: HeadTable):
    found = gates(small, "streaming_error")
    assert found.values.max() == 1.0
    outside = int((small.frame["streaming_error"].to_numpy().reshape(3, 2, 2).max(-1) > 1).sum())
    assert outside > 0
    assert found.notes[-1] == f"{outside} of 6 gates were outside 0 … 1 and are clipped"


@pytest.mark.parametrize("column", ["sink_first"])
def test_the_opposite_direction_is_refused(small: HeadTable, column: str):
    with pytest.raises(ResultsError, match="sink_first cannot be a gate: it is high where sinks and a window suffice"):
        gates(small, column)


def test_other_units_are_refused_with_what_can_be_chosen(small: HeadTable, effect_table: HeadTable):
    with pytest.raises(ResultsError, match=r"entropy cannot be a gate: in nats.*choose .*retrieval"):
        gates(small, "entropy")
    with pytest.raises(ResultsError, match=r"ablation_ioi cannot be a gate: in logits"):
        gates(effect_table, "ablation_ioi")
    with pytest.raises(ResultsError, match="no column 'x' in this table"):
        gates(small, "x")
    with pytest.raises(ResultsError, match="unknown reduction 'sum'; known are max, mean"):
        gates(small, "retrieval", "sum")


def test_no_metric_is_both(head_table: HeadTable):
    assert not set(CAN_GATE) & set(NEAR)
    assert {"induction", "streaming_error", *NEAR} - {"sink_learned"} <= set(head_table.metrics) | {"sink_learned"}


def test_undefined_heads_are_named(small: HeadTable):
    holes = small.frame["retrieval"].where(small.frame.index > 3)
    with pytest.raises(ResultsError, match="not defined for L0H0, L0H1, L0H2 and 1 more"):
        gates(changed(small, retrieval=holes), "retrieval")


def test_a_column_of_the_callers_own_must_look_like_gates(small: HeadTable):
    assert gates(changed(small, mine=0.25), "mine").values.tolist() == [[0.25, 0.25]] * 3
    assert gates(changed(small, mine=-0.0014), "mine").values.tolist() == [[0.0, 0.0]] * 3
    with pytest.raises(ResultsError, match="mine cannot be a gate: it goes from -3 to -3"):
        gates(changed(small, mine=-3.0), "mine")


def test_encoders_have_no_cache(small: HeadTable, encoder: HeadTable):
    with pytest.raises(
        ResultsError, match="a decoder's self-attention; this table has 12 encoder self-attention heads"
    ):
        gates(encoder, "retrieval")
    both = HeadTable(pd.concat([small.frame, encoder.frame], ignore_index=True), {}, small.metadata)
    found = gates(both, "retrieval")
    assert found.values.tolist() == gates(small, "retrieval").values.tolist()
    assert found.notes[0] == "left out, as they have no cache to keep: 12 encoder self-attention heads"


def test_layers_without_attention_are_not_made_up(small: HeadTable):
    with pytest.raises(ResultsError, match=r"has layers 0, 2, 4; a list of gates has a row for each"):
        gates(changed(small, layer=small.frame["layer"] * 2), "retrieval")


def test_a_table_that_is_no_grid_is_refused(small: HeadTable):
    for wrong in (small.frame.iloc[:-1], small.frame.iloc[::-1], small.frame.assign(kv_head=0, head=0)):
        with pytest.raises(ResultsError, match="no whole grid"):
            gates(HeadTable(wrong.reset_index(drop=True), {}, small.metadata), "retrieval")


def test_gates_join_a_table_as_a_column(small: HeadTable):
    values = gates(small, "retrieval").values
    joined = small.with_columns(as_column(values, 4))
    assert joined.frame["duo_gate"].tolist()[:4] == [0.05, 0.05, 0.15, 0.15]
    assert gates(joined, "duo_gate").values.tolist() == values.tolist()
    with pytest.raises(ResultsError, match="3 layers of 2 gates cannot serve 3 layers of 5 heads"):
        as_column(values, 5)
    with pytest.raises(ResultsError, match="cannot serve 2 layers"):
        as_column(values, 4, layers=(3, 7))
    assert as_column(values, 4, layers=(3, 7, 11))["layer"].unique().tolist() == [3, 7, 11]
