"""A retrieval run's files: METRICS' names, readable, equal for equal runs."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from probe.analyses.retrieval_result import RetrievalResult, no_ablation, rank
from probe.formats import read_parquet


def result(usable):
    heads = pd.DataFrame(
        {"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "retrieval": [0.2, 0.9, 0.9, 0.0]}
    )
    trials = [
        {"index": i, "length": 64 * (1 + i % 2), "depth": 50.0, "usable": i < usable, "recall": i % 4 == 0}
        for i in range(12)
    ]
    per_trial = pd.DataFrame({"trial": [0], "layer": [0], "head": [1], "set": [float("nan")]})
    return RetrievalResult(trials, heads, per_trial, no_ablation(), {"model": "m", "value": float("nan")})


def test_ranking_breaks_ties_by_layer_and_head_and_leaves_out_zeros():
    assert rank(result(12).heads) == [(0, 1), (1, 0), (0, 0)]


@pytest.mark.parametrize(("usable", "ranked"), [(9, 0), (10, 3)])
def test_ten_usable_trials_make_a_ranking(usable, ranked):
    assert len(result(usable).ranked()) == ranked


def test_recall_by_length_and_depth():
    recall = result(12).recall()
    assert recall["length"].tolist() == [64, 128]
    assert recall["recall"].tolist() == [0.5, 0.0]


def test_saved_files_read_back(tmp_path):
    run = result(10)
    run.save(tmp_path / "out")
    folder = tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == [
        "ablation.parquet",
        "heads.parquet",
        "retrieval.parquet",
        "trials.jsonl",
    ]
    assert [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()] == run.trials
    heads, documents = read_parquet(folder / "heads.parquet")
    assert heads.equals(run.heads)
    assert documents["probe"] == {"model": "m", "value": None}
    per_trial, _ = read_parquet(folder / "retrieval.parquet")
    assert per_trial["set"].isna().all()
    ablation, _ = read_parquet(folder / "ablation.parquet")
    assert list(ablation.columns) == ["k", "arm", "draw", "trial", "recall"]
    assert ablation.empty


def test_equal_runs_write_equal_bytes(tmp_path):
    for name in ("a", "b"):
        result(10).save(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
