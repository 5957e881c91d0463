"""Norms of what heads write, against the writes built out in full."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probe.analyses.importance_norms import output_norms
from probe.hooks.attention import instrument
from probe.tasks.task import clean_ids

EVERY = slice(0, None)


def written(model, task, projections):
    """[layer] → z [N, H, T, Dv] and writes [N, H, T, d_model], the dense way."""
    held = []

    def keep(call):
        held.append(call.attend())
        return held[-1]

    with torch.no_grad(), instrument(model, keep):
        model(clean_ids(task.prompts))
    return [(z, torch.einsum("nhtd,hdm->nhtm", z, weight)) for z, weight in zip(held, projections, strict=True)]


def heads_of(matrix):
    """[inputs, d_model] as [4 heads, 8, d_model]."""
    return matrix.reshape(4, 8, -1)


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_norms_are_those_of_the_writes(make_llama, make_gpt2, make_task, family, first):
    task = make_task()
    if family == "llama":
        model = make_llama()
        weights = [heads_of(layer.self_attn.o_proj.weight.T) for layer in model.model.layers]
    else:
        model = make_gpt2()
        weights = [heads_of(layer.attn.c_proj.weight) for layer in model.transformer.h]
    found = output_norms(model, task, EVERY, first=first)
    for layer, (z, write) in enumerate(written(model, task, weights)):
        expected = {
            "z_norm": z.norm(dim=-1),
            "write_norm": write.norm(dim=-1),
            "write_l1": write.abs().sum(-1),
        }
        for name, norms in expected.items():
            assert found[name].shape == (5, len(weights), 4)
            # Squares through the Gram matrix lose half the digits only where a write nearly vanishes.
            assert found[name][:, layer] == pytest.approx(norms[:, :, first:].mean(-1).numpy(), rel=1e-10)


def test_a_head_that_writes_nothing_has_norm_0(make_llama, make_task):
    model = make_llama()
    model.model.layers[2].self_attn.o_proj.weight.data[:, 24:] = 0
    found = output_norms(model, make_task(), EVERY)
    assert np.all(found["write_norm"][:, 2, 3] == 0)
    assert np.all(found["write_l1"][:, 2, 3] == 0)
    assert np.all(found["z_norm"][:, 2, 3] > 0)


def test_no_position_left_is_not_a_number(make_llama, make_task):
    assert np.isnan(output_norms(make_llama(), make_task(), EVERY, first=9)["write_norm"]).all()
