"""Where heads look, against dense attention maps of transformers' own, prompt by prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from probe.analyses.job_attention import looks, right_tokens
from probe.running import Running

IDS = (
    (1, 2, 3, 2, 4, 5, 5, 2, 3),  # 5 comes right after itself; 2 and 3 come again
    (6, 7, 8, 9, 7, 8, 1, 2, 9),
)
PLACES = ({"A": 1, "B": 4, "END": 8}, {"A": 4, "END": 8})


@pytest.fixture
def prompts(make_task):
    made = make_task(2).prompts
    return [
        replace(made[0], clean_ids=IDS[0], positions=PLACES[0], answer_ids=(4,), wrong_ids=(2, 5), target_ids=None),
        replace(made[1], clean_ids=IDS[1], positions=PLACES[1], answer_ids=(8,), wrong_ids=(30,), target_ids=(8, 7)),
    ]


def maps(model, prompts):
    """[n] of [L, H, T, T]."""
    model.set_attn_implementation("eager")
    found = [model(torch.tensor([p.clean_ids]), output_attentions=True, use_cache=False).attentions for p in prompts]
    model.set_attn_implementation("sdpa")
    return [torch.cat(one).numpy() for one in found]


def test_equals_dense_maps(make_llama, prompts):
    model = make_llama()
    dense = maps(model, prompts)
    found = looks(Running(model), prompts)
    close = {"rtol": 0, "atol": 1e-6}  # statistics are float32
    values = found.values
    np.testing.assert_allclose(values["attention:END>A"][0], dense[0][:, :, 8, 1], **close)
    np.testing.assert_allclose(values["attention:END>A"][1], dense[1][:, :, 8, 4], **close)
    np.testing.assert_allclose(values["attention:B>A"][0], dense[0][:, :, 4, 1], **close)
    assert np.isnan(values["attention:B>A"][1]).all(), "the second prompt has no B"
    assert np.isnan(values["attention:A>END"]).all(), "END comes later"
    # Prompt 0 is judged for one answer at its last position; prompt 1 for 8 at 7 and for 7 at 8.
    np.testing.assert_allclose(values["answer_attention"][0], dense[0][:, :, 8, 4], **close)
    right = (dense[1][:, :, 7, [2, 5]].sum(-1) + dense[1][:, :, 8, [1, 4]].sum(-1)) / 2
    np.testing.assert_allclose(values["answer_attention"][1], right, **close)
    np.testing.assert_allclose(values["wrong_attention"][0], dense[0][:, :, 8, [1, 3, 5, 6, 7]].sum(-1), **close)
    np.testing.assert_allclose(values["repeated_wrong_attention"][0], dense[0][:, :, 8, [3, 6, 7]].sum(-1), **close)
    assert np.isnan(values["wrong_attention"][1]).all()
    previous = np.mean([dense[1][:, :, i, i - 1] for i in range(1, 9)], 0)
    np.testing.assert_allclose(values["previous_token"][1], previous, **close)
    # Rows whose token came once before: prompt 0: 3, 6 and 8 (7 holds a third 2); prompt 1: 4, 5, 8.
    duplicate = np.mean([dense[0][:, :, i, j] for i, j in ((3, 1), (6, 5), (8, 2))], 0)
    np.testing.assert_allclose(values["duplicate_token"][0], duplicate, **close)
    induction = np.mean([dense[1][:, :, i, j] for i, j in ((4, 2), (5, 3), (8, 4))], 0)
    np.testing.assert_allclose(values["induction"][1], induction, **close)
    itself = np.mean([dense[0][:, :, i, j] for i, j in ((3, 2), (6, 6), (8, 3))], 0)
    np.testing.assert_allclose(values["induction"][0], itself, **close)
    # At a place: A counts in prompt 1 alone, half of the prompts; B in none, so that it is not there.
    np.testing.assert_allclose(values["duplicate_token@A"][1], dense[1][:, :, 4, 1], **close)
    assert np.isnan(values["duplicate_token@A"][0]).all()
    assert "duplicate_token@B" not in values
    np.testing.assert_allclose(values["induction@judged"][0], dense[0][:, :, 8, 3], **close)
    head = found.of((2, 3))
    assert head["attention:END>A"] == pytest.approx((dense[0][2, 3, 8, 1] + dense[1][2, 3, 8, 4]) / 2, abs=1e-6)
    assert head["attention:B>A"] == pytest.approx(dense[0][2, 3, 4, 1], abs=1e-6)
    assert "attention:A>END" not in head


def test_batches_do_not_matter(make_llama, prompts, monkeypatch):
    running = Running(make_llama())
    whole = looks(running, prompts)
    monkeypatch.setattr("probe.analyses.means.BATCH_TOKENS", 9)
    apart = looks(running, prompts)
    assert apart.values.keys() == whole.values.keys()
    for name, value in whole.values.items():
        np.testing.assert_allclose(apart.values[name], value, rtol=0, atol=1e-6)


def test_right_tokens(prompts):
    assert right_tokens(prompts[0]) == [(8, {4})]
    assert right_tokens(prompts[1]) == [(7, {8}), (8, {7})]
    assert right_tokens(replace(prompts[0], answer_ids=())) == []
