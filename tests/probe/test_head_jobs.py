"""Planted heads get the role that they were given; the rules one by one; what a task cannot show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from probe.analyses.head_jobs import ROLES, THRESHOLDS, head_jobs, missing_jobs, role_of
from probe.errors import TokensError
from probe.models import load
from probe.planted.circuits import planted_task, planted_truth
from probe.planted.models import PLANTED_ROLES
from probe.tasks.build import build
from probe.tasks.task import Task


def test_planted_heads_have_their_roles():
    loaded = load("planted")
    found = head_jobs(loaded, build("names", loaded, prompts=8), list(PLANTED_ROLES))
    # L1H1 and L1H6 look where induction looks and write against it, or where nobody reads: the role is about looking.
    known = {role: role for role in ROLES} | dict.fromkeys(("negative_induction", "graded_induction"), "induction")
    wanted = {head: known.get(role, "") for head, role in PLANTED_ROLES.items()}
    assert {head: job.role for head, job in found.items()} == wanted
    mover = found[2, 2].evidence
    assert mover["attention:END>IO"] > 0.99
    assert mover["direct_share"] == pytest.approx(1, abs=0.05)
    assert (mover["copy"], mover["copy_negative"]) == (1.0, 0.0)
    assert found[1, 2].evidence["attention:END>S2"] > 0.99
    assert found[0, 3].evidence["duplicate_token@S2"] > 0.99


def test_planted_circuits_have_movers_and_negative_movers():
    loaded = load("planted-circuits")
    for name in ("recall", "translate"):
        truth = planted_truth(name)
        found = head_jobs(loaded, planted_task(name, prompts=8), list(truth.heads))
        for head, job in truth.heads.items():
            wanted = {"mover": "name_mover", "negative_mover": "negative_mover", "previous_token": "previous_token"}
            if job in wanted:
                assert found[head].role == wanted[job], (name, head, found[head].evidence)


def test_the_shuffled_twin_has_no_mover():
    twin = load("planted-shuffled")
    found = head_jobs(twin, build("names", twin, prompts=8), list(PLANTED_ROLES))
    assert {job.role for job in found.values()} == {""}


EVIDENCE = {
    "name_mover": {"answer_attention": 0.5, "direct_share": 0.1, "copy": 0.9},
    "negative_mover": {"answer_attention": 0.5, "direct_share": -0.1, "copy_negative": 0.9},
    "copy_suppression": {"wrong_attention": 0.5, "repeated_wrong_attention": 0.5, "direct_share": 0.1,
                         "copy_negative": 0.9},
    "s_inhibition": {"repeated_wrong_attention": 0.5, "direct_share": 0.01},
    "induction": {"induction@S2": 0.5, "duplicate_token": 0.45},
    "duplicate_token": {"duplicate_token": 0.5, "induction@S2": 0.45},
    "previous_token": {"previous_token": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_each_rule_needs_all_that_it_names(role):
    evidence = EVIDENCE[role]
    assert role_of(evidence) == role
    for name in evidence:
        weaker = {**evidence, name: 0.0}
        if name != "direct_share" or role != "s_inhibition":
            same = (name, role) in {("repeated_wrong_attention", "copy_suppression"), ("duplicate_token", "induction"),
                                    ("induction@S2", "duplicate_token")}  # fmt: skip
            assert (role_of(weaker) == role) == same, name
        assert role_of({**evidence, name: float("nan")}) == role_of({n: v for n, v in evidence.items() if n != name})
    assert role_of({}) == ""


def test_what_is_judged_by_induction_is_induction_before_it_is_a_mover():
    assert role_of({**EVIDENCE["name_mover"], "induction@judged": 0.6}) == "induction"
    assert role_of({**EVIDENCE["name_mover"], "induction": 0.6}) == "name_mover"
    assert role_of({**EVIDENCE["s_inhibition"], "direct_share": -0.05}) == ""
    assert role_of(EVIDENCE["name_mover"], {**THRESHOLDS, "copy": 0.95}) == ""


def test_induction_heads_do_induction_on_induction():
    loaded = load("planted")
    task = build("induction", loaded, prompts=4)
    found = head_jobs(loaded, task, [(1, 0), (0, 0), (2, 2)])
    assert [found[head].role for head in ((1, 0), (0, 0), (2, 2))] == ["induction", "previous_token", ""]


def test_what_a_task_lacks_is_said(make_llama, make_task):
    task = make_task(3)
    bare = replace(task, metric="neg_loss", prompts=tuple(replace(p, wrong_ids=()) for p in task.prompts))
    said = " ".join(missing_jobs(bare))
    for words in ("name no position", "movers and copy suppression", "S-inhibition"):
        assert words in said
    found = head_jobs(load(make_llama()), bare, [(1, 2)])[1, 2]
    assert "direct" not in found.evidence
    assert "previous_token" in found.evidence
    assert all(np.isfinite(value) for value in found.evidence.values())
    nothing = Task("nothing", "neg_kl", tuple(
        replace(p, answer_ids=(), wrong_ids=(), target_ids=None) for p in task.prompts
    ))  # fmt: skip
    with pytest.raises(TokensError, match="names no position and has no answers"):
        head_jobs(load(make_llama()), nothing, [(0, 0)])
    with pytest.raises(TokensError, match="no head L9H0"):
        head_jobs(load(make_llama()), task, [(9, 0)])


@pytest.mark.real
def test_on_a_real_model_ioi_has_movers_inhibition_and_a_previous_token_head():
    loaded = load("smollm2-135m")
    heads = [(23, 0), (23, 1), (24, 4), (23, 3), (20, 0), (17, 4), (16, 0), (2, 2)]
    found = head_jobs(loaded, build("ioi", loaded, prompts=6), heads)
    roles = ["name_mover", "name_mover", "negative_mover", "copy_suppression", "s_inhibition", "induction",
             "previous_token"]  # fmt: skip
    assert [found[head].role for head in heads[:-1]] == roles
