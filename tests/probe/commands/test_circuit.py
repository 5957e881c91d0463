"""`probe overlap` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from probe.circuits.circuit import PromptScores
from probe.circuits.files import save


@pytest.fixture
def files(make_small_circuit, tmp_path):
    """A.json and B.json, which share one head; C.json of another model."""
    edges = [("input", "a0.h1<v>")]
    save(make_small_circuit([(0, 1), (1, 0)], edges=edges, roles={(0, 1): "induction"}), tmp_path / "A.json")
    save(make_small_circuit([(0, 1), (2, 2)], edges=edges, task="mcq"), tmp_path / "B.json")
    save(make_small_circuit([(0, 1)], model="other"), tmp_path / "C.json")
    return tmp_path


@pytest.mark.usefixtures("files")
def test_an_overlap_in_words(command):
    code, out, err = command("overlap", "A.json", "B.json", "--draws", "500")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("small: ioi and mcq share 1 head: 50% of ioi's 2 and 50% of mcq's 2, where chance")
    assert lines[1] == "shared: L0H1"
    assert lines[2].startswith("p_value 0.2")
    assert "induction: 1 and 0, 0 shared, 1 with another role in the other circuit" in lines
    assert any(line.startswith("edges: 1 and 1, 1 shared, chance between the same layers 0.1") for line in lines)
    assert lines[-1].startswith("note: no interval")


def test_as_json_and_in_a_folder(command, files):
    code, out, err = command("overlap", "A.json", "B.json", "--draws", "500", "--json", "--out", "o")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["shared_heads"] == ["a0.h1"]
    # Layer 0 decides: one head of four in each. 500 draws, four standard errors, and the one that is added.
    assert abs(found["p_value"] - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 500) + 1 / 500
    assert sorted(path.name for path in (files / "o").iterdir()) == ["overlap.json", "run.json"]
    assert (files / "o" / "overlap.json").read_text() == out
    code, out, err = command("overlap", "A.json", "B.json", "--draws", "500", "--out", "o")
    assert code == 0
    assert out.splitlines()[-1] == "o: overlap.json, run.json"
    code, out, err = command("overlap", "A.json", "B.json", "--draws", "501", "--out", "o")
    assert (code, out) == (2, "")
    assert "holds another run" in err


def test_scores_beside_the_circuits_give_an_interval(command, files, make_small_circuit):
    for name, heads, task in (("A", [(0, 1), (1, 0)], "ioi"), ("B", [(0, 1), (2, 2)], "mcq")):
        circuit = make_small_circuit(heads, task=task)
        values = np.random.default_rng(0).normal(size=(16, 5))
        for layer, head in heads:
            values[circuit.graph.source(f"a{layer}.h{head}")] += 9
        save(circuit, files / f"{name}.json", PromptScores(values))
    code, out, _ = command("overlap", "A.json", "B.json", "--draws", "500")
    assert code == 0
    assert "; 1 to 1 over resampled prompts." in out
    assert "note:" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["A.json"], ["Missing argument"]),
        (["A.json", "absent.json"], ["absent.json", "cannot be read"]),
        (["A.json", "C.json"], ["of one model"]),
        (["A.json", "B.json", "--draws", "0"], ["0 draws"]),
        (["A.json", "B.json", "--out", "A.json"], ["is not a folder"]),
        (["A.json", "torn.json"], ["torn.json", "not a JSON file"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(command, files, arguments, words):
    (files / "torn.json").write_text((files / "A.json").read_text()[:100])
    before = sorted(files.rglob("*"))
    code, out, err = command("overlap", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("probe: ")
    for word in words:
        assert word in err
    assert sorted(files.rglob("*")) == before


@pytest.mark.usefixtures("files")
def test_no_model_library_is_needed(tmp_path):
    code = (
        "import sys; sys.argv = ['probe', 'overlap', 'A.json', 'B.json', '--draws', '9'];"
        "import probe.cli\n"
        "try: probe.cli.main()\n"
        "except SystemExit as left: print(left.code, [m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "0 []"
