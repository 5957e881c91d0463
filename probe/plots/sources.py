"""Maps of what heads do that are no columns of a table: what they write, send, are worth by some criterion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from probe.circuits.graph import head_of
from probe.columns import METRIC_UNITS
from probe.plots.cells import cell_map
from probe.plots.style import DIVERGING, NOT_DEFINED, look, titled
from probe.statistics import bootstrap
from probe.table import head_name
from probe.text import number

if TYPE_CHECKING:
    from probe.analyses.activation_patching import Patched
    from probe.analyses.direct_logit import DirectLogit
    from probe.analyses.edge_attribution import EdgeScores
    from probe.analyses.importance import Importance
    from probe.analyses.path_patching import PathEffects
    from probe.analyses.units import Head

ROWS = 40
"""Heads that a map of heads × places shows: the strongest."""


def values_map(
    values: Mapping[Head, Float[np.ndarray, "n"]], unit: str, *, groups: Sequence[str] | None = None
) -> go.Figure:
    """Layer × head map of means over prompts, with triangles where the 95 % interval leaves out 0.

    values: of every head, one a prompt, in `unit`; heads that are missing are sand. groups: a label a prompt, drawn
    together by the bootstrap.
    """
    layers, heads = (sorted({head[axis] for head in values}) for axis in (0, 1))
    spread = bootstrap(np.stack(list(values.values()), axis=1), groups=groups)
    mean, signs = np.full((len(layers), len(heads)), np.nan), np.zeros((len(layers), len(heads)), dtype=int)
    hover = np.full(mean.shape, "", dtype=object)
    signed = bool((spread.mean < 0).any())
    for index, head in enumerate(values):
        place = layers.index(head[0]), heads.index(head[1])
        low, high = float(spread.low[index]), float(spread.high[index])
        mean[place], signs[place] = spread.mean[index], signed * ((low > 0) - (high < 0))
        told = "" if np.isnan(low) else f" [{number(low)}, {number(high)}]"
        hover[place] = f"<b>{head_name(*head)}</b><br>{number(float(mean[place]))}{told}"
    return cell_map(layers, heads, mean, hover, unit, signs, corrected=False)


def _of_sources(names: Sequence[str], values: Float[np.ndarray, "sources n"]) -> dict[Head, Float[np.ndarray, "n"]]:
    """Those of the sources that are heads, by head."""
    heads = ((head_of(name), value) for name, value in zip(names, values, strict=True) if name[:1] == "a")
    return {head: value for head, value in heads if head is not None}


def direct_map(found: DirectLogit) -> go.Figure:
    """What every head writes straight into the logit difference; the note adds up what is not a head's."""
    total = {"input": 0.0, "m": 0.0}
    for name, value in zip(found.graph.sources, found.writes, strict=True):
        kind = name if name == "input" else name[0]
        total[kind] = total.get(kind, 0.0) + float(value.mean())
    rest = float(sum(value.mean() for value in found.constants.values()))
    figure = values_map(_of_sources(found.graph.sources, found.writes), "logits")
    note = (f"Logit difference {number(float(found.logit_diff.mean()))} = heads {number(total.get('a', 0.0))}, MLPs "
            f"{number(total['m'])}, input {number(total['input'])}, biases {number(rest)}; means over "
            f"{len(found.logit_diff)} prompts")  # fmt: skip
    return titled(figure, f"What each head writes into the logits of {found.task}", note)


def scores_map(found: EdgeScores) -> go.Figure:
    """What every head is worth, all its outgoing edges together."""
    figure = values_map(_of_sources(found.graph.sources, found.nodes), "metric's unit")
    note = f"Sum over its outgoing edges ({found.method}), mean over {found.nodes.shape[1]} prompts"
    return titled(figure, "What each head is worth", note)


def path_map(found: PathEffects) -> go.Figure:
    """What every sender does through the receivers; heads that were no senders are sand."""
    figure = values_map(_of_sources(found.senders, found.effect), METRIC_UNITS.get(found.metric, found.metric))
    several = ", ".join(found.receivers[:4]) + (f" and {len(found.receivers) - 4} more" * (len(found.receivers) > 4))
    note = f"Clean − patched {found.metric}, mean over {len(found.clean)} prompts: positive where the path helps"
    return titled(figure, f"What each head does for {found.task} through {several}", note)


def importance_map(found: Importance) -> go.Figure:
    """A criterion's score of every head; higher is more important."""
    values = {head: found.values[:, head[0], head[1]] for head in np.ndindex(*found.values.shape[1:])}
    figure = values_map(dict(values), "score")
    note = f"Mean over {len(found.values)} unit{'s' * (len(found.values) > 1)} ({found.unit}); higher is more important"
    return titled(figure, f"Importance by {found.name}", note)


def patched_map(found: Patched) -> go.Figure:
    """Heads × places: the share of what parts the two runs that patching takes away (noising) or brings back.

    1 − normalised when noising, normalised when denoising. Drawn are the heads that reach farthest from 0 at some
    place, at most `ROWS`, in the model's order; the note says of how many.
    """
    noising = found.direction == "noising"
    share = 1 - found.normalised if noising else found.normalised
    strongest = np.argsort(-np.abs(share).max(axis=1), kind="stable")[:ROWS]
    kept = sorted(strongest.tolist(), key=lambda row: found.heads[row])
    places = ["all positions" if place is None else str(place) for place in found.places]
    labels = [head_name(*found.heads[row]) for row in kept]
    largest = float(np.abs(share[kept]).max()) or 1.0
    verb = "taken away" if noising else "brought back"
    figure = go.Figure(
        go.Heatmap(
            z=share[kept], x=places, y=labels, xgap=1, ygap=1, zmin=-largest, zmax=largest, colorscale=DIVERGING,
            hovertemplate=f"<b>%{{y}}</b> at %{{x}}<br>share {verb} %{{z:.3f}}<extra></extra>",
            colorbar={"thickness": 12, "outlinewidth": 0, "title": {"text": f"share {verb}", "side": "right"}},
        )
    )  # fmt: skip
    look(figure, "place", "", height=120 + 18 * len(kept))
    figure.update_layout(plot_bgcolor=NOT_DEFINED)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, dtick=1, title=None)
    note = f"Share of what parts the two runs, {verb} by one head at one place"
    if len(kept) < len(found.heads):
        note += f"; the {len(kept)} heads of {len(found.heads)} that do most at some place"
    return titled(figure, f"{found.task}: {found.direction}, head by head and place by place", note)
