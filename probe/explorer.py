"""`probe.explore`: pick a head on the map and see everything that was kept of it, in a notebook or a page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.analyses.effect_columns import column_names, with_effects
from probe.circuits.circuit import Circuit
from probe.errors import ResultsError
from probe.page.explore import explorer_data
from probe.page.table_data import table_data
from probe.page.widget import framed, widget_page
from probe.results import Results, read_results
from probe.store import write_file
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.text import tokens_in_words
from probe.token_file import TokenTexts

HEIGHT = 780
"""Pixels of the frame in a notebook; what does not fit scrolls inside it."""


@dataclass(frozen=True)
class Explorer:
    """An explorer, ready to be shown. `page` is the whole of it as HTML; `title` names the model."""

    page: str
    title: str

    def _repr_html_(self) -> str:
        """What a notebook shows: one frame that holds the page."""
        return framed(self.page, self.title, HEIGHT)

    def save(self, path: str | Path) -> Path:
        """Write the explorer as a page of its own that opens in any browser, and return its path.

        Raises ResultsError where the disk refuses.
        """
        write_file(Path(path), self.page.encode("utf-8"))
        return Path(path)

    def __repr__(self) -> str:
        return f"Explorer({self.title}, {len(self.page) / 1e6:.1f} MB; shown by notebooks, or `.save('page.html')`)"


def explore(
    what: HeadTable | Results | str | Path,
    tokens: TokenTexts | Sequence[Sequence[str]] | None = None,
    studies: Sequence[TaskStudy] = (),
    circuits: Sequence[Circuit] = (),
    *,
    heads: Collection[str] | None = None,
) -> Explorer:
    """Every head on a map, and of the chosen one its thumbnail, strongest pairs with their text, what positions receive
    from it, a window of its attention, what it writes, its roles, effects and circuits.

    what: a head table, results, or a results folder; results bring their own tokens, studies and circuits, to which
    those given here are added. Without close-ups (`probe.closeups`) there are no pairs and no window. tokens: texts of
    the scanned sequences, in order; None: positions stand for tokens. studies: ablation studies whose effects the table
    does not hold yet. circuits: of the same model. heads: names (`L18H6`) of the heads whose pictures and close-ups the
    page carries, to keep it small; None: all. Numbers are there for all.

    Raises ResultsError for results without a head table, and for tokens, studies, circuits or heads that do not fit.
    """
    if not isinstance(what, HeadTable):
        found = what if isinstance(what, Results) else read_results(what)
        what, tokens = _table(found), found.tokens if tokens is None else tokens
        studies, circuits = (*found.studies, *studies), (*found.circuits, *circuits)
    table = what
    for study in studies:
        if not set(column_names(study.effects)) <= set(table.frame):
            table = with_effects(table, study.effects, {study.task.name: study.task}, seed=study.seed)
    texts = tokens.tokens if isinstance(tokens, TokenTexts) else tokens
    strings = tokens.strings if isinstance(tokens, TokenTexts) else None
    shown = explorer_data(table, texts[0] if texts else None, strings, circuits, heads)
    title = f"Attention heads of {table.metadata.get('model', 'an unnamed model')}"
    return Explorer(widget_page("explorer", title, _summary(table), shown, table_data(table)), title)


def _table(results: Results) -> HeadTable:
    if results.table is None:
        raise ResultsError(f"{results.folder}: holds no head table to explore; give a folder of one model's results")
    run = results.retrieval
    if run is None or "retrieval" in results.table.frame or not len(run.heads):
        return results.table
    return results.table.with_columns(run.heads)


def _summary(table: HeadTable) -> str:
    frame, n, length = table.frame, table.metadata.get("n_sequences"), table.metadata.get("length")
    layers = len(frame[["stack", "kind", "layer"]].drop_duplicates())
    text = f"{len(frame):,} heads in {layers} layers"
    if n is not None and length is not None:
        text += f", read on {n} {'sequence' if n == 1 else 'sequences'} of {tokens_in_words(length)}"
    return text + "."
