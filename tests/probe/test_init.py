"""The package's front door: cheap to open, every public name there, functions not hidden by modules."""

from __future__ import annotations

import subprocess
import sys

import pytest

import probe


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_is_cheap_and_brings_no_torch():
    code = (
        "import sys, time; t = time.perf_counter(); import probe;"
        "print(time.perf_counter() - t, 'torch' in sys.modules)"
    )
    # The best of three: the machine may be busy, the import may not be slow.
    runs = [python(code).split() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in runs) < 0.3
    assert {torch for _, torch in runs} == {"False"}


@pytest.mark.parametrize("name", sorted(probe.__all__))
def test_every_public_name_is_there(name):
    assert getattr(probe, name) is not None
    assert name in dir(probe)


def test_unknown_names_raise_as_usual():
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = probe.absent


def test_functions_are_not_hidden_by_modules_of_their_name():
    code = (
        "import probe.scan, probe.analyses.retrieval, probe; from probe.scan import scan;"
        "print(callable(probe.scan), probe.scan is scan, callable(probe.retrieval))"
    )
    assert python(code) == "True True True"
