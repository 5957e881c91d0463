"""Any results folder as one object: what it holds is found out from its files, and all of it is read strictly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from probe.analyses.overlap import Overlap
from probe.analyses.retrieval_result import SCORES_FILE, TRIALS_FILE, RetrievalResult
from probe.circuits.circuit import Circuit
from probe.circuits.files import load, parsed
from probe.circuits.overlap_file import overlap_of
from probe.circuits.tests_file import Tests, read_tests
from probe.columns import KEYS
from probe.errors import ResultsError
from probe.formats import read_parquet, records
from probe.page.report_circuit import circuit_table
from probe.store import RUN_FILE
from probe.strict import read_json, shown
from probe.studies.file import read_study
from probe.studies.record import EFFECTS_FILE, read_studies
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.token_file import TOKENS_FILE, TokenTexts, load_tokens
from probe.tokens import tokens_hash

HEADS_FILE, STUDY_FILE = "heads.parquet", "study.toml"
CIRCUIT_FILE, MATRIX_FILE, OVERLAP_FILE = "circuit.json", "matrix.json", "overlap.json"
COMPARE_FILE = "compare.json"
TRANSFER_FILE, REMOVED_FILE = "transfer.parquet", "removed.parquet"
_BEGUN = "begun"
"""What run.json says of a run that has not finished."""
SHOWN = 3
"""Files that a refusal names."""


@dataclass(frozen=True, eq=False)
class Results:
    """What a folder holds; what it does not hold is None or empty.

    kind: `scan`, `retrieval`, `report` (a scan and a retrieval run), `table` (a head table of neither), `study`
    (ablations of one model and seed), `studies` (of several, each in `parts`), `circuit`, `matrix` (its circuits'
    folders in `parts`), `overlap`, or `together` (several folders joined). table: every head's numbers; of circuits
    their scores. tests: completeness and minimality of the one circuit. transfer, removed, not_done: a matrix's own.
    tokens: what was scanned, as text. run: run.json, or {} where there is none.
    """

    folder: Path
    kind: str
    table: HeadTable | None = None
    retrieval: RetrievalResult | None = None
    studies: tuple[TaskStudy, ...] = ()
    circuits: tuple[Circuit, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    tokens: TokenTexts | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    tests: Tests = ((), ())
    transfer: pd.DataFrame | None = None
    removed: pd.DataFrame | None = None
    not_done: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Results, ...] = ()

    @property
    def command(self) -> str | None:
        """The command that made it, where it was recorded; of several folders one a line."""
        own = self.run.get("command")
        return own if isinstance(own, str) else None

    @property
    def model(self) -> str | None:
        """The model's name, where the files tell it and it is one."""
        names = set(_told(self, "model"))
        return names.pop() if len(names) == 1 else None

    @property
    def weight_hash(self) -> str | None:
        """SHA-256 of the model's weights, where the files tell it and it is one."""
        hashes = set(_told(self, "weight_hash"))
        return hashes.pop() if len(hashes) == 1 else None


def read_results(folder: str | Path) -> Results:
    """Whatever a command wrote into `folder`, every file checked.

    Raises ResultsError, one line that names the folder or file, for a folder that is absent, empty, of something else,
    not finished, damaged, or put together from different runs.
    """
    place = Path(folder)
    if not place.is_dir():
        what = "is a file" if place.exists() else "is not there"
        raise ResultsError(f"{place}: {what}; wanted a folder that a probe command has written")
    for file, read in _READERS.items():
        if (place / file).exists():
            run = _run(place)
            if run.get("state") == _BEGUN:
                break
            found = read(place, run)
            _check_run(found)
            return found
    raise ResultsError(f"{place}: {_nothing(place)}")


def _nothing(place: Path) -> str:
    """Why a folder is none of ours."""
    names = sorted(path.name for path in place.iterdir())
    if COMPARE_FILE in names:
        return "a comparison; give the two folders it was made of to `probe compare` again"
    if _run(place).get("state") == _BEGUN:
        return "its run has not finished; give the same command again, and it goes on"
    if not names:
        return "empty; wanted a folder that a probe command has written"
    more = ", …" if len(names) > SHOWN else ""
    return f"holds no results ({', '.join(names[:SHOWN])}{more}); wanted a folder that a probe command has written"


def _run(place: Path) -> dict[str, Any]:
    return read_json(place / RUN_FILE) if (place / RUN_FILE).exists() else {}


def _told(results: Results, name: str) -> Iterator[str]:
    """The values of a field in everything that tells it: table, run, circuits, parts."""
    asked = results.run.get("asked")
    documents = [results.table.metadata if results.table is not None else {}, asked if isinstance(asked, dict) else {}]
    for document in documents:
        if isinstance(document.get(name), str) and (name != "model" or document is documents[0]):
            yield document[name]
    if name == "model":
        yield from (circuit.model for circuit in results.circuits)
    for part in results.parts:
        yield from _told(part, name)


def _check_run(found: Results) -> None:
    """Raises ResultsError where the files of a folder are of different weights."""
    hashes = sorted(set(_told(found, "weight_hash")))
    if len(hashes) > 1 and found.kind != "studies":
        raise ResultsError(f"{found.folder}: files of different weights ({hashes[0][:12]}… and {hashes[1][:12]}…); "
                           "run again to replace them")  # fmt: skip


def _head_table(place: Path, run: Mapping[str, Any]) -> Results:
    """heads.parquet: a scan, a retrieval run, both, or another table."""
    if (place / TRIALS_FILE).exists() and "probe_checksums" not in read_parquet(place / HEADS_FILE)[1]:
        found = RetrievalResult.load(place)
        return Results(place, "retrieval", _table_of(found), found, run=run)
    table = HeadTable.load(place)
    retrieval = None
    if (place / TRIALS_FILE).exists() or (place / SCORES_FILE).exists():
        retrieval = RetrievalResult.load(place, table.frame)
        if table.metadata.get("retrieval") != retrieval.metadata:
            raise ResultsError(f"{place}: {HEADS_FILE} and {SCORES_FILE} are of two runs; run again to replace them")
    kind = ("report" if retrieval is not None else "scan") if table.scanned else "table"
    return Results(place, kind, table, retrieval, tokens=_tokens(place, table), run=run)


def _table_of(found: RetrievalResult) -> HeadTable:
    """A head table of a retrieval run's scores alone."""
    heads, layers = found.heads, list(found.heads["layer"].drop_duplicates())
    first = heads[heads["layer"] == layers[0]]
    shared = first["kv_head"].nunique() if "kv_head" in heads else len(first)
    table = HeadTable.of_heads(layers, len(first), found.metadata, kv_heads=shared)
    columns = [name for name in heads if name not in KEYS or name in ("layer", "head")]
    return table.with_columns(heads[columns])


def _tokens(place: Path, table: HeadTable) -> TokenTexts | None:
    texts, wanted = load_tokens(place), table.metadata.get("tokens_hash")
    if texts is not None and wanted is not None and tokens_hash(texts.ids) != wanted:
        raise ResultsError(f"{place / TOKENS_FILE}: other tokens than {HEADS_FILE} was measured on; scan again")
    return texts


def _study(place: Path, run: Mapping[str, Any]) -> Results:
    table = HeadTable.load(place)
    return Results(place, "study", table, studies=read_studies(place, table), run=run)


def _studies(place: Path, run: Mapping[str, Any]) -> Results:
    """A study of several models or seeds: a folder each, in the order asked for."""
    from probe.studies.study import folder_name

    asked = read_study(place / STUDY_FILE)
    names = [folder_name(model, seed) for model in asked.models for seed in asked.seeds]
    for name in names:
        if not (place / name).is_dir():
            raise ResultsError(f"{place}: no folder {name} yet, which its {STUDY_FILE} asks for; run it to the end")
    return Results(place, "studies", parts=tuple(read_results(place / name) for name in names))


def _circuit(place: Path, run: Mapping[str, Any]) -> Results:
    circuit, table = load(place / CIRCUIT_FILE), HeadTable.load(place)
    made = circuit_table([circuit])
    if records(made.frame) != records(table.frame):
        raise ResultsError(f"{place}: {HEADS_FILE} has other scores than {CIRCUIT_FILE}; run again to replace both")
    return Results(place, "circuit", made, circuits=(circuit,), run=run, tests=read_tests(place))


def _matrix(place: Path, run: Mapping[str, Any]) -> Results:
    document = read_json(place / MATRIX_FILE)
    tasks, missing = document.get("tasks"), document.get("not_done")
    overlaps = document.get("overlaps")
    if tasks is None or not _texts(tasks) or not isinstance(missing, dict) or not isinstance(overlaps, list):
        raise ResultsError(f"{place / MATRIX_FILE}: not of `probe matrix` (no tasks, not_done or overlaps)")
    _check_folders(tasks, str(place / MATRIX_FILE))
    parts = tuple(read_results(place / task) for task in tasks)
    for task, part in zip(tasks, parts, strict=True):
        if part.kind != "circuit" or (part.circuits[0].task, part.circuits[0].model) != (task, document.get("model")):
            raise ResultsError(f"{part.folder}: not the circuit of {task} in {document.get('model')}; run again")
    circuits = tuple(part.circuits[0] for part in parts)
    pairs = list(combinations(circuits, 2))
    if len(overlaps) != len(pairs):
        raise ResultsError(f"{place / MATRIX_FILE}: {len(overlaps)} overlaps of {len(pairs)} pairs; run again")
    where = str(place / MATRIX_FILE)
    found = tuple(overlap_of(one, *pair, where) for one, pair in zip(overlaps, pairs, strict=True))
    return Results(
        place, "matrix", circuit_table(circuits), circuits=circuits, overlaps=found, run=run,
        transfer=read_parquet(place / TRANSFER_FILE)[0], removed=read_parquet(place / REMOVED_FILE)[0],
        not_done={str(task): str(why) for task, why in missing.items()}, parts=parts,
    )  # fmt: skip


def _check_folders(tasks: Sequence[str], where: str) -> None:
    """Raises ResultsError for a task that is no name of a folder beside the file, or that is named twice."""
    for at, task in enumerate(tasks):
        if task in ("", ".", "..") or any(sign in task for sign in "/\\\0"):
            raise ResultsError(f"{where}: task {shown(task)}; wanted the plain name of a folder beside the file")
        if task in tasks[:at]:
            raise ResultsError(f"{where}: task {shown(task)} is there twice; wanted each once")


def _overlap(place: Path, run: Mapping[str, Any]) -> Results:
    """The circuits are in run.json, where `probe overlap` writes what it was asked to compare."""
    asked = run.get("asked")
    pair = asked.get("overlap") if isinstance(asked, dict) else None
    if not isinstance(pair, list) or len(pair) != 2:
        raise ResultsError(f"{place / RUN_FILE}: not of `probe overlap`, which writes both circuits; run it again")
    a, b = (parsed(one, str(place / RUN_FILE)) for one in pair)
    found = overlap_of(read_json(place / OVERLAP_FILE), a, b, str(place / OVERLAP_FILE))
    table = circuit_table([a, b]) if a.task != b.task else circuit_table([a])
    return Results(place, "overlap", table, circuits=(a, b), overlaps=(found,), run=run)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


_READERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Results]] = {
    MATRIX_FILE: _matrix,
    CIRCUIT_FILE: _circuit,
    OVERLAP_FILE: _overlap,
    EFFECTS_FILE: _study,
    HEADS_FILE: _head_table,
    STUDY_FILE: _studies,
}
"""The file by which a folder is known, the most telling first, and what reads the folder."""
HOLDING = tuple(_READERS)
"""A folder of results has one of these files."""


def together(results: Sequence[Results]) -> Results:
    """Several folders of one model as one: at most one scan and one retrieval run, any studies and circuits.

    Raises ResultsError, naming the folders, where they are of different models or weights, or hold the same thing
    twice.
    """
    from probe.joining import joined

    return joined(results)
