"""The four ways to an effect agree where they must, and say what they cost."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch

from probe.analyses.methods import effects, removed
from probe.analyses.workbench import Workbench, here
from probe.errors import TokensError
from probe.models import load


@pytest.fixture
def bench(make_llama, make_task):
    return Workbench(load(make_llama()), make_task(6))


def test_exact_is_clean_minus_removed_and_costs_half_the_loop(bench):
    found = effects(bench, "zero", "exact", here(bench))
    values, cost = removed(bench, "zero", bench.units, here(bench))
    assert np.array_equal(found.ablated, values)
    assert cost == 4 * (3 + 2 + 1)
    assert found.layer_forwards == cost + 3
    np.testing.assert_allclose(found.effect, found.clean - values, rtol=0, atol=0)


def test_hybrid_is_exact_where_it_measured_and_says_nothing_elsewhere(bench):
    exact = effects(bench, "zero", "exact", here(bench))
    hybrid = effects(bench, "zero", "hybrid", here(bench), top=2)
    measured = ~np.isnan(hybrid.effect)
    assert 0 < measured.sum() < measured.size
    assert (measured.all(1) == measured.any(1)).all(), "on all prompts or not at all"
    assert "the 2 strongest are" in hybrid.notes[-1]
    # float64 of two batches of different size.
    np.testing.assert_allclose(hybrid.effect[measured], exact.effect[measured], rtol=0, atol=1e-12)


def test_gradient_is_exact_for_a_vanishing_change(bench):
    """scale:1−ε removes a little: effect/ε → the derivative, with an error of order ε · curvature."""
    small = 1e-5
    exact = effects(bench, f"scale:{1 - small}", "exact", here(bench))
    estimate = effects(bench, f"scale:{1 - small}", "gradient", here(bench))
    np.testing.assert_allclose(estimate.effect / small, exact.effect / small, rtol=0, atol=1e-3)
    assert np.abs(estimate.effect / small).max() > 0.1
    assert estimate.layer_forwards == 3 + 3 * 3


def test_integrated_is_a_method_too(bench):
    found = effects(bench, "resample", "integrated", here(bench))
    assert found.ablated.shape == (12, 6)
    assert np.isfinite(found.ablated).all()


def test_removed_on_some_prompts_only(bench):
    every, _ = removed(bench, "zero", bench.units, here(bench))
    some, cost = removed(bench, "zero", bench.units[::-1], here(bench), slice(2, 5))
    np.testing.assert_allclose(some, every[::-1, 2:5], rtol=0, atol=1e-12)
    assert cost == pytest.approx(24 / 2)


def test_an_unknown_method_is_named(bench):
    with pytest.raises(TokensError, match="method 'magic'; wanted one of exact"):
        effects(bench, "zero", "magic", here(bench))


@pytest.mark.parametrize("method", ["exact", "gradient"])
def test_a_study_of_a_transformerlens_bridge_gives_the_same_numbers(make_llama, make_task, method):
    sources = pytest.importorskip("transformer_lens.model_bridge.sources._bridge_builder")
    plain, task = make_llama(dtype=torch.float32), make_task(4)
    inner = copy.deepcopy(plain)  # a bridge rebuilds the model that it is given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bridge's own remarks about models made in memory
        bridge = sources.build_bridge_from_module(inner, type(inner).__name__, hf_config=inner.config)
    ours, theirs = Workbench(load(plain), task), Workbench(load(bridge), task)
    assert ours.sweep.shares
    assert not theirs.sweep.shares
    for mode in ("zero", "mean_all", "resample", "uniform"):
        first, second = (effects(bench, mode, method, here(bench)) for bench in (ours, theirs))
        # Two float32 evaluations of three layers with logits of size 5: some hundred roundings of 3e-7 each.
        np.testing.assert_allclose(second.effect, first.effect, rtol=0, atol=5e-5)
        assert np.abs(first.effect).max() > 1
