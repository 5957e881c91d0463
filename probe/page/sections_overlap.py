"""The page's sections on what circuits share: one pair in detail, all pairs in a matrix, and what transfers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from probe.analyses.overlap import Overlap
from probe.analyses.overlap_chance import Measure
from probe.circuits.circuit import Circuit
from probe.page.markup import Html, el
from probe.page.sections import figure, scrolling, section
from probe.plots import overlap as plots_overlap
from probe.plots import transfer as plots_transfer
from probe.plots.circuit import role_words
from probe.plots.overlap import pair_table
from probe.table import head_name
from probe.text import number, with_interval


def overlap_section(found: Overlap, index: int = 0) -> dict[str, tuple[str, Html]]:
    """One pair of circuits: the map, the scores, every measure beside chance; by identifier."""
    a, b = found.task_a, found.task_b
    pair = el(
        "div",
        figure(f"overlap_map_{index}", f"Heads of the circuits of {a} (A) and {b} (B): a dot where both have it."),
        figure(f"score_scatter_{index}", "Every head's score on the two tasks, whether in a circuit or not."),
        class_="pair",
    )
    shared = [el("li", head_name(*head)) for head in found.shared]
    content = [
        el("p", found.sentence), pair,
        el("h3", "Shared heads"), el("ul", *shared, class_="chips") if shared else el("p", "None.", class_="quiet"),
        el("h3", "How much, beside chance"), _measures(found), _noise(found), *_roles(found),
    ]  # fmt: skip
    return {f"overlap-{index}": (f"{a} and {b}", section(f"overlap-{index}", f"What {a} and {b} share", *content))}


def overlap_figures(a: Circuit, b: Circuit, index: int = 0) -> dict[str, go.Figure]:
    """The figures that `overlap_section` has places for."""
    return {
        f"overlap_map_{index}": plots_overlap.overlap_map(a, b),
        f"score_scatter_{index}": plots_overlap.score_scatter(a, b),
    }


def _measures(found: Overlap) -> Html:
    """Every measure with its value under the null and both p-values."""
    rows = [
        _row(f"shared heads, of {len(found.heads_a)} and {len(found.heads_b)}", found.count, whole=True),
        _row("weighted Jaccard of the scores above 0", found.weighted_jaccard),
        _row("rank-biased overlap of the scores, p = 0.9", found.rank_biased),
        _row("rank correlation of all scores (Spearman)", found.spearman),
    ]
    if found.edges is not None:
        edges = found.edges
        rows.append(_row(f"shared edges, of {edges.size_a:,} and {edges.size_b:,}", edges.shared, whole=True))
    head = ("measure", "found", "by chance", "95 % of draws", "p, more", "p, less")
    plain = (
        f"Jaccard index of the heads {number(found.jaccard)}. With layers left out, chance is |A||B| / n = "
        f"{number(found.expected_plain)} heads of {found.n_heads}. By chance: random sets with the same number of "
        f"heads in every layer, {found.draws:,} draws; for scores, relabelled inside the layers."
    )
    edges_note = "" if found.edges is None else (
        " Edges come in paths, so their p-value, which takes them as independent, is too small."
    )
    return Html(scrolling("Measures of overlap", head, rows) + el("p", plain + edges_note, class_="quiet"))


def _row(label: str, measure: Measure, *, whole: bool = False) -> Html:
    """One measure; whole: it counts things."""
    found = measure.value, measure.low, measure.high
    value, low, high = (f"{part:,.0f}" if whole else number(part) for part in found)
    cells = (
        value, number(measure.expected), f"{low} to {high}",
        number(measure.p_value), number(measure.p_less),
    )  # fmt: skip
    return el("tr", el("th", label, scope="row"), *(el("td", cell, class_="v") for cell in cells))


def _noise(found: Overlap) -> Html | None:
    """How far the number depends on the prompts that happened to be drawn."""
    noise = found.noise
    if noise is None:
        return None
    text = (
        f"Picked again from {noise.resamples:,} resamples of the prompts, the circuits share {noise.low:g} to "
        f"{noise.high:g} heads (95 %), {number(noise.mean)} on average. Two resamples of one task's prompts give "
        f"circuits that share {number(noise.self_a)} of {len(found.heads_a)} heads ({found.task_a}) and "
        f"{number(noise.self_b)} of {len(found.heads_b)} ({found.task_b}). Where those are well below the sizes, noise "
        "hides some of what the true circuits share, and the interval lies below it."
    )
    return el("p", text)


def _roles(found: Overlap) -> list[Html]:
    if not any(role.role for role in found.roles):
        return []
    rows = [
        el("tr", el("th", role_words(role.role), scope="row"),
           *(el("td", str(count)) for count in (role.size_a, role.size_b, role.shared, role.elsewhere)))
        for role in found.roles
    ]  # fmt: skip
    head = ("role", found.task_a, found.task_b, "same role in both", "in both, other role in one")
    return [el("h3", "By role"), scrolling("Overlap by role", head, rows)]


def matrix_sections(
    overlaps: Sequence[Overlap], transfer: pd.DataFrame | None, removed: pd.DataFrame | None
) -> dict[str, tuple[str, Html]]:
    """All pairs; what transfers; what removing shared heads does. By identifier, those there is something for.

    transfer: `plots_transfer.transfer_table`. removed: `plots_transfer.removed_table`, of one pair or several.
    """
    found = {}
    if overlaps:
        caption = (
            "Row: whose circuit; column: in whose circuit they are too. * : more than random sets with as many heads "
            "in every layer, q < 0.05 over all pairs. Diagonal: size of the circuit."
        )
        table = el("details", el("summary", "The same in figures"), _pairs(overlaps))
        content = [figure("overlap_matrix", caption), table]
        found["overlap"] = ("Overlap", section("overlap", "What the circuits share", *content))
    if transfer is not None and len(transfer):
        caption = (
            "Faithfulness on the column's task when only the row's heads keep what they carry: 1 is the whole model, 0 "
            "all heads replaced. Below it, the mean of as many random heads of the same layers. * : the whole interval "
            "lies above all their draws."
        )
        table = el("details", el("summary", "The same in figures"), _moved(transfer))
        content = [figure("transfer_matrix", caption), table]
        found["transfer"] = ("Transfer", section("transfer", "Each circuit on the other tasks", *content))
    if removed is not None and len(removed):
        found["removed"] = ("Shared heads removed", _removed(removed))
    return found


def matrix_figures(
    tasks: Sequence[str], overlaps: Sequence[Overlap], transfer: pd.DataFrame | None, removed: pd.DataFrame | None
) -> dict[str, go.Figure]:
    """The figures that `matrix_sections` has places for."""
    drawn = {}
    if overlaps:
        drawn["overlap_matrix"] = plots_overlap.overlap_matrix(pair_table(overlaps), tasks)
    if transfer is not None and len(transfer):
        circuits = list(dict.fromkeys(transfer["circuit"]))
        drawn["transfer_matrix"] = plots_transfer.transfer_matrix(
            transfer, circuits, list(dict.fromkeys(transfer["task"]))
        )
    if removed is not None and len(removed):
        drawn["removed_marks"] = plots_transfer.removed_marks(removed)
    return drawn


def _pairs(overlaps: Sequence[Overlap]) -> Html:
    pairs = pair_table(overlaps)
    rows = []
    for row, found in enumerate(overlaps):
        noise = "not known" if found.noise is None else f"{found.noise.low:g} to {found.noise.high:g}"
        cells = (
            f"{len(found.shared)} of {len(found.heads_a)} and {len(found.heads_b)}", number(found.count.expected),
            number(found.p_value), number(float(pairs["q"][row])), number(found.jaccard),
            number(found.weighted_jaccard.value), number(found.rank_biased.value), number(found.spearman.value), noise,
        )  # fmt: skip
        name = f"{found.task_a}, {found.task_b}"
        rows.append(el("tr", el("th", name, scope="row"), *(el("td", cell, class_="v") for cell in cells)))
    head = (
        "pair", "shared", "by chance", "p", "q", "Jaccard", "weighted", "rank-biased", "Spearman",
        "over resampled prompts",
    )  # fmt: skip
    return scrolling("All pairs", head, rows)


def _moved(transfer: pd.DataFrame) -> Html:
    frame = transfer.reset_index(drop=True)
    rows = [
        el("tr", el("th", frame["circuit"][row], scope="row"), el("td", frame["task"][row]),
           *(el("td", with_interval(frame, row, name), class_="v") for name in ("faithfulness", "random")),
           el("td", number(float(frame["p"][row])), class_="v"))
        for row in frame.index
    ]  # fmt: skip
    return scrolling("Transfer", ("heads of", "task", "faithfulness", "random heads, range of the draws", "p"), rows)


def _removed(removed: pd.DataFrame) -> Html:
    """What removing the shared heads does to both tasks, beside removing those of one circuit alone."""
    frame = removed.reset_index(drop=True)
    rows = [
        el("tr", el("th", f"{frame['a'][row]}, {frame['b'][row]}", scope="row"), el("td", frame["task"][row]),
           el("td", frame["part"][row]), el("td", str(frame["heads"][row])),
           *(el("td", with_interval(frame, row, name), class_="v") for name in ("lost", "random")),
           el("td", number(float(frame["p"][row])), class_="v"))
        for row in frame.index
    ]  # fmt: skip
    text = (
        "If two tasks use the heads they share, removing those costs both, and removing the heads of one circuit alone "
        "costs the other no more than random heads of the same layers."
    )
    caption = (
        "Share of what the task loses with all heads replaced, when only these are. Line: 95 % interval over prompts; "
        "grey: range of the draws of as many random heads of the same layers, of neither circuit. Filled: the whole "
        "interval lies above all draws. In brackets: number of heads; parts of unequal size compare with their own "
        "draws only."
    )
    head = ("circuits", "task", "removed", "heads", "share of the task lost", "random heads", "p")
    table = el("details", el("summary", "The same in figures"), scrolling("Shared heads removed", head, rows))
    return section("removed", "Shared heads removed", el("p", text), figure("removed_marks", caption), table)
