"""The study commands as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from probe.studies.file import read_study

SMALL = ["--task", "induction", "--prompts", "4", "--length", "25", "--no-curve"]


def test_ablate_writes_a_study_that_run_goes_on_with(command, tmp_path):
    code, out, err = command("ablate", "planted", *SMALL, "--out", "study")
    assert code == 0, err
    lines = err.splitlines()
    assert "the model can do it" in lines[0]
    assert lines[1].startswith("planted, seed 0: 51 layer-forwards; about")
    assert len(lines) == 2
    assert "planted, seed 0, induction (mean, exact): clean" in out
    assert "the strongest of 24 heads" in out
    assert out.splitlines()[-1].startswith("study: effects.jsonl, effects.parquet, heads.csv")
    code, out, err = command("run", "study/study.toml", "--out", "study", "--json")
    assert code == 0, err
    (part,) = json.loads(out)
    assert part["computed"] == 0
    assert part["tasks"]["induction"]["top"][0]["name"] == out.split('"name": "')[1].split('"')[0]
    assert len(part["tasks"]["induction"]["top"]) == 10
    assert "pieces are there already" in err


def test_every_option_reaches_the_study(command, monkeypatch):
    import probe.studies.study as module

    asked = []
    home = sys.modules["probe.studies.study"]
    monkeypatch.setattr(home, "study", lambda study, **how: asked.append((study, how)) or [])
    assert module is not None
    code, _, err = command(
        "ablate", "m", "--task", "ioi,mcq", "--mode", "mean,zero", "--method", "exact, hybrid", "--seed", "0,1",
        "--criteria", "output_norm", "--prompts", "3", "--corruption", "abc", "--metric", "accuracy", "--length", "9",
        "--text", "t.txt", "--unit", "layer", "--positions", "END", "--phase", "decode", "--no-curve", "--top", "4",
        "--dtype", "float64", "--device", "cuda", "--device-map", "auto", "--executor", "ray", "--workers", "3",
        "--fresh", "--anyway", "--out", "o",
    )  # fmt: skip
    assert code == 0, err
    ((study, how),) = asked
    document = study.document()
    assert document == {
        "models": ("m",), "tasks": ("ioi", "mcq"), "modes": ("mean", "zero"), "methods": ("exact", "hybrid"),
        "seeds": (0, 1), "criteria": ("output_norm",), "prompts": 3, "corruption": "abc", "metric": "accuracy",
        "length": 9, "text": "t.txt", "unit": "layer", "positions": "END", "phase": "decode", "curve": False, "top": 4,
        "dtype": "float64", "device": "cuda", "device_map": "auto",
    }  # fmt: skip
    assert (how["executor"], how["workers"], how["fresh"], how["anyway"]) == ("ray", 3, True, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ablate", "planted", "--task", "induction"], ["--out"]),
        (["ablate", "planted", "--out", "o"], ["--task"]),
        (["ablate", "planted", "--task", "induction", "--out", "o", "--unit", "neuron"], ["neuron", "kv_group"]),
        (["ablate", "planted", "--task", "induction,induction", "--out", "o"], ["twice"]),
        (["ablate", "planted", "--task", "induction", "--out", "o", "--seed", "x"], ["--seed", "whole numbers"]),
        (["ablate", "planted", "--task", "induction", "--out", "o", "--prompts", "0"], ["prompts: found 0"]),
        (["run", "absent.toml", "--out", "o"], ["absent.toml"]),
        (["run", "wrong.toml", "--out", "o"], ["wrong.toml", "unknown key 'modles'", "models"]),
        (["ablate", "planted", "--task", "nothing", "--out", "o"], ["unknown task 'nothing'", "induction"]),
        (["ablate", "planted-shuffled", *SMALL, "--out", "o"], ["cannot do induction", "anyway"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(command, arguments, words, tmp_path):
    (tmp_path / "wrong.toml").write_text("modles = ['planted']")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("probe: ")
    for word in words:
        assert word in err
    assert sorted(tmp_path.rglob("*")) == before


def test_slips_are_told_without_loading_anything(tmp_path):
    code = (
        "import sys; sys.argv = ['probe', 'ablate', 'planted', '--task', 'ioi', '--unit', 'x', '--out', 'o'];"
        "import probe.cli\n"
        "try: probe.cli.main()\n"
        "except SystemExit as left: print(left.code, [m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "2 []"


def test_tasks_are_listed_in_words_and_json(command):
    code, out, _ = command("tasks")
    assert code == 0
    assert any(line.startswith("ioi ") and "logit_diff" in line and "s2_io" in line for line in out.splitlines())
    rows = {row["name"]: row for row in json.loads(command("tasks", "--json")[1])}
    assert rows["ioi"]["corruptions"][0] == "s2_io"
    assert {"induction", "lm"} <= set(rows)


def test_a_study_of_a_file_is_the_study_of_the_options(command, tmp_path):
    command("ablate", "planted", *SMALL, "--method", "gradient", "--out", "a")
    study = read_study(tmp_path / "a" / "study.toml")
    assert (study.models, study.tasks, study.methods, study.prompts) == (("planted",), ("induction",), ("gradient",), 4)
