"""Markdown of a head table, read back with a parser: a cell a column, text as it was, no markup of a table's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from probe.exports.markdown import code, escape_markdown, markdown_table, table_lines
from probe.exports.request import Asked
from probe.table import HeadTable
from probe.text import show_token

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def kinds(source: str) -> set[str]:
    return {part.type for token in PARSER.parse(source) for part in [token, *(token.children or [])]}


def texts(source: str) -> list[str]:
    """The text of every cell and paragraph as it is shown."""
    return ["".join(part.content for part in token.children or []) for token in PARSER.parse(source)
            if token.type == "inline"]  # fmt: skip


def made(table: HeadTable, *columns: str, top: int | None = None) -> str:
    return markdown_table(table, Asked(columns, top)).files["heads.md"].decode()


def test_a_table_is_read_as_one(small: HeadTable):
    source = made(small, "retrieval", "roles", top=2)
    shown = texts(source)
    assert shown[:4] == [
        "Attention heads of small: the 2 of 12 with the highest retrieval.",
        "head",
        "retrieval",
        "roles",
    ]
    assert shown[4:6] == ["L2H3", "0.55 [0.50, 0.61]"]
    assert "In brackets: 95 % interval." in shown
    assert kinds(source) >= {"table_open", "code_inline"}


def test_nothing_of_a_hostile_table_is_markup(nasty: HeadTable):
    column = nasty.metrics[-1]
    source = made(nasty, column, top=2)
    assert kinds(source) <= {
        "paragraph_open", "paragraph_close", "inline", "text", "text_special", "table_open", "table_close",
        "thead_open", "thead_close", "tbody_open", "tbody_close", "tr_open", "tr_close", "th_open", "th_close",
        "td_open", "td_close", "code_inline",
    }  # fmt: skip
    rows = [token for token in PARSER.parse(source) if token.type == "tr_open"]
    assert len(rows) == 3
    title = f"Attention heads of {nasty.metadata['model']}: the 2 of 12 with the highest {column}."
    assert texts(source)[0] == "".join(one if one == " " else show_token(one) for one in title)


MARKUP = (
    "# a", "- a", "+ a", "1. a", "12) a", "> a", "---", "===", "    a", "[x](http://y)", "![x](y)", "<b>", "&lt;",
    "`a`", "*a*", "_a_", "~~a~~", "a | b", "http://x", "\\",
)  # fmt: skip


@pytest.mark.parametrize("text", MARKUP)
def test_markup_becomes_text(text: str):
    shown = texts(escape_markdown(text))
    assert shown == [text.replace("    a", "␣␣␣␣a")]
    assert kinds(escape_markdown(text)) <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}


def test_the_check_can_fail():
    assert kinds("# a") & {"heading_open"}
    assert kinds("a <b>") & {"html_inline"}


def test_numbers_and_words_stay_readable():
    assert escape_markdown("0.89 of 1, (a) - b + c = 3.") == "0.89 of 1, (a) - b + c = 3."


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30))
def test_any_text_is_shown_as_it_is_in_a_cell(text: str):
    source = "\n".join(table_lines(["head", escape_markdown(text)], [["a", "b"]]))
    body = text.lstrip(" ")
    assert texts(source)[1] == ("␣" * (len(text) - len(body)) + body).rstrip(" ")
    assert len(texts(source)) == 4


def test_plain_names_are_code_and_others_text():
    assert code("ablation_ioi@mean.exact") == "`ablation_ioi@mean.exact`"
    assert code("a|b") == r"a\|b"
    assert code("a`b") == r"a\`b"
