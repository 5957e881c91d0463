"""GPT-2 small's known heads, where its weights can be had: in the hub's cache, or in the folder GPT2_SMALL."""

from __future__ import annotations

import os

import pytest

from probe.analyses.direct_logit import direct_logit
from probe.analyses.edge_attribution import attribute
from probe.circuits.graph import head_node
from probe.errors import ModelError
from probe.models import Loaded, load
from probe.tasks.build import build

MOVERS, NEGATIVE = ((9, 9), (9, 6), (10, 0)), ((10, 7), (11, 10))
"""Name movers and negative name movers of Wang et al. (arXiv 2211.00593)."""


@pytest.fixture(scope="module")
def gpt2() -> Loaded:
    try:
        return load(os.environ.get("GPT2_SMALL", "gpt2"))
    except ModelError:
        pytest.skip("no weights")


@pytest.mark.real
def test_name_movers_write_the_name_and_negative_ones_against_it(gpt2):
    found = direct_logit(gpt2, build("ioi", gpt2, prompts=32))
    written = {head: found.of(head_node(*head)).mean() for head in (*MOVERS, *NEGATIVE)}
    assert all(written[head] > 0 for head in MOVERS)
    assert all(written[head] < 0 for head in NEGATIVE)


@pytest.mark.real
def test_their_edges_to_the_logits_are_among_the_strongest(gpt2):
    """METHODS 12.2: in the published graph a9.h9 -> logits is the strongest, a10.h7 and a11.h10 work against it."""
    scores = attribute(gpt2, build("ioi", gpt2, prompts=32))
    graph, column = scores.graph, scores.edges[:, -1]
    heads = sorted(graph.heads, key=lambda name: -column[graph.source(name)])
    assert head_node(9, 9) in heads[:5]
    assert {head_node(*head) for head in NEGATIVE} <= set(heads[-5:])
