"""Edges of a graph: what they are worth by gradients, exactly, and all together, against a plain run edge by edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from probe.analyses import edge_attribution, graph_model
from probe.analyses.edge_attribution import attribute
from probe.analyses.edge_circuit import edge_metric
from probe.analyses.edge_effects import edge_effect
from probe.analyses.graph_model import GraphModel
from probe.errors import ResultsError, TokensError
from probe.models import Loaded
from probe.tasks.metrics import measure
from probe.tasks.task import clean_ids, corrupted_ids, metric_positions

# float64, streams of size 10, some hundred roundings; RMSNorm of torch in float64 (conftest).
CLOSE = 1e-11


def writes_of(model, ids, graph, keep=None, corrupted=None, nudged=None):
    """{source: [n, T, d]} and the stream that the logits read, with edges outside `keep` corrupted.

    A small Llama run edge by edge, from METHODS 12 and without the hooks: every reader's input is summed from its
    sources, one head and one port at a time.

    nudged: {(source, target): tensor} added to what a target reads from a source.
    """
    base = model.model
    length = ids.shape[1]
    cos, sin = base.rotary_emb(torch.zeros(1, dtype=torch.float64), torch.arange(length)[None])
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    wrote = {"input": base.embed_tokens(ids)}

    def read(target):
        total = 0
        for source, write in wrote.items():
            edge = graph.source(source), graph.target(target)
            total = total + (write if keep is None or keep[edge] else corrupted[source])
            total = total + (nudged or {}).get((source, target), 0)
        return total

    for layer, block in enumerate(base.layers):
        attention = block.self_attn
        width = attention.head_dim
        heads = {}
        for head in range(graph.n_heads):
            group = head // (graph.n_heads // model.config.num_key_value_heads)
            made = []
            for port, module, number in (
                ("q", attention.q_proj, head), ("k", attention.k_proj, group), ("v", attention.v_proj, group),
            ):  # fmt: skip
                normed = block.input_layernorm(read(f"a{layer}.h{head}<{port}>"))
                made.append(normed @ module.weight[number * width : (number + 1) * width].T)
            q, k = apply_rotary_pos_emb(made[0][:, None], made[1][:, None], cos, sin)
            scores = (q[:, 0] @ k[:, 0].transpose(1, 2)) * width**-0.5
            pattern = scores.masked_fill(~causal, -torch.inf).softmax(-1)
            z = pattern @ made[2]
            heads[f"a{layer}.h{head}"] = z @ attention.o_proj.weight[:, head * width : (head + 1) * width].T
        wrote |= heads
        wrote[f"m{layer}"] = block.mlp(block.post_attention_layernorm(read(f"m{layer}")))
    return wrote, read("logits")


def logits_of(model, stream):
    return model.lm_head(model.model.norm(stream))


@pytest.fixture
def llama(make_llama):
    return Loaded(make_llama(layers=2), None, "small", "test", "0")


@pytest.fixture
def gpt2(make_gpt2):
    return Loaded(make_gpt2(), None, "small", "test", "0")


def metric_of(task, logits):
    positions = metric_positions(task.prompts)
    kept = logits.gather(1, positions[:, :, None].expand(-1, -1, logits.shape[2]))
    return measure(kept, task.prompts, task.metric).numpy()


def naive(loaded, task, keep, nudged=None):
    graph = GraphModel(loaded).graph
    with torch.no_grad():
        corrupted, _ = writes_of(loaded.model, corrupted_ids(task.prompts), graph)
        _, stream = writes_of(loaded.model, clean_ids(task.prompts), graph, keep, corrupted, nudged)
        return metric_of(task, logits_of(loaded.model, stream))


def random_circuit(graph, share, seed=0):
    return np.random.default_rng(seed).random(graph.possible.shape) < share


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_circuit_is_the_plain_run_edge_by_edge(llama, make_task, share):
    task = make_task()
    keep = random_circuit(GraphModel(llama).graph, share)
    np.testing.assert_allclose(edge_metric(llama, task, keep), naive(llama, task, keep), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_all_edges_are_the_clean_run_and_none_the_corrupted_one(name, request, make_task):
    loaded, task = request.getfixturevalue(name), make_task()
    graph = GraphModel(loaded).graph
    every, none = np.ones(graph.possible.shape, bool), np.zeros(graph.possible.shape, bool)
    found = edge_metric(loaded, task, [every, none])
    with torch.no_grad():
        for ids, got in zip((clean_ids, corrupted_ids), found, strict=True):
            np.testing.assert_allclose(got, metric_of(task, loaded.model(ids(task.prompts)).logits), atol=CLOSE)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_effect_of_one_edge_is_the_circuit_without_it(name, request, make_task):
    loaded, task = request.getfixturevalue(name), make_task()
    graph = GraphModel(loaded).graph
    edges = [
        ("input", "a0.h1<q>"), ("input", "m0"), ("a0.h3", "a1.h2<k>"), ("m0", "a1.h2<v>"), ("a0.h0", "m1"),
        ("a1.h1", "logits"), ("m0", "logits"), ("a0.h2", "a1.h0<q>"),
    ]  # fmt: skip
    found = edge_effect(loaded, task, edges)
    every = np.ones(graph.possible.shape, bool)
    clean = edge_metric(loaded, task, every)
    for edge, effect in zip(edges, found, strict=True):
        without = every.copy()
        without[graph.source(edge[0]), graph.target(edge[1])] = False
        np.testing.assert_allclose(effect, clean - edge_metric(loaded, task, without), rtol=0, atol=CLOSE)
    assert np.abs(found).max() > 0.01


@pytest.mark.parametrize("metric", ["logit_diff", "neg_loss"])
def test_attribution_is_the_slope_of_every_edge(llama, make_task, metric):
    """A nudge of an edge along what it carries changes the metric by its score, to first order."""
    task = make_task(2, metric=metric)
    graph = GraphModel(llama).graph
    scores = attribute(llama, task, method="eap")
    clean, _ = writes_of(llama.model, clean_ids(task.prompts), graph)
    twins, _ = writes_of(llama.model, corrupted_ids(task.prompts), graph)
    step = 1e-5
    for edge in (("input", "a0.h1<k>"), ("a0.h2", "a1.h3<q>"), ("m0", "a1.h0<v>"), ("a0.h1", "m1"), ("m1", "logits")):
        change = clean[edge[0]] - twins[edge[0]]
        ends = [naive(llama, task, None, {edge: sign * step * change}) for sign in (1, -1)]
        slope = (ends[0] - ends[1]).mean() / (2 * step)
        # A central difference: step squared times a third derivative of order 1, and 1e-15 / step of rounding.
        assert scores.edges[graph.source(edge[0]), graph.target(edge[1])] == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_scores_into_a_reader_add_up_to_what_its_input_is_worth(name, request, make_task):
    """METHODS 12: sum over sources of s(u -> v) = <in_v(x) - in_v(x'), gradient>, since in_v is their sum."""
    loaded, task = request.getfixturevalue(name), make_task()
    model = GraphModel(loaded)
    (pair,) = list(model.pairs(task, task.prompts))
    wiring = edge_attribution._Gradients(model, pair)
    scores = edge_attribution._scores(model, task, pair, [1.0]).sum((0, 1)) / len(task.prompts)
    with torch.enable_grad():
        logits = model.logits(clean_ids(task.prompts), pair.positions, wiring)
        torch.autograd.grad(measure(logits, task.prompts, task.metric).sum(), wiring.leaf)
    for column in range(len(model.graph.targets)):
        change = (pair.clean - pair.corrupted)[: model.before(column)].sum(0)
        worth = float((change * wiring._sums[column]).sum()) / len(task.prompts)
        assert float(scores[column]) == pytest.approx(worth, abs=CLOSE)


def test_edges_that_end_in_a_linear_map_are_exact(make_llama, make_task):
    """Without a final norm, and with no MLP after it, the last layer's heads act on the logits linearly."""
    loaded = Loaded(make_llama(layers=2, linear_end=True), None, "small", "test", "0")
    task = make_task()
    graph = GraphModel(loaded).graph
    edges = [(source, "logits") for source in graph.sources]
    exact = edge_effect(loaded, task, edges).mean(1)
    found = attribute(loaded, task, method="eap").edges[:, graph.target("logits")]
    np.testing.assert_allclose(found, exact, rtol=0, atol=CLOSE)


def test_integrated_scores_of_the_input_become_the_whole_effect(llama, make_task):
    """Completeness of integrated gradients: the input's edges together are worth clean − corrupted."""
    task = make_task()
    graph = GraphModel(llama).graph
    ends = edge_metric(llama, task, [np.ones(graph.possible.shape, bool), np.zeros(graph.possible.shape, bool)])
    errors = []
    for steps in (8, 16, 64):
        scores = attribute(llama, task, steps=steps)
        errors.append(np.abs(scores.nodes[0] - (ends[0] - ends[1])).max())
    # The midpoint rule errs by the square of the step where the path is smooth at that step.
    assert errors[2] < errors[1] / 4 < errors[0] / 4
    assert errors[2] < 0.01 * np.abs(ends[0] - ends[1]).max()


def test_left_ends_start_at_the_corrupted_run_and_one_right_end_is_eap(llama, make_task):
    task = make_task()
    one = attribute(llama, task, steps=1, points="right")
    np.testing.assert_array_equal(one.edges, attribute(llama, task, method="eap").edges)
    assert not np.allclose(attribute(llama, task, steps=1, points="left").edges, one.edges)


def test_batches_do_not_matter_and_nodes_are_sums_over_edges(llama, make_task, monkeypatch):
    task = make_task()
    whole = attribute(llama, task)
    monkeypatch.setattr(graph_model, "WRITE_BYTES", 1)  # one prompt a batch
    single = attribute(llama, task)
    np.testing.assert_allclose(single.edges, whole.edges, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(single.error, whole.error, rtol=0, atol=1e-6)  # a root of a difference of squares
    np.testing.assert_allclose(whole.nodes.mean(1), whole.edges.sum(1), rtol=0, atol=CLOSE)
    assert not whole.edges[~whole.graph.possible].any()
    alone = [attribute(llama, task, rows=slice(index, index + 1)).edges for index in range(len(task.prompts))]
    error = np.std(alone, axis=0, ddof=1) / len(alone) ** 0.5
    np.testing.assert_allclose(whole.error, error, rtol=0, atol=1e-6)


def test_exact_effects_do_not_depend_on_how_many_edges_run_together(llama, make_task, monkeypatch):
    from probe.analyses import edge_effects

    task = make_task()
    edges = [("a0.h1", "a1.h2<k>"), ("m0", "a1.h2<v>"), ("a0.h3", "m1")]
    together = edge_effect(llama, task, edges)
    monkeypatch.setattr(edge_effects, "COPY_TOKENS", 1)
    np.testing.assert_allclose(edge_effect(llama, task, edges), together, rtol=0, atol=CLOSE)


def test_tied_ports_hold_the_sum_of_their_group(llama, make_task):
    scores = attribute(llama, make_task())
    graph, tied = scores.graph, scores.tied(2)
    row = graph.source("a0.h1")
    for port in "kv":
        pair = [scores.edges[row, graph.target(f"a1.h{head}<{port}>")] for head in (2, 3)]
        for head in (2, 3):
            assert tied[row, graph.target(f"a1.h{head}<{port}>")] == pytest.approx(sum(pair))
    for target in ("a1.h2<q>", "m1", "logits"):
        assert tied[row, graph.target(target)] == scores.edges[row, graph.target(target)]


def test_what_cannot_be_asked_is_refused(llama, make_task):
    task = make_task()
    with pytest.raises(TokensError, match="method 'acdc'"):
        attribute(llama, task, method="acdc")
    with pytest.raises(TokensError, match="0 steps"):
        attribute(llama, task, steps=0)
    with pytest.raises(TokensError, match="accuracy has no gradient"):
        attribute(llama, make_task(metric="accuracy"))
    with pytest.raises(TokensError, match="no corrupted twin"):
        attribute(llama, make_task(twins=False))
    with pytest.raises(TokensError, match=r"a0\.h0<q> reads before"):
        edge_effect(llama, task, [("m1", "a0.h0<q>")])
    with pytest.raises(ResultsError, match=r"no source 'a9\.h0'"):
        edge_effect(llama, task, [("a9.h0", "logits")])
    with pytest.raises(TokensError, match="wanted bool"):
        edge_metric(llama, task, np.ones((2, 2), bool))
    same = replace(task, prompts=tuple(replace(one, corrupted_ids=one.clean_ids) for one in task.prompts))
    with pytest.raises(TokensError, match="the clean and the corrupted run are identical"):
        attribute(llama, same)
