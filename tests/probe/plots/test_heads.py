from __future__ import annotations

import html

import numpy as np
import pytest

from probe.errors import ResultsError
from probe.plots import heads as plots
from probe.table import HeadTable
from probe.text import show_token


def test_head_map_has_heads_on_x_and_layer_0_on_top(head_table: HeadTable) -> None:
    figure = plots.head_map(head_table, "sink_first")
    heat = figure.data[0]
    expected = head_table.frame["sink_first"].to_numpy().reshape(30, 9)
    assert (np.asarray(heat.z) == expected).all()
    assert list(heat.x) == list(range(9))
    assert list(heat.y) == list(range(30))
    assert figure.layout.yaxis.autorange == "reversed"
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


def test_unknown_metric_and_missing_profile_are_refused(head_table: HeadTable) -> None:
    with pytest.raises(ResultsError, match=r"no metric 'sink_frist'.*sink_first"):
        plots.head_map(head_table, "sink_frist")
    with pytest.raises(ResultsError, match="no profile 'received'"):
        plots.received(HeadTable(head_table.frame, {}, {}), [0])


def test_ranked_is_ordered_with_its_intervals(head_table: HeadTable) -> None:
    points = plots.ranked(head_table, "induction_random", 5).data[0]
    frame = head_table.frame.sort_values("induction_random", ascending=False).head(5)
    assert list(points.x) == frame["induction_random"].tolist()
    assert list(points.y) == [f"L{row.layer}H{row.head}" for row in frame.itertuples()]
    high = np.asarray(points.x) + np.asarray(points.error_x.array)
    # One addition and one subtraction of numbers below 1.
    np.testing.assert_allclose(high, frame["induction_random_high"], atol=1e-15)


def test_offset_spectrum_draws_every_bin_of_the_head(head_table: HeadTable) -> None:
    figure = plots.offset_spectrum(head_table, [0, 100])
    assert figure.data[1].name == "L11H1"
    np.testing.assert_array_equal(figure.data[1].y, head_table.profiles["offset_mass"][11, 1])
    assert list(figure.data[0].x[:4]) == ["0", "1", "2–3", "4–7"]
    assert figure.data[0].x[-1] == "2048–4095"


def test_received_keeps_every_peak_and_names_its_tokens(
    head_table: HeadTable, token_text: list[list[str]]
) -> None:
    line = plots.received(head_table, [0], tokens=token_text).data[0]
    profile = head_table.profiles["received"][0, 0]
    assert len(line.x) < 400
    assert line.y[0] == profile[0]
    assert max(line.y[1:]) == profile[1:].max()
    place = list(line.x).index(58)
    assert line.text[place] == f"position 57: {html.escape(show_token(token_text[0][57]))}"


def test_scatter_has_one_point_a_head(head_table: HeadTable) -> None:
    assert len(plots.scatter(head_table, "sink_first", "entropy").data[0].x) == 270


def test_figures_of_one_table_are_equal_bytes(head_table: HeadTable) -> None:
    first, second = (plots.received(head_table, [3, 4]).to_json() for _ in range(2))
    assert first == second


def test_words_on_a_colour_can_be_read() -> None:
    assert plots.ink_on("#08306b") == plots.ink_on("#000000") == "white"
    assert plots.ink_on("#ffffff") == plots.ink_on("#E69F00") == plots.INK
    assert plots.ink_on("#767676") == "white"


def test_a_scale_has_a_colour_at_every_share() -> None:
    assert plots.colour_at(plots.SEQUENTIAL, 0) == "#f7fbff"
    assert plots.colour_at(plots.SEQUENTIAL, 2) == "#08306b"
    assert plots.colour_at([[0, "#000000"], [1, "#ff8000"]], 0.5) == "#804000"
