"""Sets of heads replaced by their corrupted z, against a loop over prompts with one hook a layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from probe.analyses.head_runs import HeadRuns, halves
from probe.errors import TokensError
from probe.models import load
from probe.tasks.metrics import measure


def brute_force(model, task, heads):
    """z of `heads` from the twin's own run, prompt by prompt; o_proj reads the heads side by side, 8 wide."""
    result = []
    for prompt in task.prompts:
        kept, values = {}, []
        for first, ids in ((True, prompt.corrupted_ids), (False, prompt.clean_ids)):
            handles = []
            for layer, block in enumerate(model.model.layers):

                def put(_module, inputs, layer=layer, kept=kept, first=first):
                    if first:
                        kept[layer] = inputs[0].clone()
                        return None
                    changed = inputs[0].clone()
                    for head in [head for at, head in heads if at == layer]:
                        changed[..., 8 * head : 8 * head + 8] = kept[layer][..., 8 * head : 8 * head + 8]
                    return (changed,)

                handles.append(block.self_attn.o_proj.register_forward_pre_hook(put))
            with torch.no_grad():
                logits = model(torch.tensor([ids]), use_cache=False).logits[:, list(prompt.metric_positions)]
            values.append(float(measure(logits, [prompt], task.metric)[0]))
            for handle in handles:
                handle.remove()
        result.append(values[1])
    return np.array(result)


@pytest.fixture
def runs(make_llama, make_task):
    return HeadRuns(load(make_llama()), make_task(4))


# float64 models of width 24: a loop and a batch differ by some hundred roundings of numbers of size 10.
CLOSE = 1e-12


def test_replaced_and_kept_equal_the_plain_loop(runs):
    model, task = runs.loaded.model, runs.task
    sets = [[(0, 1)], [(2, 0), (1, 3)], runs.heads[:7], runs.heads, []]
    wanted = np.stack([brute_force(model, task, members) for members in sets])
    np.testing.assert_allclose(runs.replaced(sets), wanted, rtol=0, atol=CLOSE)
    others = [[head for head in runs.heads if head not in members] for members in sets]
    np.testing.assert_allclose(runs.kept(others), wanted, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(runs.clean, wanted[4], rtol=0, atol=CLOSE)
    np.testing.assert_allclose(runs.empty, wanted[3], rtol=0, atol=CLOSE)
    assert np.abs(np.diff(wanted, axis=0)).mean(axis=1).min() > 0.01, "the sets differ, so the comparison can fail"


def test_a_set_is_run_once_and_its_cost_counted(runs):
    runs.replaced([[(0, 0), (1, 1)], [(1, 1), (0, 0)], [(2, 0)]])
    # Three layers; a set that begins in the last one runs that one only.
    assert runs.layer_forwards == 3 + 1
    runs.kept([[head for head in runs.heads if head != (2, 0)]])
    assert runs.layer_forwards == 4
    runs.replaced([()])
    assert runs.layer_forwards == 7


def test_unknown_heads_and_missing_twins_are_refused(runs, make_task):
    with pytest.raises(TokensError, match=r"no head L3H0 in LlamaForCausalLM, of 12 heads"):
        runs.replaced([[(0, 0), (3, 0)]])
    with pytest.raises(TokensError, match="no corrupted twin"):
        HeadRuns(runs.loaded, make_task(2, twins=False))


def test_halves_keep_groups_together(make_task):
    task = make_task(6)
    first, second = halves(task)
    assert (first.prompts, second.prompts) == (task.prompts[::2], task.prompts[1::2])
    labels = ["a", "b", "a", "c", "b", ""]
    task = replace(task, prompts=tuple(replace(p, group=g) for p, g in zip(task.prompts, labels, strict=True)))
    first, second = halves(task)
    assert [prompt.group for prompt in first.prompts] == ["a", "a", "c"]
    assert [prompt.group for prompt in second.prompts] == ["b", "b", ""]
    with pytest.raises(TokensError, match="1 independent prompt; wanted two or more"):
        halves(replace(task, prompts=task.prompts[:1]))
