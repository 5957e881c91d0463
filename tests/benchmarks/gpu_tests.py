"""A share of the property tests that need a GPU, recorded test by test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import pytest

ROOT = Path(__file__).parents[2]
TESTS = tuple(ROOT / "tests" / "kernels" / name for name in ("test_triton_gpu.py", "test_triton_decode_gpu.py"))


class Share:
    """Pytest plugin: keeps every `of`-th test from `number` on, and writes the outcome of each as it ends."""

    def __init__(self, number: int, of: int, file: TextIO) -> None:
        self.number, self.of, self.file = number, of, file

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the tests of the other shares out."""
        items[:] = items[self.number :: self.of]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One record a test; a set-up that fails or skips counts as the test."""
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            name = report.nodeid.rpartition("::")[2]
            record = {"kind": "test", "name": name, "outcome": report.outcome, "seconds": round(report.duration, 1)}
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()


def run_share(number: int, of: int, records: Path, tests: Sequence[Path] = TESTS) -> int:
    """Run a share (0, 1, …) of the tests in this process. Returns pytest's exit status, 0 where failures are recorded.

    Warnings are shown, not raised: a library's notice on a new driver says nothing about a kernel.
    """
    with records.open("w") as file:
        arguments = ["-q", "--tb=short", "-p", "no:cacheprovider", "-W", "default", "-m", "gpu", f"--rootdir={ROOT}"]
        code = int(pytest.main([*arguments, *map(str, tests)], plugins=[Share(number, of, file)]))
    return 0 if code == pytest.ExitCode.TESTS_FAILED else code
