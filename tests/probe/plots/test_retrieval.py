from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from probe.plots import retrieval as plots_retrieval
from probe.plots.retrieval import curve, recalls


def run() -> Any:
    trials = [
        {"index": index, "length": 100 * (1 + index % 2), "depth": 50, "answer_ids": [index], "usable": True}
        for index in range(4)
    ]
    rows = [("clean", 0, 0, trial, 1.0) for trial in range(4)]
    rows += [("top", 2, 0, trial, float(trial % 2)) for trial in range(4)]
    rows += [("random", 2, draw, trial, float(trial > draw)) for draw in range(2) for trial in range(4)]
    frame = pd.DataFrame(rows, columns=["arm", "k", "draw", "trial", "recall"])
    return SimpleNamespace(trials=trials, ablation=frame, heads=pd.DataFrame(), metadata={})


def test_recall_is_averaged_by_length_with_an_interval() -> None:
    frame = recalls(run())
    points = curve(frame[frame["arm"] == "top"], "length")
    assert points["length"].tolist() == [100, 200]
    assert points["recall"].tolist() == [0.0, 1.0]
    assert points["recall_low"].tolist() == [0.0, 1.0]


def test_band_of_random_heads_is_the_range_of_their_draws() -> None:
    frame = recalls(run())
    points = curve(frame[frame["arm"] == "random"], "k")
    assert points.iloc[0].tolist() == [2, pytest.approx(0.625), 0.5, 0.75]


def test_trials_with_one_answer_are_no_independent_witnesses() -> None:
    one = run()
    for trial in one.trials:
        trial["answer_ids"] = [7]
    frame = recalls(one)
    assert curve(frame[frame["arm"] == "top"], "k")["recall_low"].isna().all()


def test_every_figure_names_its_arms(retrieval_result: Any) -> None:
    named = {trace.name for trace in plots_retrieval.recall_without(retrieval_result).data if trace.name}
    assert named == set(plots_retrieval.ARMS.values())
    lengths = plots_retrieval.recall_by_length(retrieval_result).layout.xaxis.ticktext
    assert list(lengths) == ["512", "1,024", "2,048", "4,096"]
    grid = plots_retrieval.recall_by_place(retrieval_result).data[0]
    assert (len(grid.y), len(grid.x)) == (5, 4)
    assert grid.text[0][0].endswith("n = 2")
