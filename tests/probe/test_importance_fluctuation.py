"""FLAP's fluctuation: the variance it claims, exactly 0 for a constant channel, and lossless compensation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probe.analyses.importance_fluctuation import Fluctuation, fluctuation, fluctuations, spread
from probe.errors import TokensError
from probe.hooks.attention import instrument
from probe.hooks.edit_rules import Replace
from probe.hooks.edits import Edit, edit
from probe.tasks.task import clean_ids


def outputs(model, task):
    """[L] → z [N, H, T, Dv]."""
    held = []

    def keep(call):
        held.append(call.attend())
        return held[-1]

    with torch.no_grad(), instrument(model, keep):
        model(clean_ids(task.prompts))
    return held


@pytest.mark.parametrize("first", [0, 1])
def test_is_the_variance_times_the_weights_norm(make_llama, make_task, first):
    model, task = make_llama(), make_task()
    found = fluctuation(model, task, batch=2, first=first)
    for layer, z in enumerate(outputs(model, task)):
        values = z[:, :, first:].transpose(1, 2).reshape(-1, 32).numpy()
        weight = model.model.layers[layer].self_attn.o_proj.weight.numpy()
        expected = values.var(0, ddof=1) * np.square(weight).sum(0)
        assert found.channels[layer].reshape(-1) == pytest.approx(expected, rel=1e-12)
    assert found.per_prompt.mean(0) == pytest.approx(found.channels.mean(-1), rel=1e-12)
    assert found.per_prompt.shape == (5, 3, 4)
    assert (found.per_prompt > 0).all()


def test_batches_do_not_matter(make_llama, make_task):
    model, task = make_llama(), make_task()
    one, all_at_once = (fluctuation(model, task, batch=batch) for batch in (1, 5))
    assert one.channels == pytest.approx(all_at_once.channels, rel=1e-10)


def test_a_constant_channel_is_exactly_0():
    """0.1 is not a binary fraction: a running sum would round, and the variance with it."""
    values = torch.full((7, 13, 2), 0.1)
    values[..., 1] = torch.randn(7, 13, generator=torch.Generator().manual_seed(0))
    mean, squares = spread(values)
    parts = fluctuations(mean, squares, 13)
    assert torch.all(parts[:, 0] == 0)
    assert parts[:, 1].mean() == pytest.approx(float(values[..., 1].double().var()), rel=1e-12)


def test_removing_a_constant_head_with_compensation_loses_nothing(make_gpt2, make_task):
    """A head whose values are its bias gives that bias everywhere; its mean in its place is the head itself."""
    model, task = make_gpt2(), make_task()
    model.transformer.h[1].attn.c_attn.weight.data[:, 64 + 16 : 64 + 24] = 0  # the values of head 2
    found = fluctuation(model, task)
    # Softmax rows sum to 1 within some 2^-52: the variance is that squared.
    assert found.channels[1, 2].max() < 1e-28
    assert np.delete(found.channels[1], 2, axis=0).min() > 1e-6
    means = torch.stack([z[:, :, 1:].mean((0, 2), keepdim=True)[0] for z in outputs(model, task)])
    ids = clean_ids(task.prompts)
    with torch.no_grad():
        clean = model(ids).logits
        with edit(model, [Edit(((1, 2),), Replace(means[1][None]))]):
            compensated = model(ids).logits
        with edit(model, [Edit(((1, 1),), Replace(means[1][None]))]):
            lossy = model(ids).logits
    assert (compensated - clean).abs().max() < 1e-12
    assert (lossy - clean).abs().max() > 1e-3


def test_the_published_ranking_score():
    channels = np.random.default_rng(0).gamma(1, 1, (2, 3, 4))
    squared = np.square(channels).reshape(2, 12)
    scored = np.stack([(row - row.mean()) / row.std(ddof=1) for row in squared]).reshape(2, 3, 4).mean(-1)
    assert Fluctuation(channels, np.ones((1, 2, 3))).published() == pytest.approx(scored)
    assert np.isnan(Fluctuation(np.ones((1, 2, 2)), np.ones((1, 1, 2))).published()).all()


@pytest.mark.parametrize("options", [{"first": 9}, {"first": -1}, {"batch": 0}])
def test_too_few_values_are_refused(make_llama, make_task, options):
    with pytest.raises(TokensError, match="at least 2 values"):
        fluctuation(make_llama(), make_task(), **options)
