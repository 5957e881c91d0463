"""What an ablation study says, in plain sentences, and what it cannot say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from probe.analyses.agreement import Agreement
from probe.analyses.effects import ESTIMATES
from probe.page.findings import FEW_SEQUENCES, Finding
from probe.plots.style import LEVEL
from probe.studies.task_study import TaskStudy
from probe.text import number, with_interval

SHOWN = 5


def ablation_findings(study: TaskStudy) -> list[Finding]:
    """How well the model does, which heads matter, which hurt, what removing many does, how far estimates agree."""
    found = [_before(study), _sign(study, helps=True), _sign(study, helps=False)]
    if study.curve is not None:
        found.append(_removal(study))
    return found + [_agreement(study, index) for index in study.agreements]


def few(study: TaskStudy) -> str:
    """` (few)` where there are fewer than METRICS' eight prompts, or groups of them."""
    return " (few)" if study.independent < FEW_SEQUENCES else ""


def _before(study: TaskStudy) -> Finding:
    clean, task = study.clean, study.task
    frame = pd.DataFrame({"clean": clean.mean, "clean_low": clean.low, "clean_high": clean.high})
    text = f"Mean {task.metric} with nothing removed: {with_interval(frame, 0, 'clean')} {study.unit}"
    text += f" over {study.counted}{few(study)}. {told_able(study)}"
    return Finding(f"How well the model does {task.name}", number(float(clean.mean[0])), text)


def told_able(study: TaskStudy) -> str:
    """Accuracy against chance, in a sentence."""
    base = study.baseline
    if base is None:
        return "How often it is right was not judged."
    if np.isnan(base.accuracy):
        return "The task has no answers, so nothing can be right or wrong."
    right = pd.DataFrame({"x": [base.accuracy], "x_low": [base.accuracy_low], "x_high": [base.accuracy_high]})
    told = f"Right: {with_interval(right, 0, 'x')} of the time, where guessing is right {number(base.chance)}."
    return told if base.able else told + " THAT IS NO BETTER THAN GUESSING: effects say little about a task not done."


def _sign(study: TaskStudy, helps: bool) -> Finding:
    """Units whose removal costs the task something, or gains it something, at q < 0.05."""
    numbers, metric, noun = study.numbers[study.lead], study.task.metric, study.noun
    side = numbers["effect"] > 0 if helps else numbers["effect"] < 0
    passed = side & (numbers["effect_q"] < LEVEL)
    title = (
        f"{noun.capitalize()} that {study.task.name} needs" if helps else f"{noun.capitalize()} that work against it"
    )
    if study.smallest_p > LEVEL:
        text = f"Not decided: {study.counted} give no p-value below {number(study.smallest_p)}."
    else:
        count = str(int(passed.sum())) if passed.any() else "None"
        move = "falls" if helps else "rises"
        text = f"{count} of {study.measured(study.lead)}: with one of them removed, {metric} {move} (q < {LEVEL:g}, "
        text += f"corrected for all {len(numbers)}{_large(study, numbers['effect'][passed])})."
    if study.effects[study.lead].method in ESTIMATES:
        text += " Estimated to first order, not measured."
    order = numbers["effect"][side].abs().sort_values(ascending=False, kind="stable").index[:SHOWN]
    if len(order):
        text += f" Largest mean effects, in {study.unit}:"
    heads = tuple(
        f"{numbers['name'][row]}  {with_interval(numbers, row, 'effect')}{_mark(numbers, row)}" for row in order
    )
    return Finding(title, "–" if study.smallest_p > LEVEL else str(int(passed.sum())), text, heads)


def _large(study: TaskStudy, passed: pd.Series) -> str:
    """How many of the effects that pass are more than a tenth of the clean score, where that can be asked."""
    clean = float(study.clean.mean[0])
    if study.task.metric in ("neg_loss", "neg_kl") or clean <= 0 or passed.empty:
        return ""
    return f"; by more than a tenth of {number(clean)}: {int((passed.abs() > clean / 10).sum())}"


def _mark(numbers: pd.DataFrame, row: int) -> str:
    """What keeps a unit out of the count above it."""
    q = float(numbers["effect_q"][row])
    return "" if q < LEVEL else "  q n/a" if np.isnan(q) else f"  q = {number(q)}"


def _removal(study: TaskStudy) -> Finding:
    """The score with many heads gone, at the number of heads where ranked and random order differ most."""
    points = study.curve.summary(study.seed) if study.curve is not None else pd.DataFrame()
    criterion = points.loc[points["order"] != "random", "criterion"].iloc[0]
    mine = points[(points["criterion"] == criterion) | (points["order"] == "random")]
    mean = mine.pivot_table(index="k", columns="order", values="value").dropna()
    title = "Removing one head after the other"
    if "ranked" not in mean or len(mean) < 2:
        return Finding(title, "–", "Ranked order was not measured.")
    against = next((order for order in ("random", "reversed") if order in mean), None)
    k = int((mean[against] - mean["ranked"]).abs().idxmax()) if against else int(mean.index[-1])
    told = {}
    for order in ("ranked", "random", "reversed"):
        rows = mine.index[(mine["order"] == order) & (mine["k"] == k)]
        if len(rows):
            told[order] = with_interval(mine, rows[0], "value")
    share = float(mine.loc[mine["k"] == k, "share"].iloc[0])
    gone = "head" if k == 1 else f"{k} heads"
    text = (
        f"Without the {gone} ranked first by {criterion} ({100 * share:.0f} % of all), {study.task.metric} goes "
        f"from {number(float(mean['ranked'][0]))} to {told['ranked']}"
    )
    text += f"; without as many random ones it is {told['random']} (range of the draws)" if "random" in told else ""
    text += f"; without those ranked last, {told['reversed']}" if "reversed" in told else ""
    return Finding(title, str(k), text + ".")


def _agreement(study: TaskStudy, index: int) -> Finding:
    """How far an estimate can be trusted here."""
    place, agreed = study.agreements[index]
    first, second = study.effects[index], study.effects[place]
    text = f"{first.mode.replace('_', ' ').capitalize()} ablation: "
    text += agreement_in_words(agreed, first.method, second.method)
    text += f" Cost in layer-forwards: {first.layer_forwards:,.0f}; {second.method}: {second.layer_forwards:,.0f}."
    return Finding(f"{first.method.capitalize()} against {second.method}", f"{len(agreed.shared)}/{agreed.top}", text)


def agreement_in_words(agreed: Agreement, first: str, second: str) -> str:
    """Overlap, rank correlation, and where the estimate is not to be trusted."""
    text = (
        f"{len(agreed.shared)} of the {agreed.top} strongest by {second} are among the {agreed.top} strongest by "
        f"{first}; rank correlation (Spearman) {number(agreed.spearman)} over {agreed.n}."
    )
    if agreed.missed:
        text += f" Missed: {', '.join(agreed.missed)}."
    if agreed.wrong:
        text += f" Wrong by more than half of the measured effect: {', '.join(agreed.wrong)}."
    return text


def ablation_uncertainty(studies: Sequence[TaskStudy]) -> list[str]:
    """What the brackets and q-values of effects are."""
    if not studies:
        return []
    counts = ", ".join(dict.fromkeys(f"{study.counted}{few(study)}" for study in studies))
    return [
        f"Brackets of effects are 95 % bootstrap intervals over {counts}; q is the sign-flip p-value corrected "
        "for all that was tested (Benjamini-Hochberg)."
    ]


def ablation_limits(studies: Sequence[TaskStudy]) -> list[str]:
    """What a reader must not conclude from these studies."""
    if not studies:
        return []
    lines = [
        "An effect is of one head gone and all others in place: where another takes over its work, the effect is "
        "small, and effects of several heads do not add up to the effect of removing them together.",
        "An effect depends on what stands in the removed head's place: another mode can give another ranking.",
        "Effects belong to these prompts and this metric. Intervals and p-values cover the choice of prompts, not "
        "other wordings of the task; q-values are corrected within one task, mode and method.",
    ]
    for study in studies:
        name, heads = study.task.name, len(study.numbers[study.lead])
        if few(study):
            lines.append(f"{name}: {study.counted} are few; intervals are rough.")
        needed = int(np.ceil(study.smallest_p * heads / LEVEL))
        if study.smallest_p <= LEVEL and needed > 1:
            lines.append(
                f"{name}: with {study.counted} the smallest p-value is {number(study.smallest_p)}, so of {heads} "
                f"{study.noun} at least {needed} must reach it before any passes at q < {LEVEL:g}."
            )
        if study.baseline is not None and not study.baseline.able:
            lines.append(f"{name}: the model does not do it; heads of a task not done are not its circuit.")
        lines += [f"{name}: {note}" for note in study.task.notes]
    return lines
