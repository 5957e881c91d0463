"""Each notebook asks, foretells, shows and answers; its outputs are whole; it runs again to the same answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
"""A number, but not the digits of a head's name."""
BYTES = 400_000
WITHIN = 0.02
"""A number of an answer may be off by so much, or by so much of itself: processors sum in other orders."""


# The annotation stands in for the types that nbformat does not give.
_read: Callable[..., Any] = nbformat.read


def read(path: Path) -> Any:
    return _read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def answer_of(notebook: Any) -> str:
    """What the last cell shows, on one line."""
    shown = [output.get("data", {}).get("text/markdown", "") for output in code(notebook)[-1].outputs]
    return " ".join("".join(shown).split())


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def asked(pattern: str, answer: str) -> list[float]:
    """The numbers that a pattern's groups hold in the answer."""
    found = re.search(pattern, answer)
    assert found is not None, f"no {pattern!r} in: {answer}"
    return [float(group.replace(",", "")) for group in found.groups()]


def check_tour(answer: str) -> None:
    """The strongest induction heads are named, and removing them costs more than removing others."""
    named = re.search(r"look backwards for a repeat\*\*: ([^.]*)\.", answer)
    assert named is not None
    assert {"L18H6", "L17H3"} <= set(named[1].split(", "))
    clean, without, control = asked(r"from ([\d.]+) to ([\d.]+) nats.*to ([\d.]+) on average", answer)
    assert without - clean > 3 * abs(control - clean)
    assert "park on the first token" in answer
    assert "fetch a fact" in answer


def check_sinks(answer: str) -> None:
    """Half of the heads rest, mostly on one more token; the place costs more than what is read, controls little."""
    heads, resting = asked(r"Of (\d+) heads, \*\*(\d+) rest", answer)
    assert resting > heads / 3
    shared, pieces = asked(r"in (\d) of (\d) pieces", answer)
    assert shared >= pieces - 2
    interval = r"(-?[\d.]+) \[(-?[\d.]+), -?[\d.]+\]"
    _, place_low, reading, reading_low, key, _, others, _ = asked(
        rf"rises by {interval} nats.*read there, by {interval}.*same heads {interval}.*other heads {interval}", answer
    )
    assert place_low > reading > reading_low > 3 * max(key, others) > 0


def check_retrieval(answer: str) -> None:
    """The known heads lead; the answers go without them or without their look, and stay without random others'."""
    assert "led by L18H6, L17H3" in answer
    clean, without, random = asked(r"answers (\d+)% of.*it answers (\d+)%\*\*.*it answers (\d+)% \(median", answer)
    assert clean >= 75
    assert without <= 50 < random
    blind, random_blind = asked(r"nothing else, they leave (\d+)% right.*the same way, leave (\d+)%", answer)
    assert blind <= 50
    assert random_blind >= 0.8 * clean > 2 * blind


def check_ablation(answer: str) -> None:
    """The strongest helper and hinderer of IOI; random heads leave the task; the gradient misses one head badly."""
    helping, hindering = answer.split("work against it")
    assert "L23H3" in helping
    assert "L29H0" in hindering
    ranked, clean, random, reverse = asked(
        r"leave ([\d.-]+) of ([\d.]+) logits.*layers leave ([\d.]+); without the six worst it is ([\d.]+)\.", answer
    )
    assert ranked < 0.25 * clean < 0.75 * clean < random < reverse
    estimate, measured = asked(r"furthest off for L\d+H\d: (-?[\d.]+) where (-?[\d.]+) was measured", answer)
    assert abs(measured - estimate) > 1


def check_circuits(answer: str) -> None:
    """Both circuits do most of their task; the known sharing is found; what is shared is what IOI needs."""
    ioi, induction = asked(r"heads do ([\d.]+) \[.*?of ioi.*?heads do ([\d.]+) \[.*?of induction", answer)
    assert 0.8 <= ioi <= 1.2
    assert 0.8 <= induction <= 1.2
    shared, chance, p = asked(r"share (\d+) heads.*layer share ([\d.]+) \(p = ([\d.e-]+)\)", answer)
    assert shared > chance
    assert p < 0.05
    assert asked(r"finds (\d) shared heads where there are 2, and (\d) where", answer) == [2, 0]
    lost, random = asked(r"IOI loses ([\d.]+) \[.*random heads of the same layers cost (-?[\d.]+)\.", answer)
    assert lost > 0.8
    assert abs(random) < 0.2


def check_bring_your_own(answer: str) -> None:
    """The empty model has no job, the planted one has all; everything wrong is refused; the own task has its heads."""
    assert "the toolkit says: no head has a job" in answer
    assert "duplicate_token, induction, previous_token, sink" in answer
    empty, even, planted = asked(
        r"score is ([\d.]+), where an even look has ([\d.]+) and the planted model ([\d.]+)", answer
    )
    assert abs(empty - even) < 0.002 < 0.9 < planted
    assert "6 of 6 things" in answer
    assert "falcon: HookError" in answer
    assert "SmolLM2 knows (100% right)" in answer
    assert "L23H3" in answer
    mass, chance = asked(r"most from L\d+H\d: ([\d.]+) \[.*even look gives ([\d.]+)\.$", answer)
    assert mass > 1.5 * chance


CHECKS: dict[str, Callable[[str], None]] = {
    "ablation": check_ablation,
    "bring_your_own": check_bring_your_own,
    "circuits": check_circuits,
    "retrieval": check_retrieval,
    "sinks": check_sinks,
    "tour": check_tour,
}


def check_whole(notebook: Any) -> None:
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell.outputs, f"a step without anything to see:\n{cell.source}"
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text


def check_same(again: str, committed: str) -> None:
    """The same words, heads' names among them, and numbers off by no more than `WITHIN`."""
    assert NUMBER.sub("#", again) == NUMBER.sub("#", committed)
    assert numbers(again) == pytest.approx(numbers(committed), rel=WITHIN, abs=WITHIN)


def test_every_notebook_has_a_check_of_its_answer() -> None:
    assert sorted(CHECKS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_asks_and_every_step_says_what_to_expect(name: str) -> None:
    notebook = read(FOLDER / f"{name}.ipynb")
    first, *_, last = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert notebook.cells[0].source == first
    assert first.splitlines()[0].startswith("# ")
    assert first.splitlines()[0].endswith("?")
    assert last.startswith("## The answer")
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"][:-1]
    assert [text for text in texts if "xpect*" not in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_are_whole_small_and_of_no_machine(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    notebook = read(path)
    nbformat.validate(notebook)
    check_whole(notebook)
    CHECKS[name](answer_of(notebook))
    figures = [output.data for cell in code(notebook) for output in cell.outputs if "data" in output]
    alive = [data for data in figures if "application/vnd.plotly.v1+json" in data]
    assert alive
    assert all("image/png" in data for data in alive)
    assert path.stat().st_size < BYTES
    outputs = json.dumps([cell.outputs for cell in code(notebook)])
    assert not re.search(r"(?<![\\w+/=])/(home|root|work|tmp|usr|Users)/", outputs)


@pytest.mark.parametrize("name", NAMES)
def test_a_check_refuses_an_answer_that_says_something_else(name: str) -> None:
    answer = answer_of(read(FOLDER / f"{name}.ipynb"))
    with pytest.raises(AssertionError):
        CHECKS[name](NUMBER.sub("1", answer))
    with pytest.raises(AssertionError):
        check_same(re.sub(r"L\d+H\d", "L0H0", answer, count=1), answer)
    with pytest.raises(AssertionError):
        check_same(NUMBER.sub(lambda number: str(1.1 * numbers(number[0])[0] + 0.1), answer), answer)
    check_same(answer, answer)


@pytest.fixture(scope="module")
def run_again(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Every notebook run from its source, two at a time: the folder of the results, and what went wrong."""
    folder = tmp_path_factory.mktemp("notebooks")
    # A process of its own: the kernel's libraries warn, and warnings are errors here.
    command = [sys.executable, "-m", "notebooks.run", "--out", str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return folder, done.stderr


@pytest.mark.real
@pytest.mark.parametrize("name", NAMES)
def test_the_committed_source_runs_to_the_committed_answer(name: str, run_again: tuple[Path, str]) -> None:
    folder, wrong = run_again
    path = folder / f"{name}.ipynb"
    assert path.exists(), wrong
    again, committed = read(path), read(FOLDER / f"{name}.ipynb")
    check_whole(again)
    CHECKS[name](answer_of(again))
    # The stamp is the hash of the source at the time of the run: equal stamps, equal source.
    assert again.metadata["executed_source"] == committed.metadata["executed_source"]
    # Pythons carry other prose, and so other numbers; on the same prose the answer is the same.
    if again.metadata["read_text"] == committed.metadata["read_text"]:
        check_same(answer_of(again), answer_of(committed))
