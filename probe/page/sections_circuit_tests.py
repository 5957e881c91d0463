"""The page's chapter on whether a head circuit lacks something or holds too much: completeness and minimality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from probe.circuits.circuit import Circuit
from probe.page.chapter import Chapter
from probe.page.findings import Finding
from probe.page.findings_circuit import unit_of
from probe.page.markup import Html, el
from probe.page.sections import figure, scrolling, section
from probe.plots.circuit_tests import (
    KINDS,
    beside,
    completeness_scatter,
    minimality_marks,
    needed,
    removed_words,
    spread_words,
)  # fmt: skip
from probe.table import head_name
from probe.text import number

if TYPE_CHECKING:
    from probe.analyses.circuit_tests import Completeness, Minimality

SHOWN = 6
_COMPLETE = (
    "If the circuit holds all that the task runs on, taking heads K away from it leaves what taking them away from "
    "the whole model leaves; where the model keeps more, something outside the circuit stands in for K. Greedy K are "
    "picked on one half of the prompts to make the difference large; all is measured on the other half."
)
_MINIMAL = (
    "If the circuit holds nothing that it does not need, every head is worth something beside some K. Picked on one "
    "half of the prompts, measured on the other."
)


def completeness_chapter(
    circuit: Circuit, completeness: Sequence[Completeness], minimality: Sequence[Minimality]
) -> Chapter:
    """Sections, figures and findings of the tests that were made of one circuit (after Wang et al. 2022)."""
    content: list[object] = []
    findings, figures = [], {}
    if completeness:
        caption = (
            "One point a set K of heads. On the dotted line circuit and model do the same without K; below it the "
            "model makes good for K with heads that the circuit lacks."
        )
        drawn = figure("completeness", caption), _sets(completeness)
        content.append(el("div", el("h3", "Completeness"), el("p", _COMPLETE), *drawn))
        figures["completeness"] = completeness_scatter(completeness, circuit.metric)
        findings.append(_complete(circuit, completeness))
    if minimality:
        caption = (
            "What the circuit loses without each head, beside the K where that is most; 95 % interval. Filled: 0 is "
            "not in it."
        )
        content.append(el("div", el("h3", "Minimality"), el("p", _MINIMAL), figure("minimality", caption)))
        figures["minimality"] = minimality_marks(minimality, circuit.metric)
        findings.append(_minimal(circuit, minimality))
    title = f"What the circuit of {circuit.task} lacks, and what it could do without"
    shown = section("tests", title, el("div", *content, class_="pair"))
    return Chapter(
        findings=findings, sections={"tests": ("Completeness and minimality", shown)}, figures=figures,
        limits=["Completeness was tried on some sets of heads, not on all: a set that parts circuit and model may be "
                "among those that were not."],
    )  # fmt: skip


def _sets(completeness: Sequence[Completeness]) -> Html:
    rows = [
        el("tr", el("th", KINDS[one.kind], scope="row"), el("td", removed_words(one)),
           *(el("td", shown, class_="v") for shown in (number(one.circuit), number(one.model),
                                                       spread_words(one.difference), number(one.difference.share))))
        for one in completeness
    ]  # fmt: skip
    head = ("K", "heads", "circuit", "model", "difference", "share of the task")
    return el("details", el("summary", "The same in figures"), scrolling("Completeness", head, rows))


def _complete(circuit: Circuit, found: Sequence[Completeness]) -> Finding:
    """The largest difference, and how many are told from 0."""
    apart = [one for one in found if one.difference.low > 0 or one.difference.high < 0]
    largest = max(found, key=lambda one: abs(one.difference.mean))
    ordered = sorted(found, key=lambda one: -abs(one.difference.mean))[:SHOWN]
    text = (
        f"{len(apart) or 'None'} of {len(found)} sets of heads leave the circuit and the model with different scores "
        f"(95 % interval without 0); the largest difference is {spread_words(largest.difference)} {unit_of(circuit)}, "
        f"{number(abs(largest.difference.share))} of the task. Circuit less model, without:"
    )
    lines = tuple(f"{removed_words(one)}:  {spread_words(one.difference)}" for one in ordered)
    return Finding("Is the circuit complete?", number(abs(largest.difference.share)), text, lines)


def _minimal(circuit: Circuit, found: Sequence[Minimality]) -> Finding:
    """How many heads the circuit could do without, as far as was tried."""
    idle = sorted((one for one in found if not needed(one)), key=lambda one: abs(one.loss.mean))
    text = (
        f"{len(found) - len(idle)} of {len(found)} heads are worth something to the circuit beside some set of others "
        f"(95 % interval without 0)."
    )
    text += f" The others could go, as far as was tried, in {unit_of(circuit)}:" if idle else ""
    lines = tuple(f"{head_name(*one.head)}  {spread_words(one.loss)}, {beside(one)}" for one in idle[:SHOWN])
    return Finding("Is the circuit minimal?", str(len(idle)), text, lines)
