"""Every mode stands for what METRICS and METHODS say, checked on z written out densely."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from probe.analyses.means import observe
from probe.analyses.replacement import LIVE, MODES, check_mode, replacement, replacement_note
from probe.errors import TokensError
from probe.hooks.edits import Edit, edit
from probe.running import Running
from probe.tasks.task import clean_ids, corrupted_ids

LAYER, HEAD = 1, 2


@pytest.fixture
def setting(make_llama, make_task):
    task = make_task(4)
    prompts = tuple(replace(p, positions={"A": 6, "B": 2 + i, "C": 1}) for i, p in enumerate(task.prompts))
    return Running(make_llama(layers=2)), replace(task, prompts=prompts, held_out=make_task(4, seed=5).prompts)


def seen(running, ids, edits=()):
    """The call and z of one layer in a run."""
    kept = {}
    with edit(running.model, list(edits)):
        observe(running, ids, lambda call, z, _: kept.update({call.site.layer: (call, z.clone())}))
    return kept[LAYER]


def edited(setting, mode):
    """z [N, T, Dv] of one head with a mode in its place, and the clean call and z."""
    running, task = setting
    ids = clean_ids(task.prompts)
    call, z = seen(running, ids)
    made = replacement(running, task, mode)
    _, found = seen(running, ids, [Edit(((LAYER, HEAD),), made.rule(LAYER, slice(None)))])
    others = [head for head in range(4) if head != HEAD]
    assert torch.equal(found[:, others], z[:, others])
    return found[:, HEAD], call, z[:, HEAD]


def pattern_and_values(call):
    return call.pattern()[:, HEAD], call.v[:, HEAD // 2]


# Widths of 8, lengths of 9, float64 on numbers of size 1.
CLOSE = {"rtol": 0, "atol": 1e-12}


def test_zero_and_self_and_uniform(setting):
    assert edited(setting, "zero")[0].abs().max() == 0
    found, call, _ = edited(setting, "self")
    torch.testing.assert_close(found, call.v[:, HEAD // 2], **CLOSE)
    found, call, _ = edited(setting, "uniform")
    v = call.v[:, HEAD // 2]
    for row in range(v.shape[1]):
        torch.testing.assert_close(found[:, row], v[:, : row + 1].mean(1), **CLOSE)


def test_modes_with_a_number(setting):
    found, call, z = edited(setting, "scale:0.25")
    torch.testing.assert_close(found, z / 4, **CLOSE)
    found, call, z = edited(setting, "identity:0.25")
    torch.testing.assert_close(found, 0.75 * z + 0.25 * call.v[:, HEAD // 2], **CLOSE)
    found, call, _ = edited(setting, "sink_scale:0.5")
    p, v = pattern_and_values(call)
    changed = p.clone()
    changed[:, 1:, 0] *= 0.5
    changed[:, 1:, 1:] *= (1 + 0.5 * p[:, 1:, :1] / (1 - p[:, 1:, :1]))
    torch.testing.assert_close(found[:, 1:], (changed @ v)[:, 1:], **CLOSE)


def test_sinks_taken_away(setting):
    found, call, z = edited(setting, "sink_knockout")
    p, v = pattern_and_values(call)
    wanted = (z - p[:, :, :1] * v[:, :1]) / (1 - p[:, :, :1])
    torch.testing.assert_close(found[:, 1:], wanted[:, 1:], rtol=0, atol=1e-10)  # divides by 1 - P
    found, _, _ = edited(setting, "sink_value_zero")
    torch.testing.assert_close(found, z - p[:, :, :1] * v[:, :1], **CLOSE)


def test_modes_of_the_corrupted_twin(setting):
    running, task = setting
    twin, twin_z = seen(running, corrupted_ids(task.prompts))
    found, call, _ = edited(setting, "resample")
    torch.testing.assert_close(found, twin_z[:, HEAD], **CLOSE)
    p, v = pattern_and_values(call)
    q, w = pattern_and_values(twin)
    torch.testing.assert_close(edited(setting, "frozen_pattern")[0], q @ v, **CLOSE)
    torch.testing.assert_close(edited(setting, "frozen_values")[0], p @ w, **CLOSE)
    assert (q @ v - p @ w).abs().max() > 0.01


def test_static_attention_is_the_held_out_profile_over_distances(setting):
    running, task = setting
    source, _ = seen(running, clean_ids(task.held_out))
    p, _ = pattern_and_values(source)
    length = p.shape[1]
    # METRICS' distances leave query 0 out.
    profile = [p[:, 1:].diagonal(1 - d, -2, -1).mean() if d <= 1 else p.diagonal(-d, -2, -1).mean()
               for d in range(length)]  # fmt: skip
    found, call, _ = edited(setting, "static")
    v = call.v[:, HEAD // 2]
    for row in range(length):
        weights = torch.stack([profile[row - key] for key in range(row + 1)])
        wanted = (weights[:, None] / weights.sum() * v[:, : row + 1]).sum(1)
        torch.testing.assert_close(found[:, row], wanted, rtol=0, atol=1e-6)  # profiles are of float32 statistics


def test_an_edge_between_named_positions_is_cut_in_every_prompt_its_own(setting):
    found, call, z = edited(setting, "knock_out:A>B")
    p, v = pattern_and_values(call)
    for row in range(4):
        weights = p[row, 6].clone()
        weights[2 + row] = 0
        torch.testing.assert_close(found[row, 6], weights / weights.sum() @ v[row], **CLOSE)
    assert torch.equal(found[:, :6], z[:, :6])


def test_several_keys_are_cut_or_looked_at_together(setting):
    found, call, z = edited(setting, "force:A>B/C")
    p, v = pattern_and_values(call)
    for row in range(4):
        torch.testing.assert_close(found[row, 6], (v[row, 2 + row] + v[row, 1]) / 2, **CLOSE)
    assert torch.equal(found[:, :6], z[:, :6])
    cut = edited(setting, "knock_out:A>B/C")[0]
    weights = p[0, 6].clone()
    weights[[1, 2]] = 0
    torch.testing.assert_close(cut[0, 6], weights / weights.sum() @ v[0], **CLOSE)


def test_rows_are_those_of_the_prompts(setting):
    running, task = setting
    ids = clean_ids(task.prompts)[2:]
    _, twin_z = seen(running, corrupted_ids(task.prompts))
    made = replacement(running, task, "resample")
    _, found = seen(running, ids, [Edit(((LAYER, HEAD),), made.rule(LAYER, slice(2, 4)))])
    torch.testing.assert_close(found[:, HEAD], twin_z[2:, HEAD], **CLOSE)


def test_notes_say_where_means_come_from(setting):
    _, task = setting
    assert replacement_note(task, "mean") == "mean: over 4 held-out prompts, 1 template"
    assert "corrupted twin" in replacement_note(task, "resample")
    assert "4 held-out prompts" in replacement_note(task, "static")


def test_what_cannot_be_made_is_refused_in_words(setting, make_task):
    running, task = setting
    for mode, words in (
        ("mena", "ablation mode 'mena'; wanted one of mean"),
        ("scale:x", "wanted a number after the colon"),
        ("knock_out:A>D", "no position 'D'"),
        ("force:A>B/D", "no position 'D'"),
        ("force:A", "wanted one of"),
        ("knock_out:A", "wanted one of"),
    ):
        with pytest.raises(TokensError, match=words):
            replacement(running, task, mode)
    with pytest.raises(TokensError, match="no corrupted twin"):
        replacement(running, make_task(3, twins=False), "resample")
    assert set(LIVE) < set(MODES)
    for mode in (*LIVE, "scale:0.5", "knock_out:END>S2", "force:END>S1/S2", "static", "resample"):
        check_mode(mode)
