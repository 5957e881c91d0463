"""Forced attention against hooks on v_proj and o_proj; and a search that finds the planted heads that copy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from probe.analyses.head_runs import HeadRuns, halves
from probe.analyses.repair import force_attention, repair
from probe.errors import TokensError
from probe.hooks.errors import HookError
from probe.models import load
from probe.tasks.build import build
from probe.tasks.metrics import measure

HEADS = ((0, 1), (2, 0), (2, 3))


@pytest.fixture
def small(make_llama, make_task):
    task = make_task(4)
    places = ({"END": 8, "A": 1 + index, "B": 5} for index in range(4))
    named = (replace(p, target_ids=None, positions=at) for p, at in zip(task.prompts, places, strict=True))
    return load(make_llama()), replace(task, prompts=tuple(named))


def by_hand(model, task, metric):
    """One prompt at a time: at position 8 the heads' input to o_proj is the mean of what v_proj gave at the keys."""
    result = []
    for prompt in task.prompts:
        keys, handles, held = [prompt.positions["A"], prompt.positions["B"]], [], {}
        for layer, block in enumerate(model.model.layers):

            def note(_module, _inputs, output, layer=layer, held=held):
                held[layer] = output

            def put(_module, inputs, layer=layer, held=held, keys=keys):
                changed = inputs[0].clone()
                for head in [head for at, head in HEADS if at == layer]:
                    v = held[layer][0, keys, 8 * (head // 2) : 8 * (head // 2) + 8]
                    changed[0, 8, 8 * head : 8 * head + 8] = v.mean(0)
                return (changed,)

            handles.append(block.self_attn.v_proj.register_forward_hook(note))
            handles.append(block.self_attn.o_proj.register_forward_pre_hook(put))
        with torch.no_grad():
            logits = model(torch.tensor([prompt.clean_ids]), use_cache=False).logits[:, list(prompt.metric_positions)]
        for handle in handles:
            handle.remove()
        result.append(float(measure(logits, [prompt], metric)[0]))
    return np.array(result)


def test_forced_attention_equals_the_plain_loop(small):
    loaded, task = small
    found = force_attention(loaded, task, HEADS, to=["A", "B"])
    # float64, width 24: some hundred roundings of numbers of size 10.
    np.testing.assert_allclose(found.values, by_hand(loaded.model, task, "logit_diff"), rtol=0, atol=1e-12)
    assert np.array_equal(found.correct, by_hand(loaded.model, task, "accuracy"))
    assert np.abs(found.values - found.clean).min() > 1e-3
    assert found.mode == "force:END>A/B"
    change = found.change()
    assert change.mean == pytest.approx((found.values - found.clean).mean(), abs=1e-14)
    assert change.low < change.mean < change.high


def test_the_search_is_greedy_on_one_half_and_reported_on_the_other(small):
    loaded, task = small
    found = repair(loaded, task, [(0, 0), (1, 1), (1, 2), (2, 3)], to=["A"], size=2, draws=3, seed=5)
    first, second = halves(task)
    runs = HeadRuns(loaded, first, mode="force:END>A")
    scores, path = [runs.clean.mean()], []
    for _ in range(2):
        left = [head for head in [(0, 0), (1, 1), (1, 2), (2, 3)] if head not in path]
        means = runs.replaced([[*path, head] for head in left]).mean(1)
        if means.max() <= scores[-1]:
            break
        path.append(left[int(means.argmax())])
        scores.append(means.max())
    assert found.path == tuple(path)
    assert found.searched == pytest.approx(scores, abs=1e-12)
    np.testing.assert_allclose(found.forced.values, force_attention(loaded, second, path, to=["A"]).values, atol=1e-12)
    better = sum(value >= found.forced.values.mean() for value in found.random)
    assert found.p_value == (1 + better) / 4
    again = repair(loaded, task, [(0, 0), (1, 1), (1, 2), (2, 3)], to=["A"], size=2, draws=3, seed=5)
    assert np.array_equal(again.random, found.random)


def test_a_copying_head_made_to_look_at_the_answer_repairs_the_shuffled_twin():
    """In the twin every head looks for nothing, and copies what it sees all the same."""
    loaded = load("planted-shuffled")
    task = build("names", loaded, prompts=16)
    heads = [(layer, head) for layer in range(3) for head in range(8)]
    found = repair(loaded, task, heads, to=["IO"], size=1, draws=8)
    assert found.path[0] in {(1, 0), (2, 2)}, "induction and name mover copy with gain 1"
    before, after = found.forced.accuracy()
    assert before.mean < 0.9 < after.mean == 1
    assert found.forced.change().low > 0
    assert found.random.max() < found.forced.values.mean()
    assert found.p_value == 1 / 9
    assert "accuracy goes from" in found.sentence
    # Looking at the wrong name breaks what looking at the right one repairs.
    wrong = force_attention(loaded, task, found.path, to=["S1"])
    assert wrong.correct.mean() < 0.1


def test_what_cannot_be_forced_is_refused(small):
    loaded, task = small
    with pytest.raises(TokensError, match=r"attention forced to 'A'; wanted names"):
        force_attention(loaded, task, HEADS, to="A")
    with pytest.raises(TokensError, match=r"no position 'C' .* it has: END, A, B"):
        force_attention(loaded, task, HEADS, to=["C"])
    with pytest.raises(HookError, match="query 5 of row 0 cannot see key 8"):
        force_attention(loaded, task, HEADS, to=["END"], query="B")
    with pytest.raises(TokensError, match="no head L3H0"):
        force_attention(loaded, task, [(3, 0)], to=["A"])
    with pytest.raises(TokensError, match="4 heads wanted from 1 candidates"):
        repair(loaded, task, [(0, 0)], to=["A"])
    # The first token sees one key only, whatever is forced: nothing is raised.
    single = replace(task, prompts=tuple(replace(p, positions={"END": 0}) for p in task.prompts))
    with pytest.raises(TokensError, match="none of 1 heads raises logit_diff under force:END>END"):
        repair(loaded, single, [(0, 0)], to=["END"], size=1)


@pytest.mark.real
def test_movers_of_smollm2_bring_the_name_that_they_are_made_to_look_at():
    """L23H0 and L23H7 look at IO from END by themselves; L23H3 looks at S2, and speaks against what it sees."""
    loaded = load("smollm2-135m")
    task = build("ioi", loaded, prompts=8)
    movers, against = [(23, 0), (23, 7)], [(23, 3)]
    assert force_attention(loaded, task, movers, to=["IO"]).change().low > 0
    assert force_attention(loaded, task, movers, to=["S1"]).change().high < 0
    assert force_attention(loaded, task, against, to=["IO"]).change().high < 0
    assert force_attention(loaded, task, against, to=["S1"]).change().low > 0


@pytest.mark.real
def test_ioi_heads_of_smollm2_made_to_look_at_the_wrong_colours_repair_coloured_objects():
    """The four-head intervention: heads that speak against S2 in IOI speak against the colours that they are shown."""
    loaded = load("smollm2-135m")
    task = build("colored_objects", loaded, prompts=12)
    found = force_attention(loaded, task, [(23, 3), (19, 2), (20, 0)], to=["WRONG1", "WRONG2"])
    before, after = found.accuracy()
    assert found.change().low > 0
    assert after.mean > before.mean
