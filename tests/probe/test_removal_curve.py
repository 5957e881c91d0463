from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from probe.analyses.removal_curve import RemovalCurve
from probe.errors import ResultsError
from probe.statistics import bootstrap

COLUMNS = ["criterion", "order", "draw", "k", "share", "prompt", "value"]


def path(values: dict[int, list[float]], order: str = "ranked", draw: int = 0, criterion: str = "c") -> list[tuple]:
    """Rows of one path: k → the value of each prompt, of 10 heads."""
    return [
        (criterion, order, draw, k, k / 10, prompt, value)
        for k, row in values.items()
        for prompt, value in enumerate(row)
    ]


def frame(*paths: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame([row for part in paths for row in part], columns=COLUMNS)


def test_summary_has_the_mean_and_interval_of_every_point() -> None:
    values = {0: [4.0, 6.0, 5.0], 2: [2.0, 4.0, 0.0]}
    points = RemovalCurve(frame(path(values))).summary(seed=1)
    assert points[["order", "k", "share", "value"]].values.tolist() == [
        ["ranked", 0, 0.0, 5.0],
        ["ranked", 2, 0.2, 2.0],
    ]
    expected = bootstrap(np.array([values[0], values[2]]).T, seed=1)
    assert points["value_low"].tolist() == expected.low.tolist()
    assert points["value_high"].tolist() == expected.high.tolist()


def test_random_bounds_are_the_range_of_the_draws() -> None:
    drawn = [path({0: [5.0, 5.0], 4: [level, level + 1]}, "random", draw) for draw, level in enumerate((1.0, 2.0, 6.0))]
    points = RemovalCurve(frame(path({0: [5.0, 5.0], 4: [0.0, 0.0]}), *drawn)).summary()
    last = points[(points["order"] == "random") & (points["k"] == 4)].iloc[0]
    assert (last["value"], last["value_low"], last["value_high"]) == (3.5, 1.5, 6.5)


def test_area_is_the_trapezoid_over_the_span() -> None:
    curve = RemovalCurve(
        frame(
            path({0: [4.0, 4.0], 1: [2.0, 2.0], 5: [0.0, 0.0]}),
            path({0: [4.0, 4.0], 1: [4.0, 4.0], 5: [4.0, 4.0]}, "reversed"),
        )
    )
    areas = curve.area()
    assert areas["order"].tolist() == ["ranked", "reversed"]
    # (4 + 2)/2 · 0.1 + (2 + 0)/2 · 0.4 = 0.7 over a span of 0.5; a path without loss has the clean score.
    np.testing.assert_allclose(areas["area"], [1.4, 4.0], rtol=1e-12)
    assert areas["to"].tolist() == [0.5, 0.5]
    assert areas["area_low"][1] == areas["area_high"][1]


def test_area_has_the_interval_of_the_prompts_areas() -> None:
    values = {0: [4.0, 6.0, 5.0, 1.0], 3: [2.0, 4.0, 0.0, 9.0]}
    areas = RemovalCurve(frame(path(values))).area(seed=2)
    each = (np.array(values[0]) + np.array(values[3])) / 2
    expected = bootstrap(each[:, None], seed=2)
    np.testing.assert_allclose(areas[["area", "area_low", "area_high"]].iloc[0].astype(float),
                               [expected.mean[0], expected.low[0], expected.high[0]], rtol=1e-12)  # fmt: skip


def test_groups_are_drawn_together() -> None:
    values = {0: [4.0, 6.0, 5.0, 1.0], 3: [2.0, 4.0, 0.0, 9.0]}
    expected = bootstrap(np.array(values[3])[:, None], groups=["a", "a", "b", "b"], seed=0)
    points = RemovalCurve(frame(path(values)), groups=["a", "a", "b", "b"]).summary()
    assert (points["value_low"][1], points["value_high"][1]) == (expected.low[0], expected.high[0])


def test_a_criterion_that_knows_has_a_small_ranked_and_a_large_reversed_area(
    make_curve: Callable[..., RemovalCurve],
) -> None:
    areas = make_curve(("good", "worse")).area().set_index(["criterion", "order"])["area"]
    for criterion in ("good", "worse"):
        assert areas[criterion, "ranked"] < areas[criterion, "random"] < areas[criterion, "reversed"]
    assert areas["good", "ranked"] < areas["worse", "ranked"]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (frame(path({0: [1.0], 1: [1.0]})).drop(columns="share"), "without share"),
        (frame(path({0: [1.0], 1: [1.0]}, "sorted")), "'sorted' order; wanted one of ranked, reversed, random"),
        (frame(path({0: [1.0], 1: [np.nan]})), "a value missing or twice"),
        (frame(path({0: [1.0], 1: [1.0]}), path({1: [2.0]})), "a value missing or twice"),
        (frame(path({1: [1.0], 2: [1.0]})), "c ranked 0: wanted k = 0"),
        (frame(path({0: [1.0]})), "at least one k more"),
        (frame(path({0: [1.0], 1: [1.0]})).assign(share=0.0), "one share of heads for every k"),
        (frame(path({0: [1.0, 2.0], 1: [1.0]})), "measured on other prompts"),
    ],
)  # fmt: skip
def test_what_is_no_set_of_whole_paths_is_refused(rows: pd.DataFrame, complaint: str) -> None:
    with pytest.raises(ResultsError, match=complaint):
        RemovalCurve(rows)
