"""A study on a planted model: whole, stopped anywhere, resumed, spread over processes; the same bytes in the end."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from probe.errors import ResultsError, StudyError, TokensError
from probe.formats import read_parquet
from probe.models import load
from probe.studies import identity as study_identity
from probe.studies import ledger as ledger_module
from probe.studies.file import Study
from probe.studies.study import folder_name, study
from probe.table import HeadTable

SMALL = Study(("planted",), ("induction",), methods=("exact", "gradient"), prompts=6, length=25, curve=False)
FILES = {
    "effects.jsonl", "effects.parquet", "heads.csv", "heads.json", "heads.parquet", "means.jsonl",
    "profiles.safetensors", "prompts.jsonl", "report.html", "run.json", "study.toml", "tasks.json",
}  # fmt: skip


def contents(folder):
    """Every file but run.json, which holds times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    said, drawn = [], []
    out = tmp_path_factory.mktemp("study") / "whole"
    (part,) = study(SMALL, out=out, say=said.append, progress=lambda *how: drawn.append(how))
    return out, part, said, drawn


def test_the_folder_is_whole_and_the_carrier_first(whole):
    out, part, _, _ = whole
    assert {path.name for path in out.iterdir()} == FILES
    table = HeadTable.load(out)
    assert len(table.frame) == 24
    strongest = table.frame.sort_values("ablation_induction", ascending=False).iloc[0]
    assert (strongest["layer"], strongest["head"]) == (part.ablations["induction"].effects.units[8].heads[0])
    assert "attribution_induction" in table.frame
    assert "threads" not in table.metadata
    assert part.computed == len((out / "effects.jsonl").read_text().splitlines())


def test_the_plan_and_how_well_the_model_does_it_come_first(whole):
    _, _, said, drawn = whole
    assert len(said) == 2
    assert "induction" in said[0]
    assert "the model can do it" in said[0]
    # clean 3 layers, every one of 8 heads from its layer on: 8 · (3 + 2 + 1), gradient 3 · 3.
    assert said[1].startswith("planted, seed 0: 60 layer-forwards; about")
    assert said[1].endswith("GiB of memory")
    assert [done for done, _, _ in drawn] == sorted(done for done, _, _ in drawn)
    assert drawn[-1] == (60, 60, "planted, seed 0")


def test_effects_are_long_form_and_sorted(whole):
    out, part, _, _ = whole
    frame, documents = read_parquet(out / "effects.parquet")
    assert list(frame) == [
        "model", "task", "mode", "method", "seed", "unit", "layer", "head", "kv_head", "positions", "phase", "prompt",
        "metric", "clean", "ablated", "effect",
    ]  # fmt: skip
    assert len(frame) == 2 * 24 * 6
    assert frame.equals(frame.sort_values(["method", "layer", "head", "prompt"], ignore_index=True))
    assert (frame["effect"] == frame["clean"] - frame["ablated"]).all()
    exact = part.ablations["induction"].study.effects[0]
    found = frame[frame["method"] == "exact"].pivot(index=["layer", "head"], columns="prompt", values="effect")
    assert (found.to_numpy() == exact.effect).all()
    assert documents["probe"]["seed"] == 0


def test_prompts_are_enough_to_compute_an_effect_again(whole):
    """Clean score of prompt 0, from the file and the model alone."""
    out, part, _, _ = whole
    prompts = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    assert [prompt["index"] for prompt in prompts] == list(range(6))
    wanted = {
        "task", "index", "clean_ids", "corrupted_ids", "answer_ids", "wrong_ids", "metric", "metric_positions",
        "target_ids", "positions", "clean", "corrupted", "template", "group",
    }  # fmt: skip
    assert set(prompts[0]) == wanted
    assert set(json.loads((out / "means.jsonl").read_text().splitlines()[0])) == wanted
    first = prompts[0]
    logits = load("planted").model(torch.tensor([first["clean_ids"]])).logits[0].double()
    log_p = logits.log_softmax(-1)
    loss = [log_p[at, target].item() for at, target in zip(first["metric_positions"], first["target_ids"], strict=True)]
    clean = part.ablations["induction"].effects.clean[0]
    assert sum(loss) / len(loss) == pytest.approx(clean, abs=1e-5)


def test_run_json_says_what_it_ran_on(whole):
    out, part, _, _ = whole
    run = json.loads((out / "run.json").read_text())
    assert run["state"] == "finished"
    assert run["asked"]["study"]["prompts"] == 6
    assert len(run["asked"]["weight_hash"]) == 64
    assert {"torch", "transformers", "headprobe", "code"} <= set(run["asked"]["versions"])
    assert run["computed"] == part.computed == run["pieces"]


def test_asked_again_nothing_is_computed_and_missing_tables_come_back(whole):
    out, part, _, _ = whole
    before = contents(out)
    for name in ("heads.parquet", "effects.parquet", "study.toml"):
        (out / name).unlink()
    said = []
    (again,) = study(SMALL, out=out, say=said.append)
    assert again.computed == 0
    assert f"({part.computed} of {part.computed} pieces are there already)" in said[-1]
    assert contents(out) == before


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_cut_anywhere_and_resumed_it_ends_the_same(whole, tmp_path, lines):
    """What a kill leaves: a run.json, some lines in the order of the work, half of another; no tables."""
    out, part, _, _ = whole
    left = (out / "effects.jsonl").read_bytes().splitlines(keepends=True)[::-1]
    for name in ("run.json", "prompts.jsonl"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    (tmp_path / "effects.jsonl").write_bytes(b"".join(left[:lines]) + left[lines][:100])
    said = []
    (resumed,) = study(SMALL, out=tmp_path, say=said.append)
    assert resumed.computed == part.computed - lines
    assert f"effects.jsonl: the end was torn (line {lines + 1}); cut, {lines} results kept" in said
    assert contents(tmp_path) == contents(out)


KILLED = """
import os, signal, sys
from probe.studies import ledger
from probe.studies import run as study_run
from probe.studies.study import study
from probe.studies.file import Study
point, left = sys.argv[2], [2]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def put(self, piece, result, real=ledger.Ledger.put):
    real(self, piece, result)
    left[0] -= 1
    if not left[0]:
        die()
if point == "at work":
    ledger.Ledger.put = put
if point == "before the tables":
    study_run.effects_frame = die
if point == "before the last":
    study_run.write_report = die
if __name__ == "__main__":
    study(Study(("planted",), ("induction",), methods=("exact", "gradient"), prompts=6, length=25, curve=False),
          out=sys.argv[1])
"""


@pytest.mark.parametrize(
    "point",
    [
        "at work",
        pytest.param("before the tables", marks=pytest.mark.full),
        pytest.param("before the last", marks=pytest.mark.full),
    ],
)
def test_killed_and_resumed_it_ends_the_same(whole, tmp_path, point):
    out, part, _, _ = whole
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out"), point], check=False)
    assert done.returncode == -signal.SIGKILL
    (resumed,) = study(SMALL, out=tmp_path / "out")
    assert resumed.computed == (part.computed - 2 if point == "at work" else 0)
    assert contents(tmp_path / "out") == contents(out)


def test_processes_give_the_same_bytes(whole, tmp_path):
    out, _, _, _ = whole
    study(SMALL, out=tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == contents(out)


def test_a_full_disk_keeps_what_was_computed(whole, tmp_path, monkeypatch):
    out, part, _, _ = whole
    real, room = os.write, [2]

    def full(descriptor, data):
        if data.startswith(b'{"sha256"'):
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            room[0] -= 1
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module.os, "write", full)
        with pytest.raises(ResultsError, match=r"No space left on device\); its 2 results are kept"):
            study(SMALL, out=tmp_path / "out")
    (resumed,) = study(SMALL, out=tmp_path / "out")
    assert resumed.computed == part.computed - 2
    assert contents(tmp_path / "out") == contents(out)


def test_another_study_model_or_library_is_refused(whole, monkeypatch):
    out, _, _, _ = whole
    before = contents(out)
    with pytest.raises(ResultsError, match=r"study\.modes is \[\"mean\"\] there and \[\"zero\"\] here"):
        study(replace(SMALL, modes=("zero",)), out=out)
    with pytest.raises(ResultsError, match="weight_hash is"):
        study(replace(SMALL, models=("planted-gpt2",)), out=out)
    changed = {**study_identity.versions(), "torch": "9.9"}
    monkeypatch.setattr(study_identity, "versions", lambda: changed)
    with pytest.raises(ResultsError, match=r"versions\.torch is .* there and 9\.9 here"):
        study(SMALL, out=out)
    assert contents(out) == before


def test_several_seeds_have_a_folder_each(whole, tmp_path):
    out, _, _, _ = whole
    both = replace(SMALL, seeds=(0, 1))
    first, second = study(both, out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"study.toml", "planted.seed0", "planted.seed1"}
    assert contents(first.folder) == contents(out)
    assert contents(second.folder) != contents(out)
    assert (tmp_path / "out" / "study.toml").read_text() == both.toml()
    with pytest.raises(ResultsError, match="holds one run, and this study wants a folder for several"):
        study(both, out=out)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tasks": ("nothing",)}, StudyError, "unknown task 'nothing'; known are ioi"),
        ({"modes": ("nothing",)}, TokensError, "nothing"),
        ({"criteria": ("nothing",)}, StudyError, "unknown criterion 'nothing'"),
        ({"positions": "NOWHERE"}, TokensError, "no position 'NOWHERE'"),
        ({"tasks": ("ioi",), "length": None}, TokensError, "ioi"),
        ({"models": ("planted-shuffled",)}, TokensError, "cannot do induction"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_any_work(tmp_path, changes, error, message):
    said = []
    with pytest.raises(error, match=message):
        study(replace(SMALL, **changes), out=tmp_path / "out", say=said.append)
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_workers_and_executors_are_named(tmp_path):
    for wrong in ({"executor": "cloud"}, {"workers": 0}):
        with pytest.raises(StudyError, match="wanted local or ray, 1 or more"):
            study(SMALL, out=tmp_path / "out", **wrong)


def test_folder_names_stay_inside_and_apart():
    assert folder_name("smollm2-135m", 0) == "smollm2-135m.seed0"
    strange = ["../../x", "/abs", "a/b", "a-b", "..", "CON", "x" * 300, "a\0b", "a\nb", "a b", "é"]
    names = [folder_name(name, 0) for name in strange]
    assert len(set(names)) == len(names)
    assert all("/" not in name and name not in (".", "..") and len(name) < 120 for name in names)
    assert folder_name("a/b", 0) == folder_name("a/b", 0)

