"""A task refuses prompts that no batch, metric or mean can be made of, and says which of them belong together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probe.errors import TokensError
from probe.tasks.task import Prompt, Task, clean_ids, corrupted_ids, metric_positions

ONE = Prompt((1, 2, 3), (4,), (5,), (2,), "one", corrupted_ids=(1, 9, 3), target_ids=(4,))
TWO = replace(ONE, clean_ids=(1, 7, 3), clean="two")


def test_tensors_and_lengths():
    task = Task("trial", "logit_diff", (ONE, TWO))
    assert task.length == 3
    assert clean_ids(task.prompts).tolist() == [[1, 2, 3], [1, 7, 3]]
    assert corrupted_ids(task.prompts).tolist() == [[1, 9, 3], [1, 9, 3]]
    assert metric_positions(task.prompts).tolist() == [[2], [2]]


def test_paired_only_with_all_twins():
    alone = replace(TWO, corrupted_ids=None)
    assert Task("trial", "logit_diff", (ONE, TWO)).paired
    assert not Task("trial", "logit_diff", (ONE, alone)).paired
    with pytest.raises(TokensError, match="prompt 1 has no corrupted twin"):
        corrupted_ids((ONE, alone))


def test_groups():
    assert Task("trial", "logit_diff", (ONE, TWO)).groups is None
    some = Task("trial", "logit_diff", (replace(ONE, group="x"), TWO, replace(TWO, group="x")))
    assert some.groups == ("x", "prompt 1", "x")


@pytest.mark.parametrize(
    ("metric", "prompts", "said"),
    [
        ("f1", (ONE,), "metric 'f1'"),
        ("logit_diff", (), "found no prompt"),
        ("logit_diff", (ONE, replace(ONE, clean_ids=(1, 2))), r"unequal length \(1 of 2, 1 of 3 tokens\)"),
        ("logit_diff", (replace(ONE, corrupted_ids=(1, 2)),), "2 corrupted tokens beside 3 clean ones"),
        ("logit_diff", (replace(ONE, metric_positions=(3,)),), "metric position 3; wanted 0 to 2"),
        ("neg_loss", (ONE, replace(ONE, metric_positions=(1, 2), target_ids=(1, 2))), r"judged at \[1, 2\] positions"),
        ("logit_diff", (replace(ONE, wrong_ids=()),), "compares right and wrong"),
        ("neg_loss", (replace(ONE, target_ids=None),), "wants a target at every metric position"),
        ("neg_loss", (replace(ONE, target_ids=(1, 2)),), "2 targets for 1 positions"),
        ("accuracy", (replace(ONE, target_ids=None, answer_ids=()),), "found neither"),
    ],
)
def test_refusals(metric: str, prompts: tuple[Prompt, ...], said: str):
    with pytest.raises(TokensError, match=said):
        Task("trial", metric, prompts)


def test_held_out_prompts_are_checked_too():
    with pytest.raises(TokensError, match="unequal length"):
        Task("trial", "logit_diff", (ONE,), held_out=(replace(ONE, clean_ids=(1, 2), metric_positions=(1,)),))
