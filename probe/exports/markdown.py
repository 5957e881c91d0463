"""A head table as a Markdown table (GitHub's), every sign that means something there escaped."""

from __future__ import annotations

import re

from probe.exports.printed import printed
from probe.exports.request import Asked, Made
from probe.table import HeadTable
from probe.text import show_token

_SIGNS = re.compile(r"[\\`*_{}\[\]<>#|~$&!]|(?<=:)/(?=/)|(?<=[wW]{3})\.")
_FIRST = re.compile(r"^([-+=](?=[-+=\s]|$)|\d{1,9}(?=[.)](?:\s|$)))", re.ASCII)
"""What makes a list, a rule or a heading of a line that begins with it."""
_PLAIN_NAME = re.compile(r"[\w.@+/-]+", re.ASCII)


def markdown_table(table: HeadTable, asked: Asked) -> Made:
    """`heads.md`: title, table, one line a note. Raises ResultsError as `printed` does."""
    page = printed(table, asked)
    rule = ["---" if words else "---:" for words in page.words]
    rows = [[escape_markdown(cell) for cell in row] for row in page.body]
    lines = [escape_markdown(page.title), "", *table_lines([code(name) for name in page.header], rows, rule), ""]
    lines += [line for note in page.notes for line in (escape_markdown(note), "")]
    return Made({"heads.md": "\n".join(lines).encode()})


def table_lines(header: list[str], rows: list[list[str]], rule: list[str] | None = None) -> list[str]:
    """The lines of a table whose cells are Markdown already."""
    return [f"| {' | '.join(line)} |" for line in (header, rule or ["---"] * len(header), *rows)]


def escape_markdown(text: str) -> str:
    """Any text as Markdown that shows it in one line, in a table too, as nothing but text: no markup, HTML or link.

    Line ends and control characters become signs. A code host may still link an e-mail address.
    """
    body = text.lstrip(" ")
    shown = "".join(character if character == " " else show_token(character) for character in body)
    return "␣" * (len(text) - len(body)) + _FIRST.sub(_first, _SIGNS.sub(r"\\\g<0>", shown))


def _first(found: re.Match[str]) -> str:
    sign = found[0]
    return f"{sign[:-1]}&#{ord(sign[-1])};" if sign[-1].isdigit() else f"\\{sign}"


def code(name: str) -> str:
    """A name as code where that needs no escape, else as escaped text."""
    return f"`{name}`" if _PLAIN_NAME.fullmatch(name) else escape_markdown(name)
