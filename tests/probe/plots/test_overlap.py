from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from probe.analyses.overlap import Overlap
from probe.circuits.circuit import Circuit
from probe.plots.overlap import overlap_map, overlap_matrix, pair_table, score_scatter
from probe.statistics import benjamini_hochberg


@pytest.fixture
def two(several_circuits: tuple[Circuit, ...]) -> tuple[Circuit, Circuit]:
    return several_circuits[0], several_circuits[1]


def test_each_head_is_in_one_both_or_neither(two: tuple[Circuit, Circuit]) -> None:
    a, b = two
    heat, *marks = overlap_map(a, b).data
    mine, theirs = set(a.heads), set(b.heads)
    grid = np.asarray(heat.z)
    for layer in range(30):
        for head in range(9):
            assert grid[layer, head] == ((layer, head) in mine) + 2 * ((layer, head) in theirs)
    shared = next(mark for mark in marks if mark.text == "●")
    assert {(y, x) for x, y in zip(shared.x, shared.y, strict=True)} == mine & theirs
    names = [trace.name for trace in marks if trace.name]
    assert names == [
        f"only ioi (A): {len(mine - theirs)}", f"only greater_than (B): {len(theirs - mine)}",
        f"both (●): {len(mine & theirs)}",
    ]  # fmt: skip


def test_colours_of_the_map_change_only_at_whole_numbers(two: tuple[Circuit, Circuit]) -> None:
    scale = overlap_map(*two).data[0].colorscale
    assert len(scale) == 8
    assert [stop[0] for stop in scale] == [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1]


def test_every_head_has_a_point_of_its_kind(two: tuple[Circuit, Circuit]) -> None:
    a, b = two
    traces = score_scatter(a, b).data
    assert sum(len(trace.x) for trace in traces) == 270
    both = traces[3]
    assert sorted(both.x) == sorted(a.score_of(head) for head in set(a.heads) & set(b.heads))
    assert len({trace.marker.symbol for trace in traces}) == 4


def test_pairs_are_corrected_for_their_number(several_overlaps: tuple[Overlap, ...]) -> None:
    pairs = pair_table(several_overlaps)
    np.testing.assert_array_equal(pairs["q"], benjamini_hochberg(np.array([one.p_value for one in several_overlaps])))
    assert pairs["shared"].tolist() == [len(one.shared) for one in several_overlaps]


def test_the_matrix_has_both_denominators_and_marks(several_overlaps: tuple[Overlap, ...]) -> None:
    pairs = pair_table(several_overlaps)
    tasks = ["ioi", "greater_than", "induction"]
    figure = overlap_matrix(pairs.assign(q=[0.01, 0.2, 0.2]), tasks)
    cells = {(note.y, note.x): note.text for note in figure.layout.annotations}
    row = pairs.iloc[0]
    assert cells["ioi", "greater_than"] == f"<b>{row['shared']}</b> of {row['size_a']} *"
    assert cells["greater_than", "ioi"] == f"<b>{row['shared']}</b> of {row['size_b']} *"
    assert not cells["ioi", "induction"].endswith("*")
    assert cells["induction", "induction"] == f"{pairs['size_b'].iloc[2]} heads"
    grid = np.asarray(figure.data[0].z)
    assert grid[0, 1] == row["shared"] / row["size_a"]
    assert np.isnan(np.diag(grid)).all()


def test_a_pair_that_was_not_compared_is_blank(several_overlaps: tuple[Overlap, ...]) -> None:
    figure = overlap_matrix(pair_table(several_overlaps[:1]), ["ioi", "greater_than", "induction"])
    cells = {(note.y, note.x): note.text for note in figure.layout.annotations}
    assert cells["ioi", "induction"] == cells["induction", "induction"] == ""


def test_names_of_tasks_stay_text(make_circuit: Callable[..., Circuit], several_overlaps: tuple[Overlap, ...]) -> None:
    task = "<b>x</b>"
    shown = [trace.name or "" for trace in overlap_map(make_circuit(task), make_circuit("ioi")).data]
    pairs = pair_table(several_overlaps[:1]).assign(a=task)
    shown += list(overlap_matrix(pairs, [task, "greater_than"]).data[0].x)
    assert not any("<b>x" in text for text in shown)
    assert "&lt;b&gt;x&lt;/b&gt;" in shown
