from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from probe.page.findings import findings, limits, uncertainty
from probe.table import HeadTable


def by_title(table: HeadTable, run: Any = None) -> dict[str, Any]:
    return {finding.title: finding for finding in findings(table, run)}


def test_counts_are_the_roles_of_the_table(head_table: HeadTable) -> None:
    found = by_title(head_table)
    for title, role in (
        ("First-token sinks", "sink"),
        ("Induction heads", "induction"),
        ("Idle heads", "idle"),
    ):
        assert found[title].figure == str(sum(role in roles for roles in head_table.frame["roles"]))
    best = head_table.frame["induction_random"].idxmax()
    row = head_table.frame.loc[best]
    assert found["Induction heads"].heads[0].startswith(f"L{row['layer']}H{row['head']}  ")
    assert "Not measured" in found["Retrieval heads"].text


def test_few_and_none_are_said(make_table: Callable[..., HeadTable]) -> None:
    assert "few" not in uncertainty(make_table(n=8))
    assert "few" in uncertainty(make_table(n=3))
    one = make_table(n=1)
    assert "no intervals" in uncertainty(one)
    assert "needs an interval" in by_title(one)["Local heads"].text
    assert any("One sequence" in line for line in limits(one, None, None))


def test_no_head_above_a_threshold_still_names_the_strongest() -> None:
    table = HeadTable.build({"sink_first": np.full((2, 1, 2), 0.1)}, {}, {"n_sequences": 2}, kv_heads=1)
    found = by_title(table)["First-token sinks"]
    assert found.figure == "0"
    assert found.text.startswith("None of 2 heads")
    assert found.heads[0].startswith("L0H0  0.10")
    assert "Not measured: induction_random" in by_title(table)["Induction heads"].text


def usable(run: Any, count: int) -> Any:
    trials = [{**trial, "usable": index < count} for index, trial in enumerate(run.trials)]
    return SimpleNamespace(trials=trials, heads=run.heads, ablation=run.ablation, metadata={})


def test_retrieval_says_what_its_trials_allow(head_table: HeadTable, retrieval_result: Any) -> None:
    table = head_table.with_columns(retrieval_result.heads)
    whole = by_title(table, retrieval_result)["Retrieval heads"]
    assert whole.figure == "12"
    assert "Removing the top 10 takes recall from" in whole.text
    assert "NO TRIAL WAS USABLE" in by_title(table, usable(retrieval_result, 0))["Retrieval heads"].text
    few = by_title(table, usable(retrieval_result, 9))["Retrieval heads"]
    assert few.text.startswith("Not enough: 9 of 40")
    assert few.heads == ()


def test_limits_name_empty_columns_and_what_is_missing(head_table: HeadTable) -> None:
    text = " ".join(limits(head_table, None, None))
    assert "left empty: sink_learned." in text
    assert "Token strings were not given" in text
    assert "No retrieval run" in text
