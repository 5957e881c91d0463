"""A widget's page carries everything and trusts nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import re

from probe.page.widget import asset, framed, scripts, widget_page
from tests.conftest import HOSTILE

PAGE = widget_page("explorer", HOSTILE, "270 heads", {"text": HOSTILE})


def test_only_our_script_may_run() -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', PAGE)
    assert html.unescape(policy).startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    (code,) = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert html.unescape(policy).split("script-src ")[1].split(";")[0] == f"'sha256-{digest}'"


def test_text_cannot_leave_its_place() -> None:
    assert "<img" not in PAGE
    assert PAGE.count("<script") == 2
    assert html.escape(HOSTILE, quote=True) in PAGE


def test_the_frame_holds_the_page_and_no_more_rights_than_it_needs() -> None:
    frame = framed(PAGE, HOSTILE, 700)
    assert frame.startswith("<iframe srcdoc=")
    assert 'sandbox="allow-scripts"' in frame
    assert html.unescape(frame.split('srcdoc="')[1].split('"')[0]) == PAGE
    assert frame.count("<") == 2


def test_scripts_write_text_only_and_ask_for_nothing() -> None:
    source = scripts() + asset("widget.js")
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "XMLHttp",
                   "localStorage", "import("):  # fmt: skip
        assert danger not in source
    assert "textContent" in source
