"""Heads matched by name and by what they do; the control says how good a match is by chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from probe.columns import KEYS
from probe.comparisons.matching import match, tells_apart
from probe.errors import ResultsError
from probe.table import HeadTable

METRICS = ("sink_first", "previous_token", "entropy", "distance", "induction_random", "local_mass")


def reordered(table: HeadTable, order: np.ndarray) -> HeadTable:
    """The same values at other heads."""
    moved = table.frame.iloc[order].reset_index(drop=True)
    moved[list(KEYS)] = table.frame[list(KEYS)]
    return HeadTable(moved, {}, table.metadata)


def fewer(table: HeadTable, layers: int) -> HeadTable:
    kept = table.frame[table.frame["layer"] < layers].reset_index(drop=True)
    return HeadTable(kept, {}, table.metadata)


def test_same_heads_are_matched_by_name(head_table: HeadTable, make_table: Callable[..., HeadTable]) -> None:
    found = match(head_table, make_table(seed=5), METRICS)
    assert found.how == "name"
    np.testing.assert_array_equal(found.rows[:, 0], found.rows[:, 1])
    assert (found.alone_a, found.alone_b) == ((), ())
    assert len(found.control) == 270 * 269


def test_names_decide_not_the_order_of_rows(head_table: HeadTable) -> None:
    order = np.random.default_rng(0).permutation(270)
    turned = HeadTable(head_table.frame.iloc[order].reset_index(drop=True), {}, head_table.metadata)
    found = match(head_table, turned, METRICS)
    np.testing.assert_array_equal(order[found.rows[:, 1]], found.rows[:, 0])
    assert (found.distance == 0).all()
    assert (found.chance < 0.01).all()


def test_heads_that_changed_places_are_found_by_what_they_do(head_table: HeadTable) -> None:
    order = np.random.default_rng(1).permutation(270)
    found = match(head_table, reordered(head_table, order), METRICS, "behaviour")
    assert len(found.rows) == 270
    np.testing.assert_array_equal(order[found.rows[:, 1]], found.rows[:, 0])
    assert (found.distance == 0).all()
    assert (found.chance < 0.05).all()
    assert found.middle > 0.1


def test_a_smaller_model_is_matched_by_what_its_heads_do(head_table: HeadTable) -> None:
    small = fewer(head_table, 10)
    found = match(small, head_table, METRICS)
    assert found.how == "behaviour"
    assert found.rows.tolist() == [[row, row] for row in range(90)]
    assert found.alone_a == ()
    assert found.alone_b == tuple(range(90, 270))


def test_matches_are_mutual_and_nearest(head_table: HeadTable, make_table: Callable[..., HeadTable]) -> None:
    other = make_table(seed=3)
    found = match(head_table, other, METRICS, "behaviour")
    assert 0 < len(found.rows) < 270
    assert len(set(found.rows[:, 1])) == len(found.rows)
    both = np.concatenate([table.frame[list(METRICS)].to_numpy() for table in (head_table, other)])
    values = (both - both.mean(axis=0)) / both.std(axis=0)
    apart = np.sqrt(((values[:270, None] - values[None, 270:]) ** 2).mean(axis=-1))
    for (row, partner), distance in zip(found.rows, found.distance, strict=True):
        assert distance == pytest.approx(apart[row].min()) == pytest.approx(apart[:, partner].min())
    assert len(found.rows) + len(found.alone_a) == len(found.rows) + len(found.alone_b) == 270


def test_a_shuffled_table_is_matched_no_better_than_the_control(head_table: HeadTable) -> None:
    frame, rng = head_table.frame.copy(), np.random.default_rng(7)
    for name in METRICS:
        frame[name] = rng.permutation(frame[name].to_numpy())
    found = match(head_table, HeadTable(frame, {}, {}), METRICS, "behaviour")
    # Each pair is one more draw of the control: its share has mean 1/2, and 0.29 / √n around it.
    assert found.chance.mean() == pytest.approx(0.5, abs=4 * 0.29 / np.sqrt(len(found.rows)))


def test_the_control_is_seeded(head_table: HeadTable, make_table: Callable[..., HeadTable]) -> None:
    other = make_table(seed=3)
    one, same, another = (match(head_table, other, METRICS, "behaviour", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.control, same.control)
    assert not np.array_equal(one.control, another.control)
    np.testing.assert_array_equal(one.rows, another.rows)


def test_only_metrics_that_describe_every_head_are_used(head_table: HeadTable) -> None:
    frame = head_table.frame.copy()
    frame.loc[3, "entropy"] = np.nan
    frame["distance"] = 1.0
    frame["ablation_ioi"] = 0.5
    table = HeadTable(frame, {}, {})
    assert match(table, table, [*METRICS, "ablation_ioi"]).metrics == (
        "sink_first", "previous_token", "induction_random", "local_mass",
    )  # fmt: skip
    bare = match(table, table, ["ablation_ioi"])
    assert bare.metrics == ()
    assert np.isnan(bare.distance).all()
    assert np.isnan(bare.chance).all()
    assert np.isnan(bare.middle)


def test_rounding_tells_no_heads_apart(head_table: HeadTable) -> None:
    frame = head_table.frame.copy()
    frame["local_mass"] = 1 - 1e-7 * np.random.default_rng(0).random(270)
    table = HeadTable(frame, {}, {})
    assert "local_mass" not in match(table, table, METRICS).metrics
    assert tells_apart(np.array([0.5, 0.5001, np.nan]))
    assert not tells_apart(np.array([0.5, 0.5 + 1e-7]))
    assert not tells_apart(np.array([0.0, 0.0]))
    assert not tells_apart(np.array([np.nan]))


def test_what_cannot_be_matched_is_refused(head_table: HeadTable) -> None:
    small = fewer(head_table, 4)
    with pytest.raises(ResultsError, match="matched by 'likeness'; wanted auto, name or behaviour"):
        match(head_table, head_table, METRICS, "likeness")
    with pytest.raises(ResultsError, match="270 heads in 30 layers and 36 heads in 4 layers have no names in common"):
        match(head_table, small, METRICS, "name")
    with pytest.raises(ResultsError, match=r"2 metrics describe every head of both tables \(sink_first, entropy\)"):
        match(head_table, small, ("sink_first", "entropy"))
