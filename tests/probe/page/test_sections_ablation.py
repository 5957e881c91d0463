from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from probe.analyses.replacement import MODES as ABLATION_MODES
from probe.page.sections_ablation import LONGEST, METHODS, METRIC_WORDS, MODES, ablation_figures, ablation_part
from probe.studies.task_study import TaskStudy
from probe.tasks.task import METRICS


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", markup))


def places(markup: str) -> set[str]:
    return set(re.findall(r'data-figure="([^"]*)"', markup))


def test_every_mode_metric_and_method_has_words() -> None:
    assert {mode.partition(":")[0] for mode in ABLATION_MODES} == set(MODES)
    assert set(METRIC_WORDS) == set(METRICS)
    assert {"exact", "gradient", "integrated", "hybrid"} == set(METHODS)


def test_a_mode_with_a_number_says_it(make_study: Callable[..., TaskStudy], make_effects: Callable[..., Any]) -> None:
    study = make_study((replace(make_effects(), mode="scale:0.5"),))
    assert "stands its own output times 0.5." in words(ablation_part(study))


def test_the_section_says_what_was_asked_and_found(ablation_study: TaskStudy) -> None:
    text = words(ablation_part(ablation_study))
    for sentence in (
        "Without a head: ioi", "Which of two names came once. 64 prompts, 3 tokens each, made from seed 0.",
        "Each has a corrupted twin (s2_io).", "mean logit of the right next tokens less mean logit of the wrong ones",
        "Right: 0.90 [0.85, 0.95] of the time", "Mean ablation, exact", "Measured: 270 heads;",
        "position by position (Wang et al. 2022)", "The strongest heads", "Gradient against exact, mean ablation",
        "Missed: L20H3.", "Removing one head after the other", "How it was found out", "4,185 layer-forwards",
        "Benjamini and Hochberg 1995",
    ):  # fmt: skip
        assert sentence in text


def test_every_place_has_its_figure_and_every_figure_its_place(
    ablation_study: TaskStudy, make_study: Callable[..., TaskStudy], make_effects: Callable[..., Any]
) -> None:
    modes = (make_effects(), replace(make_effects(), mode="zero"), make_effects("gradient"))
    for study in (ablation_study, make_study(modes), make_study(modes[2:]), make_study(modes[:1])):
        for index in (0, 3):
            assert places(ablation_part(study, index)) == set(ablation_figures(study, index))


def test_units_that_share_heads_are_ranked_without_a_map(
    make_study: Callable[..., TaskStudy], make_effects: Callable[..., Any]
) -> None:
    effects = make_effects()
    sets = tuple(replace(unit, name=f"set:{unit.name}", kind="set", heads=((0, 0),)) for unit in effects.units)
    study = make_study((replace(effects, units=sets),))
    assert places(ablation_part(study)) == set(ablation_figures(study)) == {"effects_ranked_0"}
    assert "Measured: 270 sets of heads;" in words(ablation_part(study))


def test_prompts_and_tokens_stay_text(ablation_study: TaskStudy) -> None:
    markup = ablation_part(ablation_study)
    assert "<img" not in markup
    assert "</script" not in markup
    assert "&lt;/script&gt;&lt;img src=x onerror=" in markup
    assert "\u202e" not in markup
    assert "When \\u202eAnna and John" in markup


def test_a_long_prompt_is_shortened_and_says_so(ablation_study: TaskStudy) -> None:
    first = replace(ablation_study.task.prompts[0], clean="x" * 5000 + "\x1b")
    task = replace(ablation_study.task, prompts=(first, *ablation_study.task.prompts[1:]))
    text = words(ablation_part(replace(ablation_study, task=task)))
    assert f"[{5001 - LONGEST:,} characters]" in text
    assert "\\u001b" in text
    assert len(max(text.split(), key=len)) < LONGEST


def test_the_strongest_stand_in_order_with_what_others_say(ablation_study: TaskStudy) -> None:
    table = re.search(r"<table>.*?</table>", ablation_part(ablation_study), flags=re.S)
    assert table is not None
    rows = re.findall(r"<tr>(.*?)</tr>", table[0], flags=re.S)
    assert words(rows[0]).split() == ["name", "mean", "exact,", "logits", "p", "q", "mean", "gradient,", "logits"]
    assert words(rows[1]).split()[:2] == ["L18H6", "1.83"]
    assert len(rows) == 16


def test_a_task_not_done_is_a_note(make_study: Callable[..., TaskStudy]) -> None:
    markup = ablation_part(make_study(right=0.5))
    assert re.search(r'<p class="note">Right: 0.50 .*NO BETTER THAN GUESSING', markup)


def test_what_is_not_as_usual_is_said(ablation_study: TaskStudy) -> None:
    usual = words(ablation_part(ablation_study, 0, {"positions": "all", "phase": "both", "given": []}))
    assert " only." not in usual
    assert "Gone throughout" not in usual
    other = words(ablation_part(ablation_study, 0, {"positions": [3, 4], "phase": "decode", "given": ["L0H3"]}))
    assert "removed at 3, 4 only. Heads are removed at decode only. Gone throughout: L0H3." in other


def test_criteria_stand_by_their_area_the_best_first(
    make_study: Callable[..., TaskStudy], make_curve: Callable[..., Any], make_effects: Callable[..., Any]
) -> None:
    study = make_study((make_effects(),), curve=make_curve(("best", "middle", "awful")[::-1]))
    tables = re.findall(r"<table>.*?</table>", ablation_part(study), flags=re.S)
    rows = [words(row).split() for row in re.findall(r"<tr>(.*?)</tr>", tables[-1], flags=re.S)]
    assert " ".join(rows[0]) == "criterion best first best last random heads"
    # Invented so that those named first fall earlier.
    assert [row[0] for row in rows[1:]] == ["awful", "middle", "best"]
    assert [float(row[1]) for row in rows[1:]] == sorted(float(row[1]) for row in rows[1:])


def test_what_effects_rest_on_stands_beside_their_method(
    make_study: Callable[..., TaskStudy], make_effects: Callable[..., Any]
) -> None:
    study = make_study((replace(make_effects(), notes=("means over 64 held-out prompts", "<b>")),))
    markup = ablation_part(study)
    assert "4,185 layer-forwards. Means over 64 held-out prompts. &lt;b&gt;." in markup
