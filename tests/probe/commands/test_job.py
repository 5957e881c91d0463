"""What can be asked on the command line, and what is refused before anything is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from probe.commands.job import Job, numbers, reproduced
from probe.errors import TokensError


def test_numbers_are_read_or_refused_by_name():
    assert numbers("--lengths", "512,1024", int) == (512, 1024)
    assert numbers("--depths", "0, 12.5", float) == (0.0, 12.5)
    with pytest.raises(TokensError, match=r"--lengths: found '1,,2', wanted whole numbers"):
        numbers("--lengths", "1,,2", int)
    with pytest.raises(TokensError, match="whole numbers"):
        numbers("--lengths", "1.5", int)


@pytest.mark.parametrize("changes", [{"context": 0}, {"sequences": 0}, {"window": -1}, {"trials": 0}])
def test_counts_are_one_or_more(changes):
    (name,) = changes
    with pytest.raises(TokensError, match=f"--{name}: found {changes[name]}, wanted 1 or more"):
        Job("scan", "planted", Path("out"), **changes)


@pytest.mark.parametrize("changes", [{"sinks": -1}, {"seed": -1}])
def test_sinks_and_seed_are_not_negative(changes):
    with pytest.raises(TokensError, match="wanted 0 or more"):
        Job("scan", "planted", Path("out"), **changes)


def test_reading_a_job_imports_nothing_heavy():
    heavy = ("torch", "pandas", "plotly")
    code = f"import sys, probe.commands.job, probe.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_to_repeat_names_what_was_changed_and_no_folder():
    job = Job(
        "scan", "planted", Path("/somewhere/out"), text=Path("/private/my text.txt"), bos=True, depths=(0.0, 12.5)
    )
    assert reproduced(job) == "probe scan planted --text 'my text.txt' --bos --depths 0,12.5 --out DIR"
    assert reproduced(Job("report", "a/b", Path("x"))) == "probe report a/b --out DIR"
