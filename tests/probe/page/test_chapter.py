from __future__ import annotations

import re

import plotly.graph_objects as go

from probe.page.chapter import Chapter
from probe.page.findings import Finding
from probe.page.report import page
from probe.page.sections import figure, section
from probe.table import HeadTable


def test_all_of_a_chapter_stands_on_the_page(head_table: HeadTable) -> None:
    bare = HeadTable.of_heads(range(2), 2, {"model": "m"}, kv_heads=1)
    bare = bare.with_columns(bare.frame[["layer", "head"]].assign(circuit_ioi=[0.5, 0.1, 0.0, -0.2]))
    own = Chapter(
        "Read twice.", [Finding("A finding", "7", "Seven.")], ["Brackets are wide."],
        {"own": ("Own part", section("own", "Own part", figure("own_figure", "A line.")))},
        {"own_figure": go.Figure(go.Scatter(x=[1], y=[2]))}, ["Conclude nothing."],
    )  # fmt: skip
    text = page(bare, None, None, chapters=[own, Chapter()], title="A title <b>")
    body = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)))
    for sentence in (
        "A title &lt;b&gt;", "4 heads in 2 layers. Read twice.", "A finding", "Seven.", "Brackets are wide.",
        "Own part", "A line.", "Conclude nothing.", "Score of the head in the circuit of ioi",
    ):  # fmt: skip
        assert sentence in body
    assert '"own_figure":' in text
    assert "First-token sinks" not in body
