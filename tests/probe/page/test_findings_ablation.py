from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from probe.page.findings_ablation import ablation_findings, ablation_limits, ablation_uncertainty
from probe.studies.task_study import TaskStudy


def by_title(study: TaskStudy) -> dict[str, Any]:
    return {finding.title: finding for finding in ablation_findings(study)}


def test_heads_that_help_and_hurt_are_counted_with_evidence(ablation_study: TaskStudy) -> None:
    found, numbers = by_title(ablation_study), ablation_study.numbers[0]
    passed = numbers["effect_q"] < 0.05
    needed, against = found["Heads that ioi needs"], found["Heads that work against it"]
    assert needed.figure == str((passed & (numbers["effect"] > 0)).sum())
    assert against.figure == str((passed & (numbers["effect"] < 0)).sum())
    assert [head.split()[0] for head in needed.heads[:4]] == ["L18H6", "L20H3", "L17H2", "L12H8"]
    assert [head.split()[0] for head in against.heads[:2]] == ["L25H1", "L22H7"]
    assert "logit_diff falls (q < 0.05, corrected for all 270; by more than a tenth of 4.93: 3)" in needed.text
    assert "rises" in against.text


def test_nothing_passing_is_said_and_the_largest_still_named(make_study: Callable[..., TaskStudy]) -> None:
    study = make_study()
    nothing = replace(
        study.effects[0], ablated=study.effects[0].clean + np.random.default_rng(0).normal(size=(270, 64))
    )
    needed = by_title(make_study((nothing,)))["Heads that ioi needs"]
    assert needed.figure == "0"
    assert needed.text.startswith("None of 270 heads: with one of them removed, logit_diff falls")
    assert all(" q = " in head for head in needed.heads)


def test_too_few_prompts_decide_nothing(make_study: Callable[..., TaskStudy]) -> None:
    study = make_study(prompts=5)
    needed = by_title(study)["Heads that ioi needs"]
    assert needed.figure == "–"
    assert needed.text.startswith("Not decided: 5 prompts give no p-value below 0.062")
    assert "(few)" in by_title(study)["How well the model does ioi"].text
    assert any("5 prompts are few" in line for line in ablation_limits([study]))
    assert "5 prompts (few)" in ablation_uncertainty([study])[0]


def test_few_groups_are_few(make_study: Callable[..., TaskStudy]) -> None:
    study = make_study()
    grouped = tuple(replace(prompt, group=f"{index % 4}") for index, prompt in enumerate(study.task.prompts))
    study = replace(study, task=replace(study.task, prompts=grouped))
    assert "64 prompts in 4 groups (few)" in by_title(study)["How well the model does ioi"].text


def test_a_task_not_done_is_said_loudly(make_study: Callable[..., TaskStudy]) -> None:
    unable = make_study(right=0.5)
    assert "NO BETTER THAN GUESSING" in by_title(unable)["How well the model does ioi"].text
    assert any("the model does not do it" in line for line in ablation_limits([unable]))
    able = make_study()
    assert "Right: 0.90 [0.85, 0.95] of the time" in by_title(able)["How well the model does ioi"].text
    assert "was not judged" in by_title(replace(able, baseline=None))["How well the model does ioi"].text


def test_the_curve_in_a_sentence(ablation_study: TaskStudy) -> None:
    found = by_title(ablation_study)["Removing one head after the other"]
    points = ablation_study.curve.summary().set_index(["order", "k"])["value"]
    gap = (points["random"] - points["ranked"]).abs()
    assert found.figure == str(gap.idxmax())
    # The clean score of the curve's own sixteen prompts, not of the study's 64.
    assert f"goes from {points['ranked', 0]:.2f} to {points['ranked', gap.idxmax()]:.2f} [" in found.text
    assert "range of the draws" in found.text


def test_an_estimate_is_judged_by_what_was_measured(ablation_study: TaskStudy) -> None:
    found = by_title(ablation_study)["Gradient against exact"]
    assert found.figure == "9/10"
    assert "Missed: L20H3. Wrong by more than half of the measured effect: L20H3." in found.text
    assert "Cost in layer-forwards: 120; exact: 4,185." in found.text


def test_an_estimate_alone_says_that_nothing_was_measured(make_study: Callable[..., TaskStudy]) -> None:
    study = make_study()
    alone = by_title(make_study(study.effects[1:]))
    assert "Estimated to first order, not measured." in alone["Heads that ioi needs"].text
    assert "Gradient against exact" not in alone


def test_many_heads_ask_for_more_than_one_at_the_smallest_p(make_study: Callable[..., TaskStudy]) -> None:
    # 13 prompts: p ≥ 2/8192; of 270 heads ⌈270 · 2/8192 / 0.05⌉ = 2 must reach it.
    assert any("at least 2 must reach it" in line for line in ablation_limits([make_study(prompts=13)]))
    assert not any("must reach it" in line for line in ablation_limits([make_study()]))
    assert ablation_limits([]) == []
