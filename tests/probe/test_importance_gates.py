"""Michel's three versions: finite differences in a gate, their order, and what leaves them unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probe.analyses import importance_gates
from probe.analyses.importance_gates import GateGradients, gate_gradients, min_max, within_layer
from probe.errors import TokensError
from probe.hooks.edit_rules import Scale
from probe.hooks.edits import Edit, edit
from probe.tasks.evaluate import logits_at
from probe.tasks.metrics import measure
from probe.tasks.task import Prompt, Task, clean_ids, metric_positions

EVERY = slice(0, None)
STEP = 1e-4
VERSIONS = ("token", "example", "batch")


def gated(model, task, head, factor):
    """[N] the metric with a gate on one head's output."""
    with torch.no_grad(), edit(model, [Edit((head,), Scale(factor))]):
        logits = logits_at(model, clean_ids(task.prompts), metric_positions(task.prompts))
    return measure(logits, task.prompts, task.metric).numpy()


def scores(model, task):
    found = gate_gradients(model, task, EVERY)
    return {version: found.scores(version).mean(0) for version in VERSIONS}


@pytest.mark.parametrize("metric", ["logit_diff", "neg_loss"])
def test_per_prompt_is_the_gates_finite_difference(make_llama, make_task, metric):
    model, task = make_llama(), make_task(metric=metric)
    found = gate_gradients(model, task, EVERY)
    assert found.signed.shape == found.absolute.shape == (5, 3, 4)
    for layer in range(3):
        for head in range(4):
            up, down = (gated(model, task, (layer, head), 1 + step) for step in (STEP, -STEP))
            expected = (up - down) / (2 * STEP)
            # Central differences err by step²/6 times the third derivative, of the order of the metric's scale.
            assert np.abs(found.signed[:, layer, head] - expected).max() < 1e-6 * max(1, np.abs(expected).max())
    assert np.array_equal(found.scores("example"), np.abs(found.signed))


def test_token_is_at_least_example_is_at_least_batch(make_llama, make_task):
    found = scores(make_llama(), make_task())
    assert (found["token"] >= found["example"] - 1e-12).all()
    assert (found["example"] >= found["batch"] - 1e-12).all()
    assert (found["token"] > found["example"] * 1.01).any()
    assert (found["example"] > found["batch"] * 1.01).any()


def test_batches_are_the_definition(make_llama, make_task):
    """Σ over batches of |Σ over the batch's prompts| / N, whatever the last batch's size; batches of 1 are example."""
    found = gate_gradients(make_llama(), make_task(), EVERY)
    by_two = found.scores("batch", batch=2)
    assert by_two.shape == (3, 3, 4)
    sums = [found.signed[:2].sum(0), found.signed[2:4].sum(0), found.signed[4:].sum(0)]
    assert by_two.mean(0) == pytest.approx(np.abs(sums).sum(0) / 5)
    assert found.scores("batch", batch=1).mean(0) == pytest.approx(found.scores("example").mean(0))
    assert found.scores("batch") == pytest.approx(np.abs(found.signed.mean(0))[None])


def test_a_silent_head_has_none(make_llama, make_task):
    model, task = make_llama(), make_task()
    model.model.layers[1].self_attn.v_proj.weight.data[:8] = 0  # key/value head 0: query heads 0 and 1
    for found in scores(model, task).values():
        assert np.all(found[1, :2] == 0)
        assert np.all(found[1, 2:] > 0)


def test_scaling_values_against_the_projection_changes_nothing(make_llama, make_task):
    model, task = make_llama(), make_task()
    before = scores(model, task)
    attention = model.model.layers[1].self_attn
    attention.v_proj.weight.data[8:16] *= 8  # a power of two, so that nothing is rounded
    attention.o_proj.weight.data[:, 16:32] /= 8
    after = scores(model, task)
    for version in VERSIONS:
        assert after[version] == pytest.approx(before[version], rel=1e-12, abs=1e-15)
    attention.o_proj.weight.data[:, 16:24] *= 2
    assert not np.allclose(scores(model, task)["example"], before["example"])


def test_contributions_of_plus_and_minus_a_cancel_in_the_papers_version_only(make_llama, monkeypatch):
    """One token everywhere: z is v at every position. The metric's answer at two positions is taken apart."""
    model = make_llama(layers=1, linear_end=True)
    task = Task("same", "logit_diff", (Prompt((3,) * 6, (1,), (2,), (4, 5), ""),))

    def difference(*_):
        return lambda logits: logits[:, 0, 1] - logits[:, 1, 1]

    monkeypatch.setattr(importance_gates, "judge_of", difference)
    found = gate_gradients(model, task, EVERY)
    monkeypatch.setattr(importance_gates, "judge_of", lambda *_: lambda logits: logits[:, 0, 1])
    alone = np.abs(gate_gradients(model, task, EVERY).signed)
    assert (alone > 1e-3).any()
    # Softmax rows of equal values round to 1 within some 2^-52.
    assert np.abs(found.scores("example")).max() < 1e-13
    assert found.scores("token") == pytest.approx(2 * alone, rel=1e-12)


def test_normalisations():
    values = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert within_layer(values) == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))
    assert within_layer(np.stack([values, values])).shape == (2, 2, 2)
    assert min_max(values) == pytest.approx(np.array([[0.75, 1.0], [0.0, 0.0]]))
    assert np.isnan(min_max(np.ones((2, 2)))).all()


def test_what_says_nothing_is_refused(make_llama, make_task):
    with pytest.raises(TokensError, match="accuracy has no gradient"):
        gate_gradients(make_llama(), make_task(metric="accuracy"), EVERY)
    found = GateGradients(np.ones((2, 1, 1)), np.ones((2, 1, 1)))
    with pytest.raises(TokensError, match="over 'layer'"):
        found.scores("layer")
    with pytest.raises(TokensError, match="batches of 0"):
        found.scores("batch", batch=0)
