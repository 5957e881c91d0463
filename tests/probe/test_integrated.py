"""Integrated gradients: what they become in a linear model, how they converge, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from probe.analyses.gradient import gradient
from probe.analyses.head_gradients import plain_run
from probe.analyses.integrated import integrated
from probe.errors import TokensError
from probe.hooks.attention import instrument
from probe.hooks.edit_rules import Replace, Zero
from probe.running import Running
from probe.tasks.task import clean_ids, corrupted_ids, metric_positions

EVERY = slice(0, None)


def twins_z(model, task):
    """layer → the rule that puts the corrupted run's z in place."""
    found = {}

    def keep(call):
        found[call.site.layer] = call.attend()
        return found[call.site.layer]

    with torch.no_grad(), instrument(model, keep):
        model(corrupted_ids(task.prompts))
    return lambda layer: Replace(found[layer])


@pytest.mark.parametrize("points", ["left", "midpoint", "right"])
@pytest.mark.parametrize("steps", [1, 3])
def test_equals_the_gradient_where_the_metric_is_linear(make_llama, make_task, steps, points):
    """After the last layer's heads of this model everything is linear: the gradient is the same along the path."""
    model, task = make_llama(layers=1, linear_end=True), make_task()
    plain = gradient(model, task, EVERY, twins_z(model, task))
    path = integrated(model, task, EVERY, steps=steps, points=points)
    assert np.abs(plain.z).max() > 1e-3
    assert np.abs(path.z - plain.z).max() < 1e-12 * np.abs(plain.z).max() * 100
    assert np.array_equal(path.clean, plain.clean)


def test_right_end_of_one_step_is_the_clean_gradient(make_llama, make_task):
    model, task = make_llama(), make_task()
    plain = gradient(model, task, EVERY, twins_z(model, task))
    path = integrated(model, task, EVERY, steps=1, points="right")
    assert np.abs(path.z - plain.z).max() < 1e-12 * np.abs(plain.z).max() * 100
    assert path.layer_forwards == (2 + 3) * 3
    other = integrated(model, task, EVERY, steps=1, points="left")
    assert np.abs(other.z - plain.z).max() > 1e-3 * np.abs(plain.z).max()


def test_converges_as_steps_grow(make_llama, make_task):
    """The midpoint's error falls with the square of the steps, that of either end with the steps."""
    model, task = make_llama(layers=2), make_task(2)
    fine = integrated(model, task, EVERY, steps=192).z

    def error(steps, points):
        return np.abs(integrated(model, task, EVERY, steps=steps, points=points).z - fine).max()

    # Once the path is resolved, 4 times the steps make 1/16 and 1/4; the softmax's own curvature is left room.
    assert error(48, "midpoint") < error(12, "midpoint") / 8
    for points in ("left", "right"):
        assert 1 / 6 < error(48, points) / error(12, points) < 1 / 3
    assert error(48, "midpoint") < error(48, "left") / 4


def test_a_mode_may_stand_in_for_the_twin(make_llama, make_task):
    model, task = make_llama(), make_task()
    twin = integrated(model, task, EVERY, steps=2)
    named = integrated(model, task, EVERY, twins_z(model, task), steps=2)
    assert np.array_equal(twin.z, named.z)
    nothing = integrated(model, task, EVERY, lambda _layer: Zero(), steps=2)
    assert np.abs(nothing.z - twin.z).max() > 1e-3


def test_kl_has_a_gradient_along_the_path(make_llama, make_task):
    found = integrated(make_llama(), make_task(metric="neg_kl"), EVERY, steps=2)
    assert np.abs(found.z).max() > 1e-3
    assert np.all(found.clean == 0)


def test_the_embedding_is_given_back(make_llama, make_task):
    model, task = make_llama(), make_task()
    ids = clean_ids(task.prompts)
    with torch.no_grad():
        before = model(ids).logits
        changed, _ = plain_run(Running(model), ids, metric_positions(task.prompts), torch.zeros_like)
        assert not torch.equal(changed, before[:, -2:])
        with pytest.raises(ZeroDivisionError):
            plain_run(Running(model), ids, metric_positions(task.prompts), lambda _embeddings: 1 / 0)
        integrated(model, task, EVERY, steps=1)
        assert torch.equal(model(ids).logits, before)
    assert all(p.grad is None for p in model.parameters())


def test_a_bridge_gives_the_same_numbers(make_llama, make_task):
    sources = pytest.importorskip("transformer_lens.model_bridge.sources._bridge_builder")
    model, task = make_llama(dtype=torch.float32), make_task()
    wanted = integrated(model, task, EVERY, steps=2).z
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridged = sources.build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    found = integrated(bridged, task, EVERY, steps=2).z
    # Two float32 evaluations of a 3-layer model: some hundred roundings of 2^-24 each.
    assert np.abs(found - wanted).max() < 500 * 2**-24 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        ({"twins": False}, {}, "no corrupted twin"),
        ({"metric": "accuracy"}, {}, "accuracy has no gradient"),
        ({}, {"steps": 0}, "0 steps"),
        ({}, {"points": "middle"}, "'middle' points; wanted 1 or more at left, midpoint, right"),
    ],
)
def test_bad_requests_are_refused(make_llama, make_task, made, options, message):
    with pytest.raises(TokensError, match=message):
        integrated(make_llama(), make_task(**made), EVERY, **options)
