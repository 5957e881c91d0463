"""Pages from results folders alone, without a model: one folder's page again, or one page of several folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from probe.errors import ResultsError
from probe.exports.card import CARD_FILE, card_text
from probe.loading.cache import SMOLLM2
from probe.models import PLANTED
from probe.page.chapter import Chapter
from probe.page.findings_overlap import not_done_finding
from probe.page.report import PAGE, write_report
from probe.page.report_circuit import circuit_chapter, overlap_chapter, write_circuit_report, write_matrix_report
from probe.page.sections_circuit_tests import completeness_chapter
from probe.results import HOLDING, Results, read_results, together
from probe.store import RUN_FILE, write_file

MODEL_FILE = "config.json"


def holds_results(name: str) -> bool:
    """Whether `name` is a folder of ours: it has a results file, no model's config.json, and is no built-in model."""
    place = Path(name)
    if not place.is_dir() or (place / MODEL_FILE).exists() or name in (*PLANTED, SMOLLM2):
        return False
    return any((place / file).exists() for file in (*HOLDING, RUN_FILE))


def report_again(folders: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Write the page of results folders again, and return what was written.

    folders: one, whose page goes into it, or into `out`; of a study of several models and of a matrix, every
    sub-folder's too. Several folders of one model become one page in `out`. A folder without a dataset card gets one
    beside its page. Raises ResultsError as `read_results` and `together` do, and for an `out` that holds something
    else.
    """
    found = [read_results(folder) for folder in folders]
    if len(found) > 1:
        if out is None:
            raise ResultsError(f"{len(found)} folders and no place for their page; name a folder with --out")
        _check_place(out, folders)
        return [write_page(together(found), out)]
    place = found[0].folder if out is None else out
    if out is not None:
        _check_place(out, folders)
    return _pages(found[0], place)


def _check_place(out: Path, folders: Sequence[Path]) -> None:
    """A page must not stand among files that it is not about."""
    if out.resolve() in [folder.resolve() for folder in folders] or not out.exists():
        return
    others = sorted(path.name for path in out.iterdir() if path.name != PAGE) if out.is_dir() else [out.name]
    if others:
        raise ResultsError(f"{out}: holds {others[0]}, which the page is not about; name an absent or empty folder")


def _pages(found: Results, place: Path) -> list[Path]:
    """A folder's own page, and those of its sub-folders where it has some."""
    own = [] if found.kind == "studies" else [write_page(found, place)]
    parts = [page for part in found.parts for page in _pages(part, place / part.folder.name)]
    card = place / CARD_FILE
    if place.resolve() == found.folder.resolve() and not card.exists():
        own.append(write_card(found))
    return own + parts


def write_page(found: Results, folder: Path) -> Path:
    """The page of what a folder holds: the same as the run wrote, byte for byte."""
    if found.kind == "circuit":
        complete, minimal = found.tests
        return write_circuit_report(
            found.circuits[0], folder, completeness=complete, minimality=minimal, command=found.command
        )
    if found.kind in ("matrix", "overlap"):
        return write_matrix_report(
            found.circuits, found.overlaps, folder, transfer=found.transfer, removed=found.removed,
            not_done=found.not_done, command=found.command,
        )  # fmt: skip
    if found.table is None:
        raise ResultsError(f"{found.folder}: holds no head table to make a page of")
    return write_report(
        found.table, folder, retrieval=found.retrieval, tokens_text=found.tokens, studies=found.studies,
        circuits=found.circuits, chapters=_chapters(found), command=_command(found),
    )  # fmt: skip


def write_card(found: Results, folder: Path | None = None) -> Path:
    """The dataset card of a folder, or of one in the making at `folder` (its run.json comes last)."""
    place = folder or found.folder
    names = {path.name + "/" * path.is_dir() for path in place.iterdir()}
    write_file(place / CARD_FILE, card_text(found, sorted(names | {RUN_FILE} if found.run else names)).encode())
    return place / CARD_FILE


def _command(found: Results) -> str | None:
    """What makes the page again; of several folders, the runs and then the page."""
    if found.kind != "together" or found.command is None:
        return found.command
    return f"{found.command}\nprobe report {' '.join(['FOLDER'] * len(found.parts))} --out DIR"


def _chapters(found: Results) -> list[Chapter]:
    """What the circuits of several folders add to their page. Raises ResultsError where two would add the same."""
    shared, tested = ([part for part in found.parts if there(part)] for there in (_has_overlaps, _has_tests))
    for what, parts in (("overlaps", shared), ("tests of a circuit", tested)):
        if len(parts) > 1:
            raise ResultsError(f"{parts[0].folder} and {parts[1].folder} both hold {what}; give one its own page")
    chapters = [overlap_chapter(part.circuits, part.overlaps, part.transfer, part.removed) for part in shared]
    if found.circuits:
        chapters.append(circuit_chapter(found.circuits))
    chapters += [completeness_chapter(part.circuits[0], *part.tests) for part in tested]
    chapters += [Chapter(findings=[not_done_finding(part.not_done)]) for part in found.parts if part.not_done]
    return chapters


def _has_overlaps(part: Results) -> bool:
    return bool(part.overlaps)


def _has_tests(part: Results) -> bool:
    return any(part.tests)
