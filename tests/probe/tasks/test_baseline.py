"""The verdict: what it is made of, when it says no, and that intervals draw groups together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from probe.models import Loaded
from probe.statistics import bootstrap
from probe.tasks import baseline as home
from probe.tasks.baseline import baseline
from probe.tasks.build import build
from probe.tasks.evaluate import logits_at
from probe.tasks.metrics import accuracy, measure
from probe.tasks.task import Task, clean_ids, metric_positions


def test_numbers_are_those_of_one_batch(planted: Loaded):
    task = build("names", planted, prompts=24)
    with torch.no_grad():
        logits = logits_at(planted.model, clean_ids(task.prompts), metric_positions(task.prompts))
    found = baseline(planted.model, task)
    # Batches of another size sum in another order: logits of order 40, a few hundred roundings of 6e-8.
    np.testing.assert_allclose(found.values, measure(logits, task.prompts, "logit_diff").numpy(), atol=1e-3)
    assert found.correct.tolist() == accuracy(logits, task.prompts).tolist()
    wanted = bootstrap(found.values[:, None])
    assert (found.mean, found.low, found.high) == (wanted.mean[0], wanted.low[0], wanted.high[0])
    assert found.low < found.mean < found.high
    assert found.able
    assert found.sentence.startswith("names, 24 prompts: logit_diff ")
    assert found.sentence.endswith("accuracy 1.00 [1.00, 1.00] where guessing has 0.50; the model can do it.")


def test_small_batches_give_the_same(planted: Loaded, monkeypatch: pytest.MonkeyPatch):
    task = build("names", planted, prompts=6)
    whole = baseline(planted.model, task)
    monkeypatch.setattr(home, "_LOGITS", 1)
    one_by_one = baseline(planted.model, task)
    np.testing.assert_allclose(one_by_one.values, whole.values, atol=1e-3)
    assert len(one_by_one.values) == 6


def test_an_untrained_model_is_not_able(wordy: Loaded):
    found = baseline(wordy.model, build("ioi", wordy, prompts=32))
    assert not found.able
    assert "no better than guessing" in found.sentence


def test_answering_wrongly_always_is_not_able(planted: Loaded):
    task = build("names", planted, prompts=8)
    turned = [replace(p, answer_ids=p.wrong_ids, wrong_ids=p.answer_ids) for p in task.prompts]
    found = baseline(planted.model, replace(task, prompts=tuple(turned)))
    assert found.accuracy == 0
    assert not found.able


def test_groups_are_drawn_together(planted: Loaded):
    task = build("names", planted, prompts=8)
    grouped = [replace(p, group=f"{index // 2}") for index, p in enumerate(task.prompts)]
    found = baseline(planted.model, replace(task, prompts=tuple(grouped)))
    wanted = bootstrap(found.values[:, None], groups=[index // 2 for index in range(8)])
    assert (found.low, found.high) == (wanted.low[0], wanted.high[0])
    assert "(4 independent: few)" in found.sentence


def test_one_prompt_has_no_interval_and_no_verdict_in_its_favour(planted: Loaded):
    found = baseline(planted.model, build("names", planted, prompts=1, held_out=0))
    assert np.isnan(found.low)
    assert not found.able


def test_kl_of_the_clean_run_is_zero_and_a_task_without_answers_is_not_judged(planted: Loaded):
    task = build("names", planted, prompts=4, metric="neg_kl")
    found = baseline(planted.model, task)
    assert found.values.tolist() == [0.0] * 4
    assert found.accuracy == 1
    silent = tuple(replace(p, answer_ids=(), wrong_ids=()) for p in task.prompts)
    mute = baseline(planted.model, Task("mute", "neg_kl", silent))
    assert np.isnan(mute.accuracy)
    assert mute.able
    assert mute.sentence.endswith("it has no answers, so nothing can be right or wrong.")


def test_seldom_right_is_not_called_done(planted: Loaded):
    task = build("induction", planted, prompts=8)
    targets = tuple(p.target_ids[:8] + (0,) * 23 for p in task.prompts)  # type: ignore[index]
    spoilt = tuple(replace(p, target_ids=wrong) for p, wrong in zip(task.prompts, targets, strict=True))
    found = baseline(planted.model, replace(task, prompts=spoilt))
    assert found.accuracy == pytest.approx(8 / 31)
    assert found.able
    assert found.sentence.endswith("better than guessing, though more often wrong than right.")
