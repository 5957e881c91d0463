"""Every mean against the formula of METRICS, written out with loops in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from probe.analyses.means import means_note, means_of, observe
from probe.errors import TokensError
from probe.running import Running
from probe.tasks.task import clean_ids, corrupted_ids


def all_z(running, ids):
    """[layers] of z [N, H, T, Dv], one prompt at a time."""
    kept = {}
    for row in range(len(ids)):
        observe(running, ids[row : row + 1], lambda call, z, _rows: kept.setdefault(call.site.layer, []).append(z))
    return {layer: torch.cat(parts) for layer, parts in kept.items()}


@pytest.fixture
def setting(make_llama, make_task):
    running = Running(make_llama(layers=2))
    task = make_task(6)
    templates = ["a", "b", "a", "b", "a", "b"]
    prompts = tuple(replace(p, template=t) for p, t in zip(task.prompts, templates, strict=True))
    others = tuple(replace(p, template=t) for p, t in zip(make_task(6, seed=9).prompts, templates, strict=True))
    return running, replace(task, prompts=prompts), others


def stands(means, layer, prompt):
    """What the means put in the place of prompt's z: [H, T or 1, Dv]."""
    return means.tables[layer][means.group[prompt]]


@pytest.mark.parametrize("held", [True, False])
def test_mean_by_place_and_template(setting, held):
    running, task, others = setting
    task = replace(task, held_out=others if held else ())
    z = all_z(running, clean_ids(others if held else task.prompts))
    sources = others if held else task.prompts
    found = means_of(running, task, "mean")
    for layer in range(2):
        for index, prompt in enumerate(task.prompts):
            chosen = [i for i, s in enumerate(sources) if s.template == prompt.template and (held or i != index)]
            # Sums of at most 6 float64 numbers of size ~1.
            torch.testing.assert_close(stands(found, layer, index), z[layer][chosen].mean(0), rtol=0, atol=1e-13)
    assert ("held-out" in means_note(task, "mean")) == held


@pytest.mark.parametrize("held", [True, False])
def test_mean_over_all_places_leaves_the_first_out(setting, held):
    running, task, others = setting
    task = replace(task, held_out=others if held else ())
    z = all_z(running, clean_ids(others if held else task.prompts))
    found = means_of(running, task, "mean_all")
    for index in range(6):
        chosen = [i for i in range(6) if held or i != index]
        wanted = z[1][chosen][:, :, 1:].mean((0, 2))
        torch.testing.assert_close(stands(found, 1, index)[:, 0], wanted, rtol=0, atol=1e-13)


def test_mean_of_the_corrupted_prompts(setting):
    running, task, others = setting
    z = all_z(running, corrupted_ids(others))
    found = means_of(running, replace(task, held_out=others), "mean_corrupted")
    for index in range(6):
        chosen = [i for i, s in enumerate(others) if s.template == task.prompts[index].template]
        torch.testing.assert_close(stands(found, 0, index), z[0][chosen].mean(0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("held", [True, False])
def test_mean_by_token(setting, held):
    running, task, others = setting
    task = replace(task, held_out=others if held else ())
    ids = clean_ids(others if held else task.prompts)
    z, wanted_ids = all_z(running, ids), clean_ids(task.prompts)
    found = means_of(running, task, "mean_token")
    unseen = 0
    for index in range(6):
        rows = [i for i in range(6) if held or i != index]
        for place in range(task.length):
            same = [(i, t) for i in rows for t in range(1, task.length) if ids[i, t] == wanted_ids[index, place]]
            unseen += not same
            same = same or [(i, t) for i in rows for t in range(1, task.length)]
            value = torch.stack([z[1][i, :, t] for i, t in same]).mean(0)
            torch.testing.assert_close(stands(found, 1, index)[:, place], value, rtol=0, atol=1e-12)
    assert 0 < unseen < 6 * task.length
    assert f"{unseen / (6 * task.length):.0%} of the places" in means_note(task, "mean_token")


def test_a_mean_over_nobody_is_refused(setting):
    running, task, others = setting
    alone = replace(task, prompts=(*task.prompts[:2], replace(task.prompts[2], template="c")))
    with pytest.raises(TokensError, match="one prompt alone of template 'a'"):
        means_of(running, alone, "mean")
    with pytest.raises(TokensError, match="no held-out prompt of template 'c'"):
        means_of(running, replace(alone, held_out=others), "mean")


def test_batches_do_not_change_a_mean(setting, monkeypatch):
    running, task, _ = setting
    whole = means_of(running, task, "mean_all")
    monkeypatch.setattr("probe.analyses.means.BATCH_TOKENS", 20)
    parts = means_of(running, task, "mean_all")
    for layer in range(2):
        torch.testing.assert_close(parts.tables[layer], whole.tables[layer], rtol=0, atol=1e-13)
