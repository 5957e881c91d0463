from __future__ import annotations

import numpy as np
import pytest

from probe.analyses.activation_patching import Patched
from probe.analyses.direct_logit import DirectLogit
from probe.analyses.edge_attribution import EdgeScores
from probe.analyses.importance import Importance
from probe.analyses.path_patching import PathEffects
from probe.circuits.graph import Graph
from probe.plots import sources as plots

GRAPH = Graph(2, 3)
RNG = np.random.default_rng(0)
WRITES = RNG.normal(0, 0.01, (len(GRAPH.sources), 12))
WRITES[2] -= 2


def test_what_heads_write_is_a_map_and_the_rest_is_added_up() -> None:
    assert GRAPH.sources[2] == "a0.h1"
    constants = {"unembedding_bias": np.full(12, 0.5)}
    found = DirectLogit("ioi", GRAPH, WRITES, constants, WRITES.sum(0) + 0.5)
    figure = found.plot()
    heat, marks = figure.data
    heads = [GRAPH.source(f"a{layer}.h{head}") for layer in range(2) for head in range(3)]
    np.testing.assert_allclose(np.asarray(heat.z).ravel(), WRITES[heads].mean(1))
    strong = dict(zip(zip(marks.y, marks.x, strict=True), marks.marker.symbol, strict=True))
    assert strong[0, 1] == "triangle-down"
    assert "biases 0.50; means over 12 prompts" in figure.layout.title.text
    assert heat.text[0][1].startswith("<b>L0H1</b><br>-2.00 [-2.0")


def test_edge_scores_are_drawn_as_what_heads_are_worth() -> None:
    none = np.zeros((len(GRAPH.sources), len(GRAPH.targets)))
    figure = EdgeScores(GRAPH, none, none, WRITES, "eap", 4.0).plot()
    assert np.asarray(figure.data[0].z)[0, 1] == pytest.approx(WRITES[2].mean())
    assert "(eap), mean over 12 prompts" in figure.layout.title.text


def test_senders_that_are_heads_are_drawn_and_others_left_blank() -> None:
    senders = ("input", "a0.h1", "a1.h2")
    clean = np.full(12, 3.0)
    found = PathEffects("ioi", "logit_diff", senders, ("logits",), None, "everywhere", "live", clean, clean - 2,
                        np.stack([clean, clean - 1, clean + 0.5]), 9.0)  # fmt: skip
    heat = found.plot().data[0]
    assert (list(heat.y), list(heat.x)) == ([0, 1], [1, 2])
    drawn = np.asarray(heat.z)
    assert (drawn[0, 0], drawn[1, 1]) == (1.0, -0.5)
    assert np.isnan([drawn[0, 1], drawn[1, 0]]).all()
    assert heat.colorbar.title.text == "logits"


def test_importance_is_a_map_without_marks() -> None:
    values = RNG.random((5, 2, 3))
    heat, marks = Importance("write_norm", "prompt", values).plot().data
    np.testing.assert_allclose(heat.z, values.mean(0))
    assert len(marks.x) == 0


def patched(direction: str, heads: int = 3) -> Patched:
    clean, corrupted = np.full(4, 2.0), np.zeros(4)
    share = np.linspace(0, 1, heads * 2).reshape(heads, 2, 1).repeat(4, 2)
    values = 2 * share if direction == "denoising" else 2 - 2 * share
    names = tuple((head // 3, head % 3) for head in range(heads))
    return Patched("ioi", "logit_diff", direction, names, ("S2", None), clean, corrupted, values, 8.0)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_patching_is_drawn_as_the_share_that_it_moves(direction: str) -> None:
    figure = patched(direction).plot()
    heat = figure.data[0]
    np.testing.assert_allclose(heat.z, np.linspace(0, 1, 6).reshape(3, 2), atol=1e-12)
    assert list(heat.x) == ["S2", "all positions"]
    assert ("taken away" if direction == "noising" else "brought back") in heat.colorbar.title.text
    assert "heads of" not in figure.layout.title.text


def test_of_many_heads_the_strongest_are_drawn_and_counted() -> None:
    figure = patched("denoising", plots.ROWS + 5).plot()
    assert len(figure.data[0].y) == plots.ROWS
    assert figure.data[0].y[0] == "L1H2"
    assert f"the {plots.ROWS} heads of {plots.ROWS + 5} that do most" in figure.layout.title.text
