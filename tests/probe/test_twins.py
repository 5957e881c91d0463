"""Tasks that cannot be patched, by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from probe.analyses.twins import check_apart, paired_prompts
from probe.errors import TokensError


def test_gives_the_prompts_asked_for(make_task):
    task = make_task(3)
    assert paired_prompts(task, slice(1, 3)) == task.prompts[1:]


def test_refuses_what_has_no_twin(make_task):
    task = make_task(3)
    some = replace(task, prompts=(*task.prompts, make_task(1, twins=False).prompts[0]))
    for bare in (make_task(3, twins=False), some):
        with pytest.raises(TokensError, match="corrupted twins"):
            paired_prompts(bare, slice(None))
    with pytest.raises(TokensError, match="corrupted twins"):
        paired_prompts(task, slice(0, 0))
    same = tuple(replace(prompt, corrupted_ids=prompt.clean_ids) for prompt in task.prompts)
    with pytest.raises(TokensError, match="are the same"):
        paired_prompts(replace(task, prompts=same), slice(None))
    paired_prompts(replace(task, prompts=(task.prompts[0], *same)), slice(None))  # one that differs is enough
    with pytest.raises(TokensError, match="neg_kl"):
        paired_prompts(replace(task, metric="neg_kl"), slice(None))


def test_apart_on_average(make_task):
    task = make_task(1)
    check_apart(task, np.array([1.0, 2.0]), np.array([2.0, 1.1]))
    with pytest.raises(TokensError, match=r"same logit_diff \(1\.5\)"):
        check_apart(task, np.array([1.0, 2.0]), np.array([2.0, 1.0000001]))
    with pytest.raises(TokensError, match="same logit_diff"):
        check_apart(task, np.zeros(2), np.zeros(2))
