from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from probe.analyses.effect_columns import column_names, summary, with_effects
from probe.analyses.effects import Effects
from probe.analyses.units import Unit
from probe.errors import ResultsError
from probe.statistics import bootstrap, sign_flip_p
from probe.table import HeadTable


def test_names_are_short_until_they_would_meet(make_effects: Callable[..., Effects]) -> None:
    exact, gradient = make_effects(), make_effects("gradient")
    assert column_names([exact, gradient]) == ["ablation_ioi", "attribution_ioi"]
    zero = replace(exact, mode="zero")
    assert column_names([exact, zero, gradient]) == [
        "ablation_ioi@mean.exact", "ablation_ioi@zero.exact", "attribution_ioi",
    ]  # fmt: skip
    assert column_names([exact, replace(zero, task="mcq")]) == ["ablation_ioi", "ablation_mcq"]
    with pytest.raises(ResultsError, match="task ioi, mode mean, method exact is there twice"):
        column_names([exact, gradient, exact])


def test_summary_is_the_statistics_of_each_unit(make_effects: Callable[..., Effects]) -> None:
    effects = make_effects(prompts=10)
    numbers = summary(effects, seed=3)
    spread = bootstrap(effects.effect.T, seed=3)
    assert numbers["effect"].tolist() == spread.mean.tolist()
    assert numbers["effect_low"].tolist() == spread.low.tolist()
    assert numbers["effect_p"].tolist() == sign_flip_p(effects.effect.T, seed=3).tolist()
    first = numbers.set_index("name").loc["L18H6"]
    # Ten prompts that agree: p = 2/1024. Six heads were invented so strong; six times that over 270 tests is the most
    # that q can be for them, and no q is below its p.
    assert first["effect_p"] == 2 / 1024
    assert first["effect_p"] <= first["effect_q"] <= 2 / 1024 * 270 / 6
    assert first["effect_low"] < 1.9 < first["effect_high"]


def test_groups_reach_interval_and_p(make_effects: Callable[..., Effects]) -> None:
    effects = make_effects(prompts=16)
    alone, grouped = summary(effects), summary(effects, groups=["a", "b", "c", "d"] * 4)
    assert grouped["effect"].tolist() == alone["effect"].tolist()
    assert grouped["effect_p"].min() == 2 / 16
    assert (grouped["effect_low"] != alone["effect_low"]).any()


def test_columns_are_in_the_table_and_survive_the_files(
    effect_table: HeadTable, ablation_study: Any, tmp_path: Any
) -> None:
    frame = effect_table.frame
    assert effect_table.metrics == ["ablation_ioi", "attribution_ioi"]
    beside = ["ablation_ioi", "ablation_ioi_low", "ablation_ioi_high", "ablation_ioi_p", "ablation_ioi_q"]
    assert list(frame)[5:10] == beside
    assert frame["ablation_ioi"].idxmax() == 18 * 9 + 6
    assert frame["kv_head"][18 * 9 + 6] == 2
    assert effect_table.metadata["effects"]["attribution_ioi"]["method"] == "gradient"
    assert effect_table.metadata["effects"]["ablation_ioi"]["metric"] == "logit_diff"
    effect_table.save(tmp_path)
    again = HeadTable.load(tmp_path)
    assert again.frame.equals(frame)
    assert again.metrics == effect_table.metrics


def test_a_scan_keeps_its_columns(head_table: HeadTable, ablation_study: Any) -> None:
    joined = with_effects(head_table, ablation_study.effects[:1], {"ioi": ablation_study.task})
    assert joined.metrics == [*head_table.metrics, "ablation_ioi"]
    assert joined.frame["sink_first"].equals(head_table.frame["sink_first"])


def test_heads_that_were_not_measured_are_empty_and_counted(
    make_effects: Callable[..., Effects], ablation_study: Any
) -> None:
    some = make_effects("hybrid", measured=12)
    table = HeadTable.of_heads(range(30), 9, {}, kv_heads=3)
    frame = with_effects(table, [some], {"ioi": ablation_study.task}).frame
    assert frame["ablation_ioi"].notna().sum() == 12
    assert sorted(set(frame["n_ablation_ioi"])) == [0, 64]
    # METRICS corrects for all heads of the table: of twelve with the smallest p-value, q is 270/12 of it.
    assert frame["ablation_ioi_q"].min() >= frame["ablation_ioi_p"].min() * 270 / 12


def test_a_subset_of_heads_leaves_the_others_empty(make_effects: Callable[..., Effects], ablation_study: Any) -> None:
    whole = make_effects()
    part = replace(whole, units=whole.units[9:18], ablated=whole.ablated[9:18])
    table = HeadTable.of_heads(range(30), 9, {}, kv_heads=3)
    frame = with_effects(table, [part], {"ioi": ablation_study.task}).frame
    assert list(frame.index[frame["ablation_ioi"].notna()]) == list(range(9, 18))
    assert frame["n_ablation_ioi"].tolist() == [0] * 9 + [64] * 9 + [0] * 252


def test_groups_and_layers_are_no_columns_and_strangers_are_refused(
    make_effects: Callable[..., Effects], ablation_study: Any
) -> None:
    table, tasks = HeadTable.of_heads(range(3), 9, {}, kv_heads=3), {"ioi": ablation_study.task}
    whole = make_effects()
    layer = replace(whole, units=(Unit("L0", "layer", ((0, 0), (0, 1))),), ablated=whole.ablated[:1])
    assert with_effects(table, [layer], tasks).metrics == []
    with pytest.raises(ResultsError, match="effects of L3H0, which the table does not have"):
        with_effects(table, [whole], tasks)


def test_infinite_effects_are_refused_by_name(make_effects: Callable[..., Effects]) -> None:
    bad = replace(make_effects(prompts=4), clean=np.array([np.inf, 1, 1, 1]))
    with pytest.raises(ResultsError, match="ioi, mean, exact: infinite"):
        summary(bad)
