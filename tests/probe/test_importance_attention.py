"""Streaming error and entropy as baselines, against attention written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probe.analyses.importance_attention import attention_baselines
from probe.hooks.attention import instrument
from probe.tasks.task import clean_ids

EVERY = slice(0, None)


def dense(model, task, sinks, window):
    """Streaming error, entropy and normalised entropy [N, L, H] from patterns and their definition in METRICS."""
    layers = []

    def keep(call):
        pattern, v = call.pattern(), call.v.repeat_interleave(2, 1)
        place = torch.arange(pattern.shape[-1])
        kept = (place[None] < sinks) | (place[:, None] - place[None] < window)
        part = pattern * kept
        z, streamed = pattern @ v, (part / part.sum(-1, keepdim=True)) @ v
        error = (z - streamed).square().sum((-1, -2)) / z.square().sum((-1, -2))
        entropy = -torch.xlogy(pattern, pattern).sum(-1)
        normal = entropy[..., 1:] / torch.log(place[1:] + 1.0)
        layers.append((error, entropy[..., 1:].mean(-1), normal.mean(-1)))
        return call.attend()

    with torch.no_grad(), instrument(model, keep):
        model(clean_ids(task.prompts))
    return [torch.stack(values, 1).numpy() for values in zip(*layers, strict=True)]


@pytest.mark.parametrize(("sinks", "window"), [(4, 2), (1, 3), (1, 1)])
def test_baselines_are_those_of_the_written_out_attention(make_llama, make_task, sinks, window):
    model, task = make_llama(), make_task()
    found = attention_baselines(model, task, EVERY, sinks=sinks, window=window)
    error, entropy, normal = dense(model, task, sinks, window)
    assert found["streaming_error"].shape == (5, 3, 4)
    # The kernels' statistics are float32: some ten roundings of 2^-24 relative to sums of at most 9 terms.
    assert found["entropy"] == pytest.approx(entropy, abs=1e-5)
    assert found["entropy_normalised"] == pytest.approx(normal, abs=1e-5)
    assert found["streaming_error"] == pytest.approx(error, rel=1e-4, abs=1e-6)
    assert error.max() > 0.01


def test_the_window_follows_the_length_of_the_prompt(make_llama, make_task):
    model, task = make_llama(), make_task()
    unsaid = attention_baselines(model, task, EVERY)
    said = attention_baselines(model, task, EVERY, window=2)  # a quarter of 9
    assert np.array_equal(unsaid["streaming_error"], said["streaming_error"])
    assert np.all(attention_baselines(model, task, EVERY, window=9)["streaming_error"] < 1e-10)
