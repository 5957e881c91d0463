"""What makes two runs the same: every field of a study is decided about, and every change of what decides shows."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from probe.models import Loaded, load
from probe.studies import identity as study_identity
from probe.studies.file import Study
from probe.studies.identity import ELSEWHERE, asked_of, versions
from probe.tasks.task import Prompt, Task

STUDY = Study(("planted",), ("t",))
TASK = Task("t", "logit_diff", (Prompt((1, 2), (4,), (5,), (1,), "a"),), (Prompt((1, 3), (4,), (5,), (1,), "b"),))


@pytest.fixture(scope="module")
def loaded():
    return load("planted")


def test_every_field_of_a_study_is_compared_or_stands_behind_another(loaded):
    """A new field must be put on one side or the other."""
    optional = {"corruption", "metric", "length"}  # absent while they are the task's own
    compared = set(asked_of(STUDY, loaded, [TASK])["study"]) | optional
    assert compared | set(ELSEWHERE) == {one.name for one in fields(Study)}
    assert not compared & set(ELSEWHERE)


@pytest.mark.parametrize(
    "changes",
    [
        {"modes": ("zero",)}, {"methods": ("gradient",)}, {"seeds": (1,)}, {"criteria": ("output_norm",)},
        {"prompts": 3}, {"corruption": "x"}, {"metric": "accuracy"}, {"length": 5}, {"unit": "layer"},
        {"positions": "END"}, {"phase": "decode"}, {"curve": False}, {"top": 3}, {"dtype": "float64"},
        {"task": {"t": {"prompts": 3}}},
    ],
)  # fmt: skip
def test_a_changed_study_is_another(loaded, changes):
    assert asked_of(replace(STUDY, **changes), loaded, [TASK]) != asked_of(STUDY, loaded, [TASK])


@pytest.mark.parametrize(
    "changes", [{"models": ("elsewhere",)}, {"text": "a file"}, {"task": {"t": {"text": "a file"}}}]
)
def test_names_of_places_decide_nothing(loaded, changes):
    mine, other = asked_of(STUDY, loaded, [TASK]), asked_of(replace(STUDY, **changes), loaded, [TASK])
    other["study"]["task"] = {}
    assert mine == other


def test_prompts_means_and_weights_decide(loaded):
    mine = asked_of(STUDY, loaded, [TASK])
    assert asked_of(STUDY, loaded, [replace(TASK, held_out=())])["means_sha256"] != mine["means_sha256"]
    other = replace(TASK, prompts=(replace(TASK.prompts[0], clean_ids=(1, 7)),))
    assert asked_of(STUDY, loaded, [other])["prompts_sha256"] != mine["prompts_sha256"]
    changed = Loaded(loaded.model, None, loaded.name, loaded.source, "0" * 64)
    assert asked_of(STUDY, changed, [TASK])["weight_hash"] != mine["weight_hash"]
    assert mine["device"] == ["cpu"]


def test_versions_name_the_libraries_and_our_own_code(monkeypatch, tmp_path):
    found = versions()
    assert found["torch"] == torch.__version__
    assert set(found) == {"python", "headprobe", "numpy", "torch", "transformers", "attention", "code"}
    (tmp_path / "analyses").mkdir()
    (tmp_path / "__init__.py").touch()
    monkeypatch.setattr(study_identity.probe, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "analyses" / "a.py").write_text("1")
    first = study_identity._code()
    (tmp_path / "analyses" / "a.py").write_text("2")
    assert study_identity._code() != first
