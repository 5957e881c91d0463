"""The command line in this process: a new one takes seconds to import its libraries."""

from __future__ import annotations

import signal
import sys

import pytest


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """`probe` with some arguments, in a folder of its own: exit code, output, errors."""
    from probe.cli import main

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["probe", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return left.value.code, out, err

    yield run
    signal.signal(signal.SIGTERM, before)
