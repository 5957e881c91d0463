from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from probe.analyses.effects import Effects
from probe.analyses.units import Unit
from probe.errors import ResultsError
from probe.statistics import sign_flip_p
from probe.studies.task_study import TaskStudy, study_of


def test_what_was_measured_leads(make_effects: Callable[..., Effects], make_study: Callable[..., TaskStudy]) -> None:
    exact, gradient = make_effects(), make_effects("gradient")
    study = make_study((gradient, exact))
    assert study.lead == 1
    assert study.columns == ["attribution_ioi", "ablation_ioi"]
    assert study.agreements[0][0] == 1
    assert study.agreements[0][1].missed == ("L20H3",)
    assert make_study((gradient,)).lead == 0
    assert make_study((gradient,)).agreements == {}
    assert make_study((replace(exact, mode="zero"), gradient)).agreements == {}


def test_the_smallest_p_is_what_the_test_can_give(make_study: Callable[..., TaskStudy]) -> None:
    for prompts in (4, 13, 20):
        expected = sign_flip_p(np.ones((prompts, 1)))[0]
        # Drawn flips repeat the observed one with odds of 10,000 in 2^19.
        assert make_study(prompts=prompts).smallest_p == pytest.approx(expected, abs=2e-4)


def test_groups_are_counted_beside_prompts(make_study: Callable[..., TaskStudy]) -> None:
    study = make_study(prompts=8)
    assert (study.counted, study.independent) == ("8 prompts", 8)
    grouped = tuple(replace(prompt, group=f"g{index % 4}") for index, prompt in enumerate(study.task.prompts))
    study = replace(study, task=replace(study.task, prompts=grouped))
    assert (study.counted, study.independent) == ("8 prompts in 4 groups", 4)
    assert study.smallest_p == 2 / 16
    assert study.numbers[0]["effect_p"].min() == 2 / 16


def test_units_are_named_by_their_kind(make_study: Callable[..., TaskStudy], make_effects: Any) -> None:
    effects = make_effects()
    assert make_study((effects,)).noun == "heads"
    layers = tuple(Unit(f"L{layer}", "layer", ((layer, 0), (layer, 1))) for layer in range(2))
    by_layer = replace(effects, units=layers, ablated=effects.ablated[:2])
    assert make_study((by_layer,)).noun == "layers"
    mixed = replace(by_layer, units=(layers[0], replace(layers[0], name="set:x", kind="set")))
    assert make_study((mixed,)).noun == "units"
    assert make_study((by_layer,)).mapped(0)
    assert not make_study((mixed,)).mapped(0)


def test_effects_of_another_task_or_none_are_refused(
    make_study: Callable[..., TaskStudy], make_effects: Callable[..., Effects]
) -> None:
    with pytest.raises(ResultsError, match="effects on 64 prompts of mcq beside 64 prompts of ioi"):
        make_study((replace(make_effects(), task="mcq"),))
    with pytest.raises(ResultsError, match="effects on 64 prompts of ioi beside 8 prompts of ioi"):
        make_study((make_effects(),), prompts=8)
    study = make_study()
    with pytest.raises(ResultsError, match="without effects"):
        replace(study, effects=())


def test_study_of_words_the_task(make_study: Callable[..., TaskStudy]) -> None:
    made = make_study()
    study = study_of(made.task, made.effects, None, seed=5)
    assert study.question == "which of two names came once"
    assert (study.answers, study.wrongs, study.seed) == (("#4",), ("#5",), 5)
    judged = tuple(replace(prompt, answer_ids=(), wrong_ids=(), target_ids=(9,)) for prompt in made.task.prompts)
    task = replace(made.task, name="ioi", metric="neg_loss", prompts=judged)
    assert study_of(task, made.effects, None).answers == ("#9",)


def test_what_was_measured_is_told_whole_or_in_part(
    make_study: Callable[..., TaskStudy], make_effects: Callable[..., Effects]
) -> None:
    assert make_study((make_effects(),)).measured(0) == "270 heads"
    some = make_effects("hybrid", measured=14)
    assert make_study((some,)).measured(0) == "14 of 270 heads"
    ablated = make_effects().ablated.copy()
    ablated[14:, 8:] = np.nan
    assert make_study((replace(some, ablated=ablated),)).measured(0) == "14 heads on all prompts, 256 on some, of 270"
