"""The report's section on retrieval: trials, recall, the removal test, the ranking."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from probe.page.findings import FEW_TRIALS
from probe.page.markup import Html, el
from probe.page.sections import figure, scrolling, section
from probe.page.telling import Criterion, names, strongest
from probe.plots.retrieval import Retrieval
from probe.table import HeadTable
from probe.text import with_interval


def retrieval_part(table: HeadTable, run: Retrieval | None) -> Html:
    """The retrieval run: how many trials, the curves, the removal test, the ranking."""
    if run is None:
        text = "Not measured: this report was made without a retrieval run. `probe retrieval` makes one."
        return section("retrieval", "Retrieval", el("p", text, class_="note"))
    usable = sum(bool(trial["usable"]) for trial in run.trials)
    lengths = sorted({int(trial["length"]) for trial in run.trials})
    intro = (
        f"{len(run.trials)} trials hide a sentence in a long text and ask for its end, at lengths "
        f"{', '.join(f'{length:,}' for length in lengths)}. {usable} were usable: the model's own answer "
        "held at least half of the hidden one. Recall is the share of answers whose every "
        "token is the model's first choice."
    )
    parts: list[object] = [el("p", intro)]
    if usable == 0:
        parts.append(el("p", "NO TRIAL WAS USABLE: retrieval scores are not defined for this run.", class_="note"))
    at_length = figure("by_length", "Recall by context length. Bands: 95 % interval over trials.")
    at_place = "Recall with all heads in place, by context length and depth of the needle; n trials a cell."
    if len(run.ablation):
        parts.append(el("p", _removal(run)))
        removed = figure(
            "ablation",
            "Recall against the number of removed heads. Bands: 95 % interval over trials; for random heads "
            "of the same layers, the range of the draws.",
        )
        parts.append(el("div", removed, at_length, class_="pair"))
    else:
        parts += [el("p", "No removal test: " + _reason(run) + ".", class_="note"), at_length]
    parts.append(figure("by_place", at_place))
    if 0 < usable < FEW_TRIALS:
        few = f"Not enough usable trials for a ranking: {usable}, wanted {FEW_TRIALS} or more."
        parts.append(el("p", few, class_="note"))
    elif usable:
        ranked = "The heads with the highest score, and the same score for a random stretch of the text (control)."
        rows = strongest(table, Criterion("", "retrieval", "retrieval", 10))
        parts += [figure("retrieval_ranked", ranked), _retrieval_table(table.frame, rows)]
    return section("retrieval", "Retrieval", *parts)


def _removal(run: Retrieval) -> str:
    """What the removal test did, on how many trials."""
    mode = run.metadata.get("ablation", {}).get("mode")
    stand_in = {"mean_all": "its mean over the other trials' prompts", "zero": "zero"}.get(mode, mode)
    how = f" A removed head's output is replaced by {stand_in}." if mode else ""
    trials = run.ablation["trial"].nunique()
    return f"The removal test feeds the answer of {trials} trials in, with heads removed and without.{how}"


def _reason(run: Retrieval) -> str:
    return str(run.metadata.get("ablation", {}).get("reason", "it was not run"))


def _retrieval_table(frame: pd.DataFrame, rows: Sequence[int]) -> Html:
    forms = [
        name for name in ("retrieval", "retrieval_paper", "retrieval_forced", "retrieval_control") if name in frame
    ]
    labels = names(frame)
    body = [
        el(
            "tr",
            el("th", labels[row], scope="row"),
            *(el("td", with_interval(frame, row, name)) for name in forms),
        )
        for row in rows
    ]
    return scrolling("Heads by retrieval score", ("head", *forms), body)
