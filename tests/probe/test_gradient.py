"""Attribution against finite differences, its query and key paths against dense attention, and what is refused."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from probe.analyses.exact import ExactSweep
from probe.analyses.gradient import gradient
from probe.analyses.replacement import replacement
from probe.analyses.units import named, units_of
from probe.errors import TokensError
from probe.hooks.attention import instrument
from probe.hooks.edit_rules import Zero
from probe.hooks.edits import Edit, edit
from probe.models import load
from probe.running import Running
from probe.tasks.build import build
from probe.tasks.evaluate import logits_at
from probe.tasks.metrics import measure
from probe.tasks.task import clean_ids, corrupted_ids, metric_positions

EVERY = slice(0, None)
STEP = 1e-4


def metric(model, task, edits=()):
    """[N] the task's metric under some edits."""
    with torch.no_grad(), edit(model, list(edits)):
        logits = logits_at(model, clean_ids(task.prompts), metric_positions(task.prompts))
    return measure(logits, task.prompts, task.metric).numpy()


def moved(step):
    """The rule that moves z a step of the way to 2 z + 1: an arbitrary replacement of our own."""
    return lambda part: part.z + step * (part.z + 1)


def central(model, task, head, positions=None):
    """−d metric / d step at 0, by central differences: what `gradient` of the rule 2 z + 1 should be."""
    up, down = (metric(model, task, [Edit((head,), moved(s), positions=positions)]) for s in (STEP, -STEP))
    return -(up - down) / (2 * STEP)


@pytest.mark.parametrize("name", ["logit_diff", "prob_diff", "neg_loss"])
def test_every_head_and_prompt_agrees_with_finite_differences(make_llama, make_task, name):
    model, task = make_llama(), make_task(metric=name)
    found = gradient(model, task, EVERY, lambda _layer: lambda part: 2 * part.z + 1)
    assert found.layers == (0, 1, 2)
    assert found.z.shape == (3, 4, 5)
    assert np.array_equal(found.clean, metric(model, task))
    for layer in range(3):
        for head in range(4):
            # Central differences err by step²/6 times the third derivative, of the order of the metric's scale.
            expected = central(model, task, (layer, head))
            assert np.abs(found.z[layer, head] - expected).max() < 1e-6 * max(1, np.abs(expected).max())


def test_learned_positions_and_biases_are_served(make_gpt2, make_task):
    model, task = make_gpt2(), make_task()
    found = gradient(model, task, EVERY, lambda _layer: lambda part: 2 * part.z + 1)
    expected = central(model, task, (1, 2))
    assert np.abs(found.z[1, 2] - expected).max() < 1e-6 * max(1, np.abs(expected).max())


def test_positions_are_added_up(make_llama, make_task):
    model, task = make_llama(), make_task()

    def some(positions):
        return gradient(model, task, EVERY, lambda _layer: Zero(), positions=positions).z

    early, late = some([0, 1, 2]), some(torch.tensor([[3, 4, 5, 6, 7, 8]] * 5))
    # The same float64 terms, summed in another order: 9 · 8 of them a head.
    assert np.abs(early + late - some(None)).max() < 72 * 2**-52 * np.abs(early).max() * 10
    own = torch.tensor([[row, 8] for row in range(5)])
    expected = central(model, task, (0, 1), positions=own)
    found = gradient(model, task, EVERY, lambda _layer: lambda part: 2 * part.z + 1, positions=own)
    assert np.abs(found.z[0, 1] - expected).max() < 1e-6 * max(1, np.abs(expected).max())


def test_prompts_do_not_see_each_other(make_llama, make_task):
    model, task = make_llama(), make_task()
    whole = gradient(model, task, EVERY, lambda _layer: Zero())
    part = gradient(model, task, slice(2, 4), lambda _layer: Zero())
    assert np.abs(whole.z[:, :, 2:4] - part.z).max() < 1e-12
    assert part.layer_forwards == whole.layer_forwards * 2 / 5
    assert whole.layer_forwards == 3 * 3


def test_a_head_that_changes_nothing_is_exactly_0(make_llama, make_task):
    model, task = make_llama(), make_task()
    model.model.layers[1].self_attn.o_proj.weight.data[:, 8:16] = 0
    found = gradient(model, task, EVERY, lambda _layer: Zero())
    assert np.all(found.z[1, 1] == 0)
    assert np.all(found.z[1, 0] != 0)
    itself = gradient(model, task, EVERY, lambda _layer: lambda part: part.z, paths=("q",))
    assert np.all(itself.z == 0)


def captured(model, ids):
    """[layer] → call of a plain forward."""
    calls = []

    def keep(call):
        calls.append(call)
        return call.attend()

    with torch.no_grad(), instrument(model, keep):
        model(ids)
    return calls


@pytest.mark.parametrize("path", ["q", "k", "v"])
def test_paths_are_dense_attention_with_the_twins_tensor(make_llama, make_task, path):
    """The definition: <d metric / d z, softmax(q kᵀ) v − the same with the twin's tensor>, from dense float64."""
    model, task = make_llama(), make_task()
    found = gradient(model, task, EVERY, lambda _layer: Zero(), paths=(path,))
    assert list(found.paths) == [path]
    clean, twin = (captured(model, ids(task.prompts)) for ids in (clean_ids, corrupted_ids))
    for layer in range(3):
        for head in range(4):
            ours, theirs = ({name: getattr(call, name)[:, head // (1 if name == "q" else 2)] for name in "qkv"}
                            for call in (clean[layer], twin[layer]))  # fmt: skip
            hidden = torch.ones(9, 9).triu(1).bool()

            def dense(q, k, v, hidden=hidden):
                return (q @ k.mT * 8**-0.5).masked_fill(hidden, -torch.inf).softmax(-1) @ v

            difference = dense(**{**ours, path: theirs[path]}) - dense(**ours)
            # Finite differences along that direction give −<d metric / d z, difference>.
            up, down = (
                metric(model, task, [Edit(((layer, head),), lambda part, by=s * difference[:, None]: part.z + by)])
                for s in (STEP, -STEP)
            )
            expected = -(up - down) / (2 * STEP)
            assert np.abs(found.paths[path][layer, head] - expected).max() < 1e-6 * max(1, np.abs(expected).max())


def test_recomputed_attention_is_exact_where_the_rest_is_linear(make_llama, make_task):
    """With a linear end, replacing the last layer's q is estimated without error: the softmax is not linearised."""
    model, task = make_llama(linear_end=True), make_task()
    found = gradient(model, task, EVERY, lambda _layer: Zero(), paths=("q", "k"))
    twin = captured(model, corrupted_ids(task.prompts))[2]
    clean = metric(model, task)
    for head in range(4):

        def with_twins_queries(part):
            return replace(part.call, q=twin.q[:, part.heads]).attend()

        exact = clean - metric(model, task, [Edit(((2, head),), with_twins_queries)])
        assert np.abs(exact).max() > 1e-3
        assert np.abs(found.paths["q"][2, head] - exact).max() < 1e-10
        exact = clean - metric(model, task, [Edit(((2, head),), Zero())])
        assert np.abs(found.z[2, head] - exact).max() < 1e-10


def test_nothing_is_left_behind(make_llama, make_task):
    model, task = make_llama(), make_task()
    before = metric(model, task)
    gradient(model, task, EVERY, lambda _layer: Zero(), paths=("q", "k"))
    with pytest.raises(RuntimeError, match="on purpose"):
        gradient(model, task, EVERY, _failing)
    assert all(not p.requires_grad and p.grad is None for p in model.parameters())
    assert np.array_equal(metric(model, task), before)
    model.requires_grad_(True)
    gradient(model, task, EVERY, lambda _layer: Zero())
    assert all(p.grad is None for p in model.parameters())


def _failing(_layer):
    raise RuntimeError("on purpose")


def test_a_bridge_gives_the_same_numbers(make_llama, make_task):
    sources = pytest.importorskip("transformer_lens.model_bridge.sources._bridge_builder")
    model, task = make_llama(dtype=torch.float32), make_task()
    wanted = gradient(model, task, EVERY, lambda _layer: Zero(), paths=("q", "k"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridged = sources.build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    found = gradient(bridged, task, EVERY, lambda _layer: Zero(), paths=("q", "k"))
    scale = np.abs(wanted.z).max()
    # Two float32 evaluations of a 3-layer model: some hundred roundings of 2^-24 each.
    assert np.abs(found.z - wanted.z).max() < 500 * 2**-24 * scale
    assert np.abs(found.paths["k"] - wanted.paths["k"]).max() < 500 * 2**-24 * scale


def test_what_says_nothing_is_refused_by_name(make_llama, make_task):
    model = make_llama()
    for task, options, message in [
        (make_task(metric="accuracy"), {}, "accuracy has no gradient"),
        (make_task(metric="neg_kl"), {}, "neg_kl is 0 at the clean run"),
        (make_task(), {"paths": ("o",)}, "paths o; wanted some of q, k, v"),
        (make_task(twins=False), {"paths": ("q",)}, "no corrupted twin"),
        (make_task(), {"positions": [9]}, "positions 9 to 9; wanted 0 to 8"),
        (make_task(), {"positions": torch.zeros(4, 1)}, "for 5 prompts"),
    ]:
        with pytest.raises(TokensError, match=message):
            gradient(model, task, EVERY, lambda _layer: Zero(), **options)
    with pytest.raises(TokensError, match="no prompts"):
        gradient(model, make_task(), slice(5, 9), lambda _layer: Zero())


def mean_gradient(loaded, task, **options):
    """[L, H, N] attributions in mode `mean`."""
    made = replacement(Running(loaded.model), task, "mean")
    return gradient(loaded.model, task, EVERY, lambda layer: made.rule(layer, EVERY), **options)


def test_the_planted_name_mover_carries_the_names_task():
    loaded = load("planted")
    task = build("names", loaded, prompts=8)
    found = mean_gradient(loaded, task, paths=("q", "k"))
    z, q = found.z.mean(2), found.paths["q"].mean(2)
    assert np.unravel_index(np.abs(z).argmax(), z.shape) == (2, 2)
    # It copies the answer to the output, which nothing bends after it but the norm: nearly all of the metric.
    assert 0.9 < z[2, 2] / found.clean.mean() < 1.1
    assert np.sort(np.abs(z).ravel())[-2] < 0.1 * z[2, 2]
    # With the twin's query it looks for the other name: the answer and the wrong one change places.
    assert q[2, 2] == pytest.approx(2 * found.clean.mean(), rel=0.1)
    assert np.delete(np.abs(q).ravel(), 18).max() < 0.01 * q[2, 2]


def test_the_planted_negative_head_has_the_opposite_sign():
    """The loss is saturated (1e-6), and so are the gradients; their signs and order are right all the same."""
    loaded = load("planted")
    task = build("induction", loaded, prompts=4)
    z = mean_gradient(loaded, task).z.mean(2)
    order = np.argsort(-np.abs(z).ravel())
    assert order[:2].tolist() == [8, 9]  # L1H0 and L1H1
    assert z[1, 0] > 0 > z[1, 1]


@pytest.mark.real
def test_on_a_real_model_late_heads_agree_with_removal():
    """SmolLM2 on IOI: the last layers' heads have little above them that bends, so that the estimate is close."""
    loaded = load("smollm2-135m")
    task = build("ioi", loaded, prompts=8)
    running = Running(loaded.model)
    made = replacement(running, task, "mean")
    found = gradient(loaded.model, task, EVERY, lambda layer: made.rule(layer, EVERY)).z
    units = named(units_of(running, "head"), [f"L29H{head}" for head in range(9)])
    sweep = ExactSweep(running, task)
    exact = sweep.clean(EVERY) - sweep.ablated(units, made, EVERY)
    strong = np.abs(exact.mean(1)) > 0.3
    assert strong.sum() >= 2
    # What is left of the network bends the metric by the final norm alone.
    assert found[29][strong].mean(1) == pytest.approx(exact[strong].mean(1), rel=0.1)
    order = np.argsort(-np.abs(found.mean(2)).ravel())[:5]
    assert {23 * 9 + 3, 29 * 9 + 1} <= set(order.tolist())
