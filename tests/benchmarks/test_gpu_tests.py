"""Shares of a test file: each test once among all of them, every outcome recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.gpu_pieces import read_records

FILE = """
import pytest, warnings
pytestmark = pytest.mark.gpu

def test_good(): warnings.warn("a new driver")
def test_bad(): assert False
@pytest.mark.skip(reason="no")
def test_left_out(): pass
@pytest.mark.parametrize("n", range(3))
def test_many(n): pass
"""
RUN = "import sys; from pathlib import Path; from tests.benchmarks.gpu_tests import run_share; " \
      "sys.exit(run_share(int(sys.argv[1]), 2, Path(sys.argv[2]), [Path(sys.argv[3])]))"  # fmt: skip


def test_every_test_is_run_once_and_recorded(tmp_path: Path) -> None:
    """In processes of their own: one pytest inside another would share its plugins."""
    (tmp_path / "test_some.py").write_text(FILE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: runs on a GPU\nfilterwarnings = error\n")
    outcomes: dict[str, str] = {}
    for number in range(2):
        records = tmp_path / f"records {number}"
        arguments = [sys.executable, "-c", RUN, str(number), str(records), str(tmp_path / "test_some.py")]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found = read_records(records)
        assert len(found) == 3
        assert not {record["name"] for record in found} & set(outcomes)
        outcomes |= {record["name"]: record["outcome"] for record in found}
    assert outcomes == {
        "test_good": "passed", "test_bad": "failed", "test_left_out": "skipped",
        "test_many[0]": "passed", "test_many[1]": "passed", "test_many[2]": "passed",
    }  # fmt: skip
