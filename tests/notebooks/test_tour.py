"""The tour: its committed outputs are whole, and it runs again, on the real model, to the same answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "notebooks" / "tour.ipynb"


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell: Any) -> str:
    """Everything a cell printed or showed as text."""
    shown = [output.get("text") or output.get("data", {}).get("text/markdown", "") for output in cell.outputs]
    return "".join(shown)


def rerun(*arguments: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: the kernel's libraries warn, and warnings are errors here.
    command = [sys.executable, "-m", "notebooks.run", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )


def check_whole(notebook: Any) -> None:
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell.outputs, f"a step without anything to see:\n{cell.source}"
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text


def check_answer(notebook: Any) -> None:
    """The strongest induction heads are among those named, and removing them costs more than the control."""
    answer = text_of(code(notebook)[-1])
    found = re.search(r"Of 270 heads, \*\*(\d+) look backwards for a repeat\*\*: (.*)\.\n", answer)
    assert found is not None, answer
    named = found[2].split(", ")
    assert len(named) == int(found[1]) > 0
    assert {"L18H6", "L17H3"} <= set(named)
    clean, without, control = (
        float(number) for number in re.findall(r"from ([\d.]+) to\s([\d.]+) nats.*to ([\d.]+) on average", answer)[0]
    )
    assert without - clean > 3 * abs(control - clean)
    assert "park on the first token" in answer
    assert "fetch a fact" in answer


def test_it_starts_with_a_question_and_every_step_says_what_to_expect() -> None:
    notebook = read(TOUR)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.splitlines()[0].startswith("# ")
    assert first.source.splitlines()[0].endswith("?")
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert sum("*Expect*" in text for text in texts) >= len(texts) - 2


def test_committed_outputs_are_whole_small_and_of_no_machine() -> None:
    notebook = read(TOUR)
    nbformat.validate(notebook)
    check_whole(notebook)
    check_answer(notebook)
    kinds = [kind for cell in code(notebook) for output in cell.outputs for kind in output.get("data", {})]
    assert "application/vnd.plotly.v1+json" in kinds
    assert kinds.count("image/png") >= 3
    assert TOUR.stat().st_size < 400_000
    outputs = json.dumps([cell.outputs for cell in code(notebook)])
    assert not re.search(r"(?<![\\w+/=])/(home|root|work|tmp|usr|Users)/", outputs)


@pytest.mark.real
def test_the_committed_source_runs_to_the_committed_answer(tmp_path: Path) -> None:
    done = rerun("--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    again, committed = read(tmp_path / TOUR.name), read(TOUR)
    check_whole(again)
    check_answer(again)
    assert [cell.source for cell in again.cells] == [cell.source for cell in committed.cells]
    # The stamp is the hash of the source at the time of the run: equal stamps, equal source.
    assert again.metadata["executed_source"] == committed.metadata["executed_source"]
