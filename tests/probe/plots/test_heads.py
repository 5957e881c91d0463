from __future__ import annotations

import numpy as np
import pytest

from probe.errors import ResultsError
from probe.plots import heads as plots
from probe.table import HeadTable


def test_head_map_has_heads_on_x_and_layer_0_on_top(head_table: HeadTable) -> None:
    figure = plots.head_map(head_table, "sink_first")
    heat = figure.data[0]
    expected = head_table.frame["sink_first"].to_numpy().reshape(30, 9)
    assert (np.asarray(heat.z) == expected).all()
    assert list(heat.x) == list(range(9))
    assert list(heat.y) == list(range(30))
    assert figure.layout.yaxis.range == (29.5, -0.5)
    row = head_table.frame.iloc[9 * 4 + 7]
    assert heat.text[4][7].startswith("<b>L4H7</b><br>sink_first ")
    assert all(role in heat.text[4][7] for role in row["roles"])


def test_table_plot_is_the_map_of_its_first_metric(head_table: HeadTable) -> None:
    assert head_table.plot().to_json() == plots.head_map(head_table, "sink_first").to_json()
    assert (np.asarray(head_table.plot("entropy").data[0].z) > 1).any()


def test_signed_metrics_are_centred_on_zero() -> None:
    values = np.array([[[-0.2, 0.6]]]).repeat(2, 0)
    heat = plots.head_map(HeadTable.build({"ablation_ioi": values}, {}, {}, kv_heads=1), "ablation_ioi").data[
        0
    ]
    assert (heat.zmin, heat.zmax) == (-0.6, 0.6)


def test_unknown_metrics_are_refused(head_table: HeadTable) -> None:
    with pytest.raises(ResultsError, match=r"no metric 'sink_frist'.*sink_first"):
        plots.head_map(head_table, "sink_frist")
    with pytest.raises(ResultsError, match="no metric 'copies'"):
        plots.ranked(head_table, "sink_first", control="copies")


def test_a_title_says_the_metric_and_the_model_as_text(head_table: HeadTable) -> None:
    title = plots.head_map(head_table, "sink_learned").layout.title.text
    assert title.startswith("<b>Attention on a learned sink logit</b>")
    assert "of invented-30x9 &lt;b&gt;not a model&lt;/b&gt;; sand: not defined" in title
    assert "sand" not in plots.head_map(head_table, "sink_first").layout.title.text


def test_heads_told_from_zero_are_marked_by_sign(effect_table: HeadTable) -> None:
    frame = effect_table.frame
    figure = plots.head_map(effect_table, "ablation_ioi")
    marks = figure.data[1]
    drawn = {(y, x): symbol for y, x, symbol in zip(marks.y, marks.x, marks.marker.symbol, strict=True)}
    passed = frame[frame["ablation_ioi_q"] < 0.05]
    assert set(drawn) == set(zip(passed["layer"], passed["head"], strict=True))
    assert (drawn[18, 6], drawn[25, 1]) == ("triangle-up", "triangle-down")
    assert marks.showlegend
    assert marks.name == "q < 0.05 (▲ above 0, ▼ below)"
    assert "q = 0.00" in figure.data[0].text[18][6]


def test_without_a_q_an_interval_marks_only_what_can_be_negative(head_table: HeadTable) -> None:
    values = np.array([[[-0.2, 0.6, 0.01]], [[-0.3, 0.7, -0.01]]])
    one = HeadTable.build({"ablation_ioi": values}, {}, {}, kv_heads=1)
    marks = plots.head_map(one, "ablation_ioi").data[1]
    assert list(marks.x) == [0, 1]
    assert list(marks.marker.symbol) == ["triangle-down", "triangle-up"]
    assert marks.marker.color == "white"
    assert "not corrected" in marks.name
    nothing = plots.head_map(head_table, "sink_first").data[1]
    assert (len(nothing.x), nothing.showlegend) == (0, False)


def test_ranked_is_ordered_with_its_intervals(head_table: HeadTable) -> None:
    points = plots.ranked(head_table, "induction_random", 5).data[0]
    frame = head_table.frame.sort_values("induction_random", ascending=False).head(5)
    assert list(points.x) == frame["induction_random"].tolist()
    assert list(points.y) == [f"L{row.layer}H{row.head}" for row in frame.itertuples()]
    high = np.asarray(points.x) + np.asarray(points.error_x.array)
    # One addition and one subtraction of numbers below 1.
    np.testing.assert_allclose(high, frame["induction_random_high"], atol=1e-15)


def test_figures_of_one_table_are_equal_bytes(head_table: HeadTable) -> None:
    first, second = (plots.head_map(head_table, "entropy").to_json() for _ in range(2))
    assert first == second


def test_the_hover_names_the_tokens_of_the_strongest_pair(head_table: HeadTable) -> None:
    shape = (30, 9, 2)
    pairs = {"pair_query": np.full(shape, 5), "pair_key": np.full(shape, 2), "pair_weight": np.full(shape, 0.75)}
    pairs["pair_query"][0, 1] = -1
    kept = head_table.with_profiles(pairs, {})
    tokens = [["a", "b", "<i>", "c", "d", " e"]]
    text = plots.head_map(kept, "entropy", tokens).data[0].text
    assert text[0][0].endswith("<br>strongest: ␣e (5) → &lt;i&gt; (2), weight 0.75")
    assert "strongest" not in text[0][1]
    assert plots.ranked(kept, "entropy", 1).data[0].text[0].endswith("strongest: 5 → 2, weight 0.75")
