"""All that one page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probe.circuits.circuit import Circuit
from probe.page.chapter import Chapter
from probe.plots.retrieval import Retrieval
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.token_file import TokenTexts

Tokens = TokenTexts | Sequence[Sequence[str]]
"""What was scanned, as text; token strings alone where nothing more is known of them."""


@dataclass(frozen=True, eq=False)
class Material:
    """table: every head. run: a retrieval run. texts: what was scanned. command: what makes it again.

    studies, circuits: what head cards tell of, beside the table. chapters: what each study adds to the page.
    """

    table: HeadTable
    run: Retrieval | None = None
    texts: TokenTexts | None = None
    command: str | None = None
    studies: Sequence[TaskStudy] = ()
    circuits: Sequence[Circuit] = ()
    chapters: Sequence[Chapter] = ()

    @property
    def tokens(self) -> Sequence[Sequence[str]] | None:
        """The token strings of every scanned sequence; None: positions stand for tokens."""
        return None if self.texts is None or not self.texts.tokens else self.texts.tokens


def as_texts(tokens: Tokens | None, strings: Mapping[int, str] | None = None) -> TokenTexts | None:
    """Token strings, and those of further ids, as texts; ids that were not given are not made up."""
    if isinstance(tokens, TokenTexts) or (tokens is None and strings is None):
        return tokens
    return TokenTexts((), tuple(map(tuple, tokens or ())), strings or {})
