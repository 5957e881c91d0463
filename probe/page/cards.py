"""What a head card says, in plain facts: one notable head, from tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe.analyses.effects import ESTIMATES
from probe.circuits.circuit import Circuit
from probe.circuits.graph import head_node
from probe.columns import METRIC_UNITS
from probe.page.material import Material
from probe.page.telling import CRITERIA, names, strongest
from probe.plots.circuit import evidence, role_words, shown
from probe.plots.retrieval import Retrieval
from probe.plots.style import LEVEL
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.text import number, with_interval
from probe.token_file import TokenTexts

MOST = 16
"""Cards on a page."""
PAIRS = 3
"""Pairs of tokens that a card shows; the tables hold more."""
EDGES = 3
"""Edges into and out of a head that a card names."""
BEHIND = 4
"""Numbers behind a role that a card shows."""
FAR = 32
"""A position counts as a place that a head looks at when so many queries may see it (METRICS, sink_other)."""
NOTICED = 0.05
"""What a position must receive to be named."""


@dataclass(frozen=True)
class Notable:
    """A head worth a card: its row, its name, and the behaviours, tasks and circuits that it stands for."""

    row: int
    name: str
    why: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """One place where a head looks: a query and its strongest key, with the weight; positions in one sequence."""

    query: int
    key: int
    weight: float


def notable(
    table: HeadTable, studies: Sequence[TaskStudy] = (), circuits: Sequence[Circuit] = (), limit: int = MOST
) -> list[Notable]:
    """The heads to have a card, at most `limit`: the first of every behaviour, task and circuit, then the second, ….

    A behaviour puts forward heads that have its role (or, where no role is tied to it, its strongest heads); a task
    those whose removal passes q < 0.05, strongest first; a circuit its heads of largest score. Ties go to the first.
    """
    queues = [*_tasks(table, studies), *_circuits(table, circuits), *_behaviours(table)]
    chosen: list[int] = []
    for place in range(max((len(rows) for _, rows in queues), default=0)):
        for _, rows in queues:
            if place < len(rows) and rows[place] not in chosen:
                chosen.append(rows[place])
    kept, labels = chosen[:limit], names(table.frame)
    return [Notable(row, labels[row], tuple(why for why, rows in queues if row in rows)) for row in kept]


Queue = tuple[str, list[int]]


def _behaviours(table: HeadTable) -> list[Queue]:
    queues = []
    for criterion in CRITERIA:
        rows = strongest(table, criterion)
        if criterion.role is not None:
            rows = [row for row in rows if criterion.role in table.frame["roles"][row]]
        queues.append((criterion.label, rows))
    return queues


def _tasks(table: HeadTable, studies: Sequence[TaskStudy]) -> list[Queue]:
    places = rows_of(table)
    queues = []
    for study in studies:
        numbers, effects = study.numbers[study.lead], study.effects[study.lead]
        passed = numbers[numbers["effect_q"] < LEVEL]
        order = passed["effect"].abs().sort_values(ascending=False, kind="stable").index
        rows = [places[unit.heads[0]] for unit in (effects.units[index] for index in order) if len(unit.heads) == 1]
        queues.append((f"{study.task.name} breaks or gains without it", rows[:MOST]))
    return queues


def _circuits(table: HeadTable, circuits: Sequence[Circuit]) -> list[Queue]:
    places, queues = rows_of(table), []
    for circuit in circuits:
        heads = sorted(circuit.heads, key=lambda head: (-abs(circuit.score_of(head)), head))
        queues.append((f"circuit of {circuit.task}", [places[head] for head in heads[:MOST]]))
    return queues


def rows_of(table: HeadTable) -> dict[tuple[int, int], int]:
    """(layer, head) → row of the table, for the stack that comes first."""
    frame = table.frame
    mine = (frame["stack"] == frame["stack"].iloc[0]) & (frame["kind"] == frame["kind"].iloc[0])
    return {(int(frame["layer"][row]), int(frame["head"][row])): int(row) for row in frame.index[mine]}


def ranked(table: HeadTable, metric: str, row: int) -> str:
    """`1st`, `13th`: where the head stands by a metric, the highest first; empty where it is not defined."""
    values = table.frame[metric]
    return "" if values.isna()[row] else ordinal(int((values > values[row]).sum()) + 1)


def ordinal(place: int) -> str:
    """`1st`, `2nd`, `13th`."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th") if place % 100 not in (11, 12, 13) else "th"
    return f"{place}{ending}"


def pairs(table: HeadTable, row: int, most: int = PAIRS) -> list[Pair] | None:
    """The head's strongest pairs, strongest first; None where the table keeps none."""
    if not all(table.has_profile(name, row) for name in ("pair_query", "pair_key", "pair_weight")):
        return None
    found = (table.profile(name, row).tolist() for name in ("pair_query", "pair_key", "pair_weight"))
    return [Pair(*pair) for pair in zip(*found, strict=True) if pair[0] >= 0 and pair[1] >= 0][:most]


def promoted(table: HeadTable, row: int, texts: TokenTexts | None) -> list[str] | None:
    """The tokens that the head promotes by copying its strongest pair's key, most promoted first; None: not known."""
    if not table.has_profile("writes", row) or texts is None:
        return None
    ids = [int(one) for one in table.profile("writes", row) if one >= 0]
    return [texts.strings.get(one, f"id {one}") for one in ids] or None


def received(table: HeadTable, row: int, texts: TokenTexts | None) -> list[str | tuple[int, str | None, float]]:
    """Where its attention rests over the whole context: sentences, and (position, token, what it receives).

    A token is named where all sequences have the same one there.
    """
    if not table.has_profile("received", row):
        return []
    values = np.asarray(table.profile("received", row), dtype=float)
    places = [0] if values[0] >= NOTICED else []
    later = np.where(np.arange(len(values)) <= len(values) - FAR, values, np.nan)
    later[0] = np.nan
    if np.isfinite(later).any() and np.nanmax(later) >= NOTICED:
        places.append(int(np.nanargmax(later)))
    if not places:
        return [f"No position receives {NOTICED:g} or more of what could reach it."]
    return [(place, _token_at(texts, place), float(values[place])) for place in places]


def _token_at(texts: TokenTexts | None, place: int) -> str | None:
    if texts is None:
        return None
    there = {tokens[place] for tokens in texts.tokens if place < len(tokens)}
    return there.pop() if len(there) == 1 else None


def reach(table: HeadTable, row: int) -> str | None:
    """How far back it looks, from its mass by distance: where half of it lies, and how much lies far away."""
    if not table.has_profile("offset_mass", row):
        return None
    mass = np.asarray(table.profile("offset_mass", row), dtype=float)
    if not np.isfinite(mass).all():
        return None
    half = int(np.searchsorted(np.cumsum(mass), 0.5 * mass.sum()))
    where = "on the token itself" if half == 0 else f"at most {2**half - 1:,} {'token' if half == 1 else 'tokens'} back"
    far = len(mass) - 3
    if far < 4:
        return f"Half of its attention falls {where}."
    return f"Half of its attention falls {where}; {number(float(mass[far:].sum()))} of it {2 ** (far - 1):,} or more."


def effects_of(studies: Sequence[TaskStudy], head: tuple[int, int]) -> list[tuple[str, str]]:
    """Task → what removing the head does to it, one a study: effect with interval, q, how, beside the clean score."""
    told = []
    for study in studies:
        numbers, effects = study.numbers[study.lead], study.effects[study.lead]
        index = next((place for place, unit in enumerate(effects.units) if head in unit.heads), None)
        if index is None or bool(numbers["effect"].isna()[index]):
            told.append((study.task.name, "not measured for this head"))
            continue
        how = "estimated" if effects.method in ESTIMATES else "measured"
        unit = effects.units[index]
        beside = "" if len(unit.heads) == 1 else f", removed with all of {unit.name}"
        q = float(numbers["effect_q"][index])
        text = (
            f"{with_interval(numbers, index, 'effect')} of {number(float(study.clean.mean[0]))} {study.unit}, "
            f"q = {number(q)} ({effects.mode.replace('_', ' ')} ablation, {how}{beside})"
        )
        told.append((study.task.name, text))
    return told


def retrieval_sets(run: Retrieval | None, head: tuple[int, int]) -> str | None:
    """Recall without the smallest set of top retrieval heads that holds this one; None where none does."""
    if run is None or not len(run.ablation):
        return None
    sets = run.metadata.get("ablation", {}).get("sets", ())
    top = [one for one in sets if one["arm"] == "top"]
    holding = [one["k"] for one in top if list(head) in [list(other) for other in one["heads"]]]
    if not holding:
        return None
    k = min(holding)
    mean = run.ablation.groupby(["k", "arm"])["recall"].mean()
    clean, without, other = (float(mean.get(key, np.nan)) for key in ((0, "clean"), (k, "top"), (k, "random")))
    others = f"the top {k} retrieval heads, this one among them," if k > 1 else "it alone"
    return (f"Recall of hidden sentences: {number(clean)} with all heads, {number(without)} without {others} and "
            f"{number(other)} without as many random heads of the same layers.")  # fmt: skip


@dataclass(frozen=True)
class Membership:
    """A head in one circuit. role: in words; text: score and evidence; reads, writes: its strongest edges there."""

    task: str
    inside: bool
    role: str
    text: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def memberships(circuits: Sequence[Circuit], head: tuple[int, int]) -> list[Membership]:
    """What the head is in every circuit."""
    return [_membership(circuit, head) for circuit in circuits]


def _membership(circuit: Circuit, head: tuple[int, int]) -> Membership:
    node, name = circuit.node_of(head), head_node(*head)
    unit = METRIC_UNITS.get(circuit.metric, circuit.metric)
    score = pd.DataFrame({"x": [node.score], "x_low": [node.low], "x_high": [node.high]})
    text = f"score {with_interval(score, 0, 'x')} {unit}"
    if found := evidence(node)[:BEHIND]:
        text += f"; {', '.join(found)}"
    role = role_words(node.role) if node.role else ""
    edges = sorted((edge for edge in circuit.edges if edge.in_circuit), key=lambda edge: -abs(edge.score))
    ports: dict[str, list[str]] = {}
    for edge in [edge for edge in edges if edge.target.startswith(f"{name}<")][:EDGES]:
        ports.setdefault(shown(edge.target).rpartition(" ")[2], []).append(shown(edge.source))
    reads = [f"its {port} reads {', '.join(sources)}" for port, sources in ports.items()]
    writes = [shown(edge.target) for edge in edges if edge.source == name]
    return Membership(circuit.task, node.in_circuit, role, text, tuple(reads), tuple(writes[:EDGES]))


def missing(page: Material) -> list[tuple[str, str]]:
    """What the cards cannot say here → the command that measures it."""
    told = (
        ("what heads do and where they look", "probe scan", page.table.scanned),
        ("what breaks without each head", "probe ablate", bool(page.studies)),
        ("circuits", "probe circuit", bool(page.circuits)),
    )
    return [(what, command) for what, command, there in told if not there]


def not_kept(page: Material) -> list[str]:
    """What a scan of an earlier version did not keep, or was not given."""
    if not page.table.scanned:
        return []
    pairs = any(name.startswith("pair_query") for name in page.table.profiles)
    lines = [] if pairs else ["The strongest pairs of tokens were not kept: scan again to have them."]
    return lines + ([] if page.tokens is not None else ["The text was not kept, so positions stand for tokens."])
