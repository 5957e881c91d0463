"""Pictures of figures: PNG and SVG by one Chromium, no request, one clear line where it cannot be had."""

from __future__ import annotations

import base64
import os
import struct
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest

from probe import stills
from probe.stills import StillError, browser, drawing, show, still

HAS_BROWSER = any(stills.shutil.which(name) for name in stills.BROWSERS)
needs_browser = pytest.mark.skipif(not HAS_BROWSER, reason="no Chromium on PATH: no picture was drawn")


def figure(height: int | None = 300) -> go.Figure:
    drawn = go.Figure(go.Scatter(x=[1, 2, 3], y=[1, 3, 2], name="a < b & c"))
    return drawn.update_layout(template="none", height=height, showlegend=True)


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What `show` hands to IPython: (bundle, metadata) pairs."""
    caught: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def display(bundle: dict[str, Any], *, raw: bool, metadata: dict[str, Any]) -> None:
        assert raw
        caught.append((bundle, metadata))

    monkeypatch.setattr("IPython.display.display", display)
    return caught


@pytest.mark.browser
@needs_browser
class TestDrawing:
    def test_a_png_has_the_asked_width_and_the_figures_height(self):
        assert size(still(figure(), width=400)) == (800, 600)
        assert size(still(figure(None), width=300, scale=1)) == (300, stills.HEIGHT)

    def test_the_same_figure_gives_the_same_bytes_and_another_does_not(self):
        first = still(figure(), width=300, scale=1)
        assert still(figure(), width=300, scale=1) == first
        assert still(figure().update_traces(y=[3, 1, 2]), width=300, scale=1) != first

    def test_an_svg_keeps_text_as_escaped_text(self):
        text = drawing(figure(), width=400).decode()
        assert text.startswith("<svg")
        assert 'width="400"' in text
        assert "a < b & c" in [node.text for node in ElementTree.fromstring(text).iter()]

    def test_chromium_is_started_once_and_again_after_it_died(self):
        still(figure(), width=200, scale=1)
        running = stills._PAINTER._kaleido
        still(figure(), width=200, scale=1)
        assert stills._PAINTER._kaleido is running
        running.subprocess.kill()
        running.subprocess.wait()
        with pytest.raises(StillError, match="ended while it drew"):
            still(figure(), width=200, scale=1)
        assert size(still(figure(), width=200, scale=1)) == (200, 300)

    def test_a_figure_that_wants_the_network_makes_no_request(self):
        asked: list[str] = []

        class Listener(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_error(404)

        server = HTTPServer(("127.0.0.1", 0), Listener)
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            where = f"http://127.0.0.1:{server.server_port}/picture.png"
            placed = {"source": where, "x": 0, "y": 1, "sizex": 1, "sizey": 1, "xref": "paper", "yref": "paper"}
            name = f'<b style="background:url({where})">x</b><img src="{where}">'
            hostile = figure().add_layout_image(placed).update_traces(name=name)
            still(hostile)
            drawing(hostile)
            with pytest.raises(StillError, match="cannot be drawn"):
                still(go.Figure(go.Scattergeo(lat=[1], lon=[2])))  # its map is fetched from plotly's site
        finally:
            server.shutdown()
            server.server_close()
        assert asked == []
        assert size(still(figure(), width=200, scale=1)) == (200, 300)

    def test_a_process_that_drew_ends_quietly(self):
        code = (
            "import plotly.graph_objects as go; from probe.stills import still; "
            "print(len(still(go.Figure(go.Scatter(y=[1, 2])))) > 1000)"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=120
        )
        assert (done.stdout, done.stderr) == ("True\n", "")

    def test_a_notebook_gets_one_bundle_of_both(self, shown: list[Any], capsys: pytest.CaptureFixture[str]):
        show(figure(), width=400, scale=1)
        ((bundle, metadata),) = shown
        assert bundle["application/vnd.plotly.v1+json"]["data"][0]["name"] == "a < b & c"
        assert size(base64.b64decode(bundle["image/png"])) == (400, 300)
        assert metadata == {"image/png": {"width": 400, "height": 300}}
        assert capsys.readouterr().out == ""


def test_without_kaleido_the_command_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stills, "find_spec", lambda name: None)
    with pytest.raises(StillError, match=r"pip install 'headprobe\[figures\]'"):
        still(figure())


def test_without_chromium_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StillError, match="apt-get install chromium"):
        drawing(figure())


def test_chromium_is_found_under_its_other_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    other = tmp_path / "chromium-browser"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert browser() == str(other)


def test_a_chromium_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    stills._PAINTER.close()
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(StillError, match=r"chromium did not start; see what .* says") as caught:
        still(figure())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("width", "scale"), [(0, 1), (400, 0), (400, -1)])
def test_an_empty_picture_is_refused(width: int, scale: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stills, "browser", lambda: "/bin/true")
    with pytest.raises(StillError, match="give positive numbers"):
        still(figure(), width=width, scale=scale)


def test_a_notebook_without_kaleido_is_told_so_in_one_line(
    shown: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(stills, "find_spec", lambda name: None if name == "kaleido" else object())
    show(figure())
    ((bundle, metadata),) = shown
    assert "image/png" not in bundle
    assert metadata == {}
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "pip install 'headprobe[figures]'" in said


def test_show_without_ipython_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stills, "find_spec", lambda name: None)
    with pytest.raises(StillError, match="pip install ipykernel"):
        show(figure())
