"""Progress is drawn on a terminal after two seconds, and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from probe.progress import on_terminal, silent

CODE = """
import time
from probe import progress
progress.PATIENCE = {patience}
with progress.on_terminal() as tell:
    for done in range(4):
        tell(done, 3, "scan")
        time.sleep(0.1)
"""


def drawn(patience):
    """What the program writes to a terminal on standard error."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", CODE.format(patience=patience)],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=environment,
    ) as process:
        os.close(follower)
        parts = []
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # Linux says so when the other end of a terminal is closed
                break
            if not part:
                break
            parts.append(part)
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.wait() == 0
    os.close(leader)
    return b"".join(parts).decode()


def test_long_jobs_are_drawn_with_the_time_left():
    text = drawn(patience=0.0)
    assert "scan" in text
    assert "left" in text


def test_quick_jobs_draw_nothing():
    assert drawn(patience=60.0) == ""


def test_nothing_is_drawn_where_nobody_looks(capsys, monkeypatch):
    monkeypatch.setattr("probe.progress.PATIENCE", 0.0)
    with on_terminal() as tell:
        assert tell is silent
        tell(1, 2, "scan")
    assert capsys.readouterr() == ("", "")
