from __future__ import annotations

import html

import numpy as np
import pytest

from probe.errors import ResultsError
from probe.page.telling import names, telling
from probe.plots import profiles as plots
from probe.table import HeadTable
from probe.text import show_token


def test_offset_spectrum_draws_every_bin_of_the_head(head_table: HeadTable) -> None:
    figure = plots.offset_spectrum(head_table, [0, 100])
    assert figure.data[1].name == "L11H1"
    np.testing.assert_array_equal(figure.data[1].y, head_table.profiles["offset_mass"][11, 1])
    assert list(figure.data[0].x[:4]) == ["0", "1", "2–3", "4–7"]
    assert figure.data[0].x[-1] == "2048–4095"


def test_without_rows_one_head_a_behaviour_is_drawn(head_table: HeadTable) -> None:
    drawn = [line.name for line in plots.offset_spectrum(head_table).data]
    assert drawn[0] == f"{telling(head_table)[0].name} induction"
    assert len(drawn) == len({name.split(" ", 1)[1] for name in drawn}) > 4
    assert [line.name for line in plots.received(head_table).data] == drawn


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


def test_the_highest_peaks_carry_their_token_in_the_plot(head_table: HeadTable) -> None:
    tokens = [["The"] * 4096, ["A"] * 4096]
    for text in tokens:
        text[57] = "<b>comma"
    notes = plots.received(head_table, [0], tokens=tokens, named=3).layout.annotations
    assert len(notes) == 3
    assert (notes[0].text, notes[0].x) == ("&lt;b&gt;comma", pytest.approx(np.log10(58), abs=1e-12))
    assert notes[0].y == np.log10(float(head_table.profiles["received"][0, 0, 57]))
    assert {note.text for note in notes[1:]} == {"The / A"}  # the two sequences have another token there
    assert plots.received(head_table, [0], named=1).layout.annotations[0].text == "57"


def test_names_of_peaks_do_not_touch(head_table: HeadTable) -> None:
    notes = plots.received(head_table, [0, 3, 6], named=8).layout.annotations
    # Letters are 0.0085 of the axis wide, and a line 0.07 of its height.
    places = [(note.x / np.log10(4097), note.y / 5, 0.0085 * len(note.text) / 2) for note in notes]
    assert len(places) > 3
    for one, (x, y, half) in enumerate(places):
        assert x + half <= 1
        assert all(abs(x - other) > half + wide or abs(y - line) >= 0.07 for other, line, wide in places[:one])


def test_positions_that_few_queries_see_are_not_named(head_table: HeadTable) -> None:
    profile = head_table.profiles["received"].copy()
    profile[0, 0, 4080] = 0.9
    one = HeadTable(head_table.frame, {**head_table.profiles, "received": profile}, head_table.metadata)
    figure = plots.received(one, [0], named=3)
    assert max(figure.data[0].y[1:]) == np.float32(0.9)
    assert figure.layout.annotations[0].text == "57"


def test_thumbnails_are_the_maps_on_a_logarithmic_scale(head_table: HeadTable) -> None:
    figure = plots.thumbnails(head_table, [4, 7])
    assert [note.text for note in figure.layout.annotations] == ["L0H4", "L0H7"]
    drawn = np.asarray(figure.data[0].z)
    kept = head_table.profiles["thumbnail"][0, 4]
    np.testing.assert_allclose(10 ** drawn[kept > 1e-4], kept[kept > 1e-4], rtol=1e-5)
    assert drawn[kept <= 1e-4].max() == -4
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-4, 0)
    assert figure.layout.coloraxis.colorscale[0] == (0, "rgb(255,255,255)")
    assert figure.layout.yaxis2.autorange == "reversed"
    assert len(plots.thumbnails(head_table).data) == plots.PICTURES


def test_missing_profiles_are_refused(head_table: HeadTable) -> None:
    bare = HeadTable(head_table.frame, {}, {})
    for draw in (plots.received, plots.offset_spectrum, plots.thumbnails):
        name = "thumbnail" if draw is plots.thumbnails else "(received|offset_mass)"
        with pytest.raises(ResultsError, match=f"no profile '{name}'"):
            draw(bare, [0])
        with pytest.raises(ResultsError, match=f"no profile '{name}'"):
            draw(bare)
    with pytest.raises(ResultsError, match="thumbnails of no head"):
        plots.thumbnails(head_table, [])


def test_figures_of_one_table_are_equal_bytes(head_table: HeadTable) -> None:
    first, second = (plots.received(head_table, [3, 4]).to_json() for _ in range(2))
    assert first == second
    assert names(head_table.frame)[3] in first
