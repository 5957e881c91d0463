"""The few lines printed at the end: the right heads in the right order, and loud where nothing was found."""

from __future__ import annotations

import pandas as pd
import pytest

from probe.analyses.retrieval_result import RetrievalResult, no_ablation
from probe.commands.summary import heads_by_role, retrieval_lines, retrieval_summary, role_lines


def result(usable, ablation=None):
    heads = pd.DataFrame({"layer": [0, 1, 2], "head": [3, 0, 1], "retrieval": [0.25, 0.75, 0.0]})
    for end in ("low", "high"):
        heads[f"retrieval_{end}"] = heads["retrieval"]
    trials = [
        {"index": i, "length": 64 if i < 6 else 128, "depth": 0.0, "usable": i < usable, "recall": i < 9}
        for i in range(12)
    ]
    return RetrievalResult(trials, heads, pd.DataFrame(), no_ablation() if ablation is None else ablation)


def test_retrieval_heads_best_first():
    found = retrieval_summary(result(12))
    assert [item["head"] for item in found["top"]] == ["L1H0", "L0H3"]
    assert found["recall"] == {"64": 1.0, "128": 0.5}
    lines = retrieval_lines(found)
    assert lines == [
        "needles: 12 of 12 trials usable; recall by length: 64 1.00, 128 0.50",
        "retrieval heads: L1H0 0.75, L0H3 0.25",
    ]


@pytest.mark.parametrize(
    ("usable", "said"), [(0, "NO TRIAL WAS USABLE"), (9, "not enough usable trials for a ranking: 9, wanted 10")]
)
def test_no_ranking_is_said_in_its_place(usable, said):
    lines = retrieval_lines(retrieval_summary(result(usable)))
    assert lines[-1].startswith(said)
    assert not any("retrieval heads" in line for line in lines)


def test_removal_is_told_beside_its_control():
    rows = [(0, "clean", 0, 1), (2, "top", 0, 0), (2, "random", 0, 1), (2, "random", 1, 0)]
    frame = pd.DataFrame(
        [dict(zip(("k", "arm", "draw", "recall"), row, strict=True)) | {"trial": 0} for row in rows]
    )
    lines = retrieval_lines(retrieval_summary(result(12, frame)))
    assert lines[-1] == (
        "recall 1.00 with all heads, 0.00 without the top 2, 0.50 without 2 random heads of the same layers"
    )


def test_roles_are_counted_and_ordered(head_table):
    roles = heads_by_role(head_table)
    frame = head_table.frame
    sinks = frame[[("sink" in named) for named in frame["roles"]]]
    best = sinks.loc[sinks["sink_first"].idxmax()]
    assert roles["sink"]["heads"] == len(sinks)
    assert roles["sink"]["top"][0]["head"] == f"L{best['layer']}H{best['head']}"
    local = [item["value"] for item in roles["local"]["top"]]
    assert local == sorted(local)
    assert len(role_lines(roles)) == len(roles)
    assert roles["retrieval"] == {"heads": 0, "metric": "retrieval", "top": []}
