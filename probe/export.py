"""Results in the forms that others read: which forms there are, and writing one without losing what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.errors import ResultsError
from probe.exports.card import CARD_FILE, dataset_card
from probe.exports.duo import duo_list
from probe.exports.latex import latex_table
from probe.exports.markdown import markdown_table
from probe.exports.pictures import png_pictures, svg_pictures
from probe.exports.request import REDUCTIONS, Asked, Made
from probe.exports.scores import head_scores
from probe.exports.table_files import csv_table, json_table, parquet_table
from probe.results import Results, read_results
from probe.store import aside, write_file
from probe.table import HeadTable

EXPORT_FOLDER = "export"
"""Where exports go in a results folder, a dataset card apart; a run given again replaces the folder and all in it."""


@dataclass(frozen=True)
class Form:
    """what: for the list of forms. make: from results to files. takes: the options that mean something for it. place:
    default below the results folder; a file, or a folder where `many`.
    """

    what: str
    make: Callable[[Results, Asked], Made]
    takes: frozenset[str]
    place: str
    many: bool = False


@dataclass(frozen=True)
class Exported:
    """paths: every file, those that were there already with the same bytes too. notes: one line each."""

    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def _of_table(make: Callable[[HeadTable, Asked], Made]) -> Callable[[Results, Asked], Made]:
    return lambda results, asked: make(_table(results), asked)


_ROWS = frozenset({"columns", "top"})
FORMS: Mapping[str, Form] = {
    "parquet": Form("the head table, lossless", _of_table(parquet_table), _ROWS, f"{EXPORT_FOLDER}/heads.parquet"),
    "csv": Form("the head table for spreadsheets", _of_table(csv_table), _ROWS, f"{EXPORT_FOLDER}/heads.csv"),
    "json": Form("the head table with a JSON Schema", _of_table(json_table), _ROWS, f"{EXPORT_FOLDER}/heads.json"),
    "latex": Form("a table of chosen columns (booktabs)", _of_table(latex_table), _ROWS, f"{EXPORT_FOLDER}/heads.tex"),
    "markdown": Form("a table of chosen columns", _of_table(markdown_table), _ROWS, f"{EXPORT_FOLDER}/heads.md"),
    "duo": Form("DuoAttention's list of gates, from one column", _of_table(duo_list), frozenset({"columns", "reduce"}),
                f"{EXPORT_FOLDER}/duo", many=True),
    "scores": Form("head scores as retrieval-head code reads them, of one column",
                   lambda results, asked: head_scores(_table(results), results.retrieval, asked),
                   frozenset({"columns"}), f"{EXPORT_FOLDER}/head_score.json"),
    "png": Form("every figure, or those of chosen columns", png_pictures, frozenset({"columns"}),
                f"{EXPORT_FOLDER}/png", many=True),
    "svg": Form("every figure, or those of chosen columns", svg_pictures, frozenset({"columns"}),
                f"{EXPORT_FOLDER}/svg", many=True),
    "card": Form("a dataset card for the folder", dataset_card, frozenset({"licence"}), CARD_FILE),
}  # fmt: skip


def export(
    folder: str | Path,
    to: str,
    *,
    columns: Sequence[str] = (),
    top: int | None = None,
    reduce: str = "max",
    licence: str = "unknown",
    out: str | Path | None = None,
    fresh: bool = False,
) -> Exported:
    """Write what a results folder holds in another form.

    to: a name of `FORMS`. columns, top, reduce, licence: see `exports.request.Asked`; those that the form has no use
    for are refused. out: the file (of `duo`, `png` and `svg` the folder) to write; default: the form's place below
    `folder`. fresh: move aside a file that holds something else; without it nothing is overwritten but by equal bytes.
    Nothing is written before everything has been made. Raises ProbeError: an unknown form, folder, column or option,
    and what the form cannot hold.
    """
    if to not in FORMS:
        raise ResultsError(f"unknown form {to!r}; known are {', '.join(FORMS)}")
    form, asked = FORMS[to], Asked(tuple(columns), top, reduce, licence)
    _check_options(to, form, asked)
    results = read_results(folder)
    place = Path(folder) / form.place if out is None else Path(out)
    if place.exists() and place.is_dir() != form.many:
        found, wanted = ("folder", "file") if place.is_dir() else ("file", "folder")
        raise ResultsError(f"{place} is a {found}; {to} writes a {wanted}, name one with --out")
    made = form.make(results, asked)
    files = {place / name: data for name, data in made.files.items()} if form.many else dict.fromkeys((place,), b"")
    if not form.many:
        (files[place],) = made.files.values()
    _write(files, fresh)
    return Exported(tuple(files), made.notes)


def _check_options(to: str, form: Form, asked: Asked) -> None:
    given = {name for name in ("columns", "top", "reduce", "licence") if getattr(asked, name) != getattr(Asked(), name)}
    options = {"columns": "--column", "top": "--top", "reduce": "--reduce", "licence": "--licence"}
    for name in sorted(given - form.takes):
        raise ResultsError(f"{to} has no use for {options[name]}; leave it out")
    if asked.reduce not in REDUCTIONS:
        raise ResultsError(f"unknown reduction {asked.reduce!r}; known are {', '.join(REDUCTIONS)}")


def _table(results: Results) -> HeadTable:
    if results.table is None:
        parts = ", ".join(str(part.folder) for part in results.parts)
        raise ResultsError(f"{results.folder}: no one head table" + (f"; name one of {parts}" if parts else ""))
    return results.table


def _write(files: Mapping[Path, bytes], fresh: bool) -> None:
    """All files, or a refusal before the first. A file with the same bytes is left as it is."""
    changed = {}
    for path, data in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            there = path.exists()
            if there and path.is_dir():
                raise ResultsError(f"{path} is a folder; name another place with --out")
            if there and path.read_bytes() == data:
                continue
        except OSError as error:
            raise ResultsError(f"{path}: cannot be written ({error.strerror}); name another place") from error
        if there and not fresh:
            raise ResultsError(
                f"{path} holds something else; `--fresh` moves it aside, or name another place with --out"
            )
        changed[path] = data
    for path, data in changed.items():
        if path.exists():
            path.rename(aside(path))
        write_file(path, data)
