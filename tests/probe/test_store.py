from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from probe import store
from probe.errors import ResultsError
from probe.store import identity, results_folder, write_file

ASKED = {"model": "m", "tokens": "t", "window": 64}
OTHER = {"model": "m", "tokens": "t", "window": 32}


def write(folder: Path, text: str, asked: dict[str, object] = ASKED, fresh: bool = False) -> None:
    with results_folder(folder, asked, fresh=fresh) as results:
        (results.path / "value.txt").write_text(text)
        results.run["seconds"] = 1.5


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_writes_its_folder_and_says_what_it_was(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "out", "one")
    run = json.loads((tmp_path / "deep" / "out" / "run.json").read_text())
    assert run == {"identity": identity(ASKED), "asked": ASKED, "seconds": 1.5}
    assert names(tmp_path / "deep") == ["out"]


def test_the_same_run_replaces_its_folder_whole(tmp_path: Path) -> None:
    write(tmp_path / "out", "one")
    (tmp_path / "out" / "stale.txt").write_text("left by hand")
    write(tmp_path / "out", "two")
    assert names(tmp_path / "out") == ["run.json", "value.txt"]
    assert (tmp_path / "out" / "value.txt").read_text() == "two"
    assert names(tmp_path) == ["out"]


def test_replaces_where_names_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_exchange", lambda first, second: False)
    write(tmp_path / "out", "one")
    write(tmp_path / "out", "two")
    assert (tmp_path / "out" / "value.txt").read_text() == "two"
    assert names(tmp_path) == ["out"]


def test_a_failed_run_leaves_the_old_folder(tmp_path: Path) -> None:
    write(tmp_path / "out", "one")

    def fail() -> None:
        with results_folder(tmp_path / "out", ASKED) as results:
            (results.path / "value.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "out" / "value.txt").read_text() == "one"
    assert names(tmp_path) == ["out"]


def test_another_run_is_refused_before_any_work(tmp_path: Path) -> None:
    write(tmp_path / "out", "one")
    with pytest.raises(ResultsError, match=r"another run.*--fresh"):
        write(tmp_path / "out", "two", OTHER)
    assert (tmp_path / "out" / "value.txt").read_text() == "one"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("content", [{"notes.txt": "mine"}, {"run.json": "{"}, {"run.json": "[]"}])
def test_files_of_no_run_are_refused(tmp_path: Path, content: dict[str, str]) -> None:
    (tmp_path / "out").mkdir()
    for name, text in content.items():
        (tmp_path / "out" / name).write_text(text)
    with pytest.raises(ResultsError, match="no run"):
        write(tmp_path / "out", "two")
    assert names(tmp_path / "out") == list(content)


def test_a_file_in_the_way_is_refused_and_an_empty_folder_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResultsError, match="not a folder"):
        write(tmp_path / "file", "two")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "two")
    assert (tmp_path / "empty" / "value.txt").read_text() == "two"


def test_fresh_moves_the_other_run_aside(tmp_path: Path) -> None:
    write(tmp_path / "out", "one")
    write(tmp_path / "out", "two", OTHER, fresh=True)
    write(tmp_path / "out", "three", ASKED, fresh=True)
    assert (tmp_path / "out" / "value.txt").read_text() == "three"
    assert (tmp_path / "out.previous-1" / "value.txt").read_text() == "one"
    assert (tmp_path / "out.previous-2" / "value.txt").read_text() == "two"
    assert names(tmp_path) == ["out", "out.previous-1", "out.previous-2"]


def test_a_symlink_is_followed_to_the_folder_it_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "value.txt").read_text() == "one"


CHILD = """
import os, signal, sys
from pathlib import Path
from probe import store
if sys.argv[2] == "before the swap":
    store._put = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "between two renames":
    store._exchange = lambda a, b: False
    real = os.rename
    def rename(a, b):
        real(a, b)
        os.kill(os.getpid(), signal.SIGKILL)
    os.rename = rename
with store.results_folder(sys.argv[1], {"model": "m", "tokens": "t", "window": 64}) as results:
    (results.path / "value.txt").write_text("two")
    if sys.argv[2] == "half written":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("point", ["half written", "before the swap", "between two renames"])
def test_killed_anywhere_the_old_results_survive(tmp_path: Path, point: str) -> None:
    write(tmp_path / "out", "one")
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "out"), point], check=False)
    assert child.returncode == -signal.SIGKILL
    survivors = [path.read_text() for path in tmp_path.glob("**/value.txt")]
    assert "one" in survivors
    write(tmp_path / "out", "three")
    assert (tmp_path / "out" / "value.txt").read_text() == "three"
    assert names(tmp_path) == ["out"]


def test_write_file_keeps_the_old_file_when_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "a.bin", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match=r"a\.bin.*No space left on device"):
        write_file(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_identity_covers_every_word_and_ignores_order() -> None:
    assert identity({"a": 1, "b": [1.5]}) == identity({"b": [1.5], "a": 1})
    assert identity(ASKED) != identity(OTHER)
