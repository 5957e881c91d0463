"""A study file says exactly one thing, or is refused by the name of what is wrong with it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import StudyError
from probe.studies.file import Study, TaskAsk, parsed, read_study

WHOLE = """
models = ["smollm2-135m", "planted"]
tasks = ["ioi", "induction"]
modes = ["mean", "zero"]
methods = ["exact", "gradient"]
seeds = [0, 1]
prompts = 32
unit = "kv_group"
positions = "END"
phase = "prefill"
curve = false
[task.ioi]
corruption = "random_names"
prompts = 16
"""


def test_a_file_is_read(tmp_path):
    (tmp_path / "study.toml").write_text(WHOLE)
    study = read_study(tmp_path / "study.toml")
    assert study.models == ("smollm2-135m", "planted")
    assert study.seeds == (0, 1)
    assert study.curve is False
    assert study.asked("ioi") == TaskAsk(prompts=16, corruption="random_names")
    assert study.asked("induction") == TaskAsk(prompts=32)
    one = study.narrowed("planted", 1)
    assert (one.models, one.seeds, one.tasks) == (("planted",), (1,), ("ioi", "induction"))


def test_what_is_left_out_has_a_default():
    study = parsed({"models": ["planted"], "tasks": ["induction"]})
    assert study == Study(("planted",), ("induction",))
    assert (study.modes, study.methods, study.seeds, study.prompts) == (("mean",), ("exact",), (0,), 64)


def test_every_field_can_be_asked_and_is_written_down():
    other = {
        "models": ("b",), "tasks": ("x", "y"), "modes": ("zero",), "methods": ("hybrid",), "seeds": (3,), "prompts": 5,
        "criteria": ("output_norm",),
        "corruption": "c", "metric": "accuracy", "length": 9, "text": "t", "unit": "layer", "positions": "S2",
        "phase": "decode", "curve": False, "top": 3, "dtype": "float64", "device": "cuda", "device_map": "auto",
        "task": {"y": {"prompts": 7}},
    }  # fmt: skip
    assert set(other) == {one.name for one in fields(Study)}
    plain = Study(("a",), ("y",))
    for name, value in other.items():
        changed = replace(plain, **{name: value})
        assert changed.toml() != plain.toml(), name
        assert parsed(tomllib.loads(changed.toml())) == changed


@given(st.text(min_size=1, max_size=12), st.text(min_size=1, max_size=8))
def test_written_and_read_it_is_the_same(model, task):
    if any("\ud800" <= letter <= "\udfff" for letter in model + task):
        with pytest.raises(StudyError, match="wanted a text"):
            Study((model,), (task,))
        return
    study = Study((model,), (task,), task={task: {"corruption": model}})
    assert parsed(tomllib.loads(study.toml())) == study


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modles": ["x"]}, r"unknown key 'modles'; known are models, tasks, modes"),
        ({"models": []}, "models: found .*wanted a list of 1 or more"),
        ({"models": "planted"}, "models: found 'planted', wanted a list"),
        ({"models": [1]}, "models: found 1, wanted a text"),
        ({"models": ["a", "a"]}, "found 'a' twice"),
        ({"models": ["\udc80"]}, "wanted a text"),
        ({"seeds": [-1]}, "seeds: found -1, wanted a whole number from 0 on"),
        ({"seeds": [True]}, "seeds: found True"),
        ({"prompts": 0}, "prompts: found 0, wanted a whole number from 1 on"),
        ({"prompts": 1.5}, "prompts: found 1.5"),
        ({"prompts": "64"}, "prompts: found '64'"),
        ({"curve": 1}, "curve: found 1, wanted true or false"),
        ({"unit": "neuron"}, "unit: found 'neuron', wanted one of head, kv_group, layer"),
        ({"phase": "never"}, "phase: found 'never', wanted one of prefill"),
        ({"methods": ["exact", "guess"]}, "methods: found 'guess', wanted one of exact, gradient"),
        ({"length": 0}, "length: found 0"),
        ({"task": {"mcq": {"prompts": 3}}}, r"task\.mcq: found settings of a task that is not asked for"),
        ({"task": {"ioi": {"propmts": 3}}}, r"unknown key 'task\.ioi\.propmts'; known are prompts, corruption"),
        ({"task": {"ioi": {"prompts": "3"}}}, r"task\.ioi\.prompts: found '3'"),
        ({"task": {"ioi": 3}}, r"task\.ioi: found 3, wanted a table"),
        ({"task": 3}, r"task: found 3, wanted tables"),
    ],
)
def test_slips_are_refused_by_name(change, message):
    with pytest.raises(StudyError, match=message):
        parsed({"models": ["planted"], "tasks": ["ioi"], **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = [", r"s\.toml: not a TOML file"),
        ("tasks = ['ioi']", r"s\.toml: models: found none"),
        ("models = ['planted']", r"s\.toml: tasks: found none"),
        ("models = ['a']\nmodels = ['b']", "not a TOML file"),
        (b"\xff", "not a TOML file"),
    ],
)
def test_files_that_say_nothing_are_named(tmp_path, text, message):
    (tmp_path / "s.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError, match=message):
        read_study(tmp_path / "s.toml")


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"absent\.toml: cannot be read \(No such file"):
        read_study(tmp_path / "absent.toml")


def test_reading_a_study_imports_nothing_heavy():
    code = "import sys, probe.studies.file; print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
