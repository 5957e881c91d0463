"""The report's section on an ablation study: what was asked, what each head is worth, and how it was found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probe.analyses.agreement import strongest
from probe.analyses.effects import ESTIMATES, Effects
from probe.analyses.removal_curve import ORDERS
from probe.page import findings_ablation
from probe.page.chapter import Chapter
from probe.page.findings_ablation import agreement_in_words, few, told_able
from probe.page.markup import Html, el, join
from probe.page.sections import figure, scrolling, section, token
from probe.plots import ablation as plots_ablation
from probe.plots.style import LEVEL
from probe.studies.task_study import TaskStudy
from probe.text import number, show_text, with_interval

MODES: Mapping[str, str] = {
    "zero": "zero",
    "mean": "the mean of its output over other prompts of the task, position by position (Wang et al. 2022)",
    "mean_all": "the mean of its output over other prompts and all positions but the first",
    "mean_corrupted": "the mean of its output over the corrupted prompts, position by position",
    "mean_token": "the mean of its output on the same token in other prompts",
    "mean_self": "the mean of its output over the prompt's own positions but the first",
    "resample": "its output on the corrupted twin of the prompt",
    "uniform": "what it would write if it looked at all keys alike",
    "self": "what it would write if every token looked at itself only",
    "sink_knockout": "what it would write if it could not see the first token, the rest renormalised",
    "sink_value_zero": "what it writes, less what it takes from the first token",
    "frozen_pattern": "its values here, weighed as it weighs the corrupted twin",
    "frozen_values": "its pattern here, with the values of the corrupted twin",
    "static": "what it would write with its mean weight at every distance, whatever the tokens",
    "scale": "its own output times {}",
    "identity": "its own output, {} of the way to each token's own value",
    "sink_scale": "what it would write with its weight on the first token times {}, the rest given to the others",
    "knock_out": "what it would write if it could not look along {}",
    "force": "what it would write if it looked along {} in equal shares, and nowhere else from there",
}
"""What stands in the place of a removed head's output (z), in words; {} is what follows a mode's colon."""
METHODS: Mapping[str, str] = {
    "exact": "each one is removed in turn and the prompts are run again",
    "gradient": "one gradient stands for all removals: ⟨∂metric/∂z, z − z′⟩, summed over positions, z′ being what "
    "stands in the place of z; first order (Nanda 2023, Attribution patching)",
    "integrated": "gradients averaged along the way from the clean prompt to its corrupted twin (Hanna et al. 2024, "
    "EAP-IG)",
    "hybrid": "estimated by gradient, then all measured on a few prompts, then on all prompts those that may be among "
    "the strongest",
}
METRIC_WORDS: Mapping[str, str] = {
    "logit_diff": "mean logit of the right next tokens less mean logit of the wrong ones",
    "prob_diff": "probability of the right next tokens less that of the wrong ones",
    "accuracy": "share of judged positions whose right token is the first choice",
    "neg_loss": "mean log-probability of the right next tokens",
    "neg_kl": "minus the KL divergence of the next-token distribution from the clean run's",
}
TOP = 15
_STATISTICS = (
    "An effect is clean − ablated, prompt by prompt: positive where the head helps. Brackets: 95 % percentile "
    "bootstrap over prompts (Efron and Tibshirani 1993), 2,000 resamples shared by all. p: two-sided sign-flip test "
    "over prompts; q: p corrected for the number tested (Benjamini and Hochberg 1995)."
)


def ablation_part(study: TaskStudy, index: int = 0, metadata: Mapping[str, Any] | None = None) -> Html:
    """One task's section; `index` tells the figures of several tasks apart.

    metadata: the table's, whose `positions`, `phase` and `given` say where heads were removed and what was gone.
    """
    return section(
        f"ablation-{index}", f"Without a head: {study.task.name}",
        *_asked(study, metadata or {}), *_example(study),
        *_lead(study, index), el("h3", f"The strongest {study.noun}"), _top(study), *_others(study, index),
        *_removal(study, index), *_methods(study),
    )  # fmt: skip


def ablation_figures(study: TaskStudy, index: int = 0) -> dict[str, go.Figure]:
    """The figures that `ablation_part` has places for."""
    drawn, metric = {}, study.task.metric
    for place, (one, numbers) in enumerate(zip(study.effects, study.numbers, strict=True)):
        if study.mapped(place):
            drawn[f"effect_map_{index}_{place}"] = plots_ablation.effect_map(one.units, numbers, metric)
    drawn[f"effects_ranked_{index}"] = plots_ablation.ranked_effects(study.numbers[study.lead], metric, TOP)
    if study.curve is not None:
        drawn[f"removal_{index}"] = plots_ablation.removal(study.curve, metric, study.seed)
    for place, (other, _) in study.agreements.items():
        drawn[f"estimate_{index}_{place}"] = plots_ablation.estimate_scatter(
            study.effects[place], study.effects[other], metric
        )
    return drawn


def ablation_chapter(studies: Sequence[TaskStudy], metadata: Mapping[str, Any]) -> Chapter:
    """Ablation studies of one model, one a task, as a chapter; metadata: their table's."""
    figures: dict[str, go.Figure] = {}
    for index, study in enumerate(studies):
        figures |= ablation_figures(study, index)
    tasks = ", ".join(f"{study.task.name} ({study.n} prompts)" for study in studies)
    return Chapter(
        summary=f"Removed one at a time on {tasks}.",
        findings=[finding for study in studies for finding in findings_ablation.ablation_findings(study)],
        uncertainty=findings_ablation.ablation_uncertainty(studies),
        sections={
            f"ablation-{index}": (f"Ablation: {study.task.name}", ablation_part(study, index, metadata))
            for index, study in enumerate(studies)
        },
        figures=figures,
        limits=findings_ablation.ablation_limits(studies),
    )


def _asked(study: TaskStudy, metadata: Mapping[str, Any]) -> list[Html]:
    """The task, the metric and how well the model does, in sentences."""
    task = study.task
    question = f"{study.question}. " if study.question else ""
    corruption = task.parameters.get("corruption")
    twins = f" Each has a corrupted twin ({corruption})." if task.paired and corruption else ""
    text = (
        f"{question[:1].upper()}{question[1:]}{study.counted}{few(study)}, {task.length} tokens each, made from seed "
        f"{task.seed}.{twins} Judged by {task.metric}: {METRIC_WORDS[task.metric]}, in {study.unit}; higher is "
        f"better.{_where(metadata)}"
    )
    done = study.baseline is None or study.baseline.able
    return [el("p", text), el("p", told_able(study), class_=None if done else "note")]


def _where(metadata: Mapping[str, Any]) -> str:
    """What is not as usual: positions, phase, heads gone throughout."""
    text, positions, given = "", metadata.get("positions", "all"), metadata.get("given", ())
    if positions != "all":
        where = positions if isinstance(positions, str) else ", ".join(str(place) for place in positions)
        text += f" Heads are removed at {where} only."
    if (phase := metadata.get("phase", "both")) != "both":
        text += f" Heads are removed at {phase} only."
    return text + (f" Gone throughout: {', '.join(given)}." if given else "")


LONGEST = 600
"""Characters of a prompt that the page prints."""


def _example(study: TaskStudy) -> list[Html]:
    """The first prompt, with its answers and its twin."""
    prompt = study.task.prompts[0]
    rows = [("prompt", el("q", _shortened(prompt.clean)))]
    for label, tokens in (("right", study.answers), ("wrong", study.wrongs)):
        if tokens:
            rows.append((label, join(*(join(token(text), " ") for text in tokens[:8]))))
    if prompt.corrupted is not None:
        rows.append(("corrupted twin", el("q", _shortened(prompt.corrupted))))
    return [el("dl", *(el("div", el("dt", name), el("dd", what)) for name, what in rows), class_="example")]


def _shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return show_text(text)
    half = LONGEST // 2
    return f"{show_text(text[:half])} … [{len(text) - 2 * half:,} characters] … {show_text(text[-half:])}"


def _lead(study: TaskStudy, index: int) -> list[Html]:
    """Map and ranking of the effects that lead."""
    place, numbers = study.lead, study.numbers[study.lead]
    shown = min(TOP, int(numbers["effect"].notna().sum()))
    ranked = figure(
        f"effects_ranked_{index}",
        f"The {shown} farthest from 0, with 95 % intervals over prompts. Filled: q < 0.05.",
    )
    drawn = [_map(index, place), ranked] if study.mapped(place) else [ranked]
    one = study.effects[place]
    return [el("h3", _heading(one)), el("p", _counted(study, place)), el("div", *drawn, class_="pair")]


def _others(study: TaskStudy, index: int) -> list[Html]:
    """Maps of the other modes and methods, each estimate beside what was measured in the same mode."""
    blocks = []
    for place, one in enumerate(study.effects):
        if place != study.lead:
            drawn = _map(index, place) if study.mapped(place) else None
            blocks.append(el("div", el("h3", _heading(one)), el("p", _counted(study, place)), drawn))
        if place in study.agreements:
            blocks.append(_agreement(study, index, place))
    return [el("div", *blocks, class_="pair")] if blocks else []


def _agreement(study: TaskStudy, index: int, place: int) -> Html:
    other, agreed = study.agreements[place]
    first, second = study.effects[place].method, study.effects[other].method
    text = agreement_in_words(agreed, first, second)
    caption = f"One point each. Dotted: {first} and {second} equal. Named: those far from that line."
    heading = f"{first.capitalize()} against {second}, {study.effects[place].mode.replace('_', ' ')} ablation"
    return el("div", el("h3", heading), el("p", text), figure(f"estimate_{index}_{place}", caption))


def _map(index: int, place: int) -> Html:
    return figure(
        f"effect_map_{index}_{place}",
        "Effect of removing each: blue helps the task, red works against it, a triangle marks q < 0.05 (pointing down: "
        "below 0), sand was not measured. Hover or tap for the figures.",
    )


def _counted(study: TaskStudy, place: int) -> str:
    """How many were measured, how many pass, and what stands in their place."""
    one, numbers = study.effects[place], study.numbers[place]
    passed = int((numbers["effect_q"] < LEVEL).sum())
    return (
        f"{_verb(one)}: {study.measured(place)}; {passed} pass at q < {LEVEL:g}. In a removed head's "
        f"place stands {_stands(one.mode)}."
    )


def _stands(mode: str) -> str:
    name, _, value = mode.partition(":")
    return MODES.get(name, mode).format(value)


def _verb(one: Effects) -> str:
    return "Estimated" if one.method in ESTIMATES else "Measured"


def _heading(one: Effects) -> str:
    return f"{one.mode.replace('_', ' ').capitalize()} ablation, {one.method}"


def _top(study: TaskStudy) -> Html:
    """The strongest by the leading effects, and what the other modes and methods say of them."""
    lead = study.numbers[study.lead].set_index("name")
    order = [study.lead, *(place for place in range(len(study.effects)) if place != study.lead)]
    rows = []
    for name in strongest(lead["effect"], TOP):
        cells = []
        for place in order:
            found = study.numbers[place].index[study.numbers[place]["name"] == name]
            shown = with_interval(study.numbers[place], found[0], "effect") if len(found) else "not measured"
            cells.append(el("td", shown, class_="v"))
        cells[1:1] = [el("td", number(float(lead[f"effect_{part}"][name])), class_="v") for part in ("p", "q")]
        rows.append(el("tr", el("th", name, scope="row"), *cells))
    labels = [f"{study.effects[place].mode} {study.effects[place].method}, {study.unit}" for place in order]
    first = labels[0] if len(order) > 1 else f"effect, {study.unit}"
    return scrolling(f"The strongest {study.noun}", ("name", first, "p", "q", *labels[1:]), rows)


def _removal(study: TaskStudy, index: int) -> list[Html]:
    """The removal curve and the area under each of its lines."""
    if study.curve is None:
        return []
    areas = study.curve.area(study.seed)
    ranked = areas[areas["order"] == "ranked"].set_index("criterion")["area"].sort_values(kind="stable")
    criteria = list(dict.fromkeys([*ranked.index, *areas["criterion"]]))
    rows = [
        el("tr", el("th", name, scope="row"), *(el("td", *_area(areas, name, order), class_="v") for order in ORDERS))
        for name in criteria
    ]
    text = (
        "Heads are removed one after the other and stay removed. A criterion that knows the heads that matter falls "
        "early when it removes its best first and late when it removes them last; as many random heads show what "
        "removing any heads of those layers does."
    )
    caption = (
        "Solid: the best first; dashed: the best last. Grey: random heads, the mean of all draws and the range of "
        "their means. Other bands, where there is one criterion: 95 % interval over prompts."
    )
    note = (
        f"Area: mean {study.task.metric} on the way ({study.unit}), the area under score against share divided by the "
        "span of shares. Brackets: 95 % interval over prompts; of random heads, the range of the draws."
    )
    return [
        el("h3", "Removing one head after the other"), el("p", text), figure(f"removal_{index}", caption),
        scrolling("Areas under the removal curves", ("criterion", *plots_ablation.ORDERS.values()), rows),
        el("p", note, class_="quiet"),
    ]  # fmt: skip


def _area(areas: pd.DataFrame, criterion: str, order: str) -> list[str]:
    """Areas of one criterion in one order, with how far they go."""
    chosen = areas.index[(areas["criterion"] == criterion) & (areas["order"] == order)]
    return [f"{with_interval(areas, row, 'area')}, to {100 * areas['to'][row]:.0f} % " for row in chosen]


def _methods(study: TaskStudy) -> list[Html]:
    """How each method works, where it comes from, what it cost."""
    lines = [
        el("li", el("strong", one.method), f" ({one.mode}): {METHODS.get(one.method, one.method)}. "
           f"{one.layer_forwards:,.0f} layer-forwards.", *(f" {note[:1].upper()}{note[1:]}." for note in one.notes))
        for one in study.effects
    ]  # fmt: skip
    cost = "A layer-forward is one block run over all prompts; a backward through it counts two."
    return [el("h3", "How it was found out"), el("ul", *lines), el("p", f"{_STATISTICS} {cost}", class_="quiet")]
