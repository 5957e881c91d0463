"""A page of its own around one script of ours, and the frame that shows it inside a notebook."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

from probe.page.markup import Html, el, escape, json_script, script

SCRIPTS = ("common.js", "attention.js", "attention_view.js", "explorer.js")
"""What draws the explorer and the attention view, in the order in which it is read."""


def asset(name: str) -> str:
    """The text of a file in `assets`."""
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


def scripts() -> str:
    """The source of the explorer and the attention view: it defines `headprobe` and draws nothing by itself."""
    return "\n".join(asset(name) for name in SCRIPTS)


def widget_page(kind: str, title: str, summary: str, shown: Any, table: Any = None) -> str:
    """A whole HTML page that asks nothing of the network and lets no script run but ours.

    kind: `explorer` or `attention_view`, the function of `headprobe` that draws. shown, table: what it is given.
    """
    code, digest = script(scripts() + asset("widget.js"))
    policy = f"default-src 'none'; script-src {digest}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    return Template(asset("widget.html")).substitute(
        title=escape(title),
        summary=escape(summary),
        policy=policy + "form-action 'none'",
        style=asset("explorer.css"),
        data=json_script("widget-data", {"kind": kind, "shown": shown, "table": table}),
        script=code,
    )


def framed(page: str, title: str, height: int) -> Html:
    """The page in a frame of `height` pixels whose script reaches nothing outside: no origin, no parent, no network.

    The page travels inside the frame's own attribute, so that notebooks, their viewers and exports show it alike.
    """
    # What a notebook shows in place of a frame that it does not trust (another's notebook, opened and not yet run).
    instead = f"{title}: run this cell, or trust the notebook, to look around in it."
    return el(
        "iframe", instead, srcdoc=page, sandbox="allow-scripts", title=title, width="100%", height=height,
        loading="lazy", style="box-sizing: border-box; border: 1px solid #d9dee4; border-radius: 6px; background: #fff",
    )  # fmt: skip
