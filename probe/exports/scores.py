"""Head scores as retrieval-head code publishes them: `{"layer-head": [scores]}`, written and read; and head lists.

Form: github.com/nightdessert/Retrieval_Head (commit 3ac171a), head_score/<model>.json, one line; Wu et al. 2024, arXiv
2404.15574: one score a kept trial, whose mean ranks the heads. Deviation: a column that is no retrieval score has one
number a head, and a head without any has an empty list. QRHead (arXiv 2506.09944, github.com/princeton-pli/QRHead,
commit 7a668e7) names heads alike, best first: `attn_head_set: "13-18,13-21"`.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from probe.analyses.retrieval_result import FORMS, RetrievalResult
from probe.errors import ResultsError
from probe.exports.request import Asked, Made, one_column
from probe.table import HeadTable

Head = tuple[int, int]
_KEY = re.compile(r"(\d{1,9})-(\d{1,9})", re.ASCII)
_LIST = re.compile(r"""^attn_head_set:\s*(["'])([^"']*)\1""", re.MULTILINE)


def head_scores(table: HeadTable, retrieval: RetrievalResult | None, asked: Asked) -> Made:
    """`head_score.json`: of a retrieval score every trial that counts (the usable ones; of the forced and control forms
    all), of another column one number a head. Raises ResultsError for a table of more than a decoder's self-attention,
    which the form has no names for.
    """
    column = one_column(table, asked, "a list of head scores")
    frame = table.frame
    kinds = sorted({f"{stack} {kind}" for stack, kind in zip(frame["stack"], frame["kind"], strict=True)})
    if kinds != ["decoder self"]:
        raise ResultsError(f"`layer-head` names a decoder's self-attention; this table has {', '.join(kinds)}")
    form = next((form for form, name in FORMS.items() if name == column), None)
    if form is not None and retrieval is not None:
        scores, note = _trials(frame_keys(table), retrieval, form), "one score a trial that counts"
    else:
        values = [[float(value)] if math.isfinite(value) else [] for value in frame[column]]
        scores, note = dict(zip(frame_keys(table), values, strict=True)), "one score a head: its value in the table"
    document = {f"{layer}-{head}": values for (layer, head), values in scores.items()}
    return Made({"head_score.json": json.dumps(document, allow_nan=False).encode()}, (f"{column}: {note}",))


def frame_keys(table: HeadTable) -> list[Head]:
    """(layer, head) of every row, in order."""
    return [(int(layer), int(head)) for layer, head in zip(table.frame["layer"], table.frame["head"], strict=True)]


def read_scores(path: str | Path) -> dict[Head, list[float]]:
    """(layer, head) → scores, in the file's order. Raises ResultsError, naming file and head, for anything else."""
    place = Path(path)
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{place}: cannot be read ({str(error)[:120]}); wanted head scores as JSON") from error
    if not isinstance(found, dict) or not found:
        raise ResultsError(f'{place}: wanted one object {{"layer-head": [scores]}}')
    scores = {}
    for name, values in found.items():
        if not isinstance(values, list) or not all(_is_number(value) for value in values):
            raise ResultsError(f"{place}: {name!r} holds no list of finite numbers; wanted one score a trial")
        scores[_head(name, place)] = [float(value) for value in values]
    return scores


def read_head_list(path: str | Path) -> tuple[Head, ...]:
    """The heads of a QRHead configuration (YAML), best first. Raises ResultsError for a file without such a list."""
    place = Path(path)
    try:
        found = _LIST.search(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise ResultsError(f"{place}: cannot be read ({error}); wanted a QRHead configuration") from error
    if found is None:
        raise ResultsError(f'{place}: no line `attn_head_set: "layer-head,…"`; wanted a QRHead configuration')
    heads = tuple(_head(name.strip(), place) for name in found[2].split(","))
    if len(set(heads)) < len(heads):
        raise ResultsError(f"{place}: a head is named twice in attn_head_set; wanted each once")
    return heads


def _trials(keys: list[Head], retrieval: RetrievalResult, form: str) -> dict[Head, list[float]]:
    frame = retrieval.per_trial.dropna(subset=[form]).sort_values("trial", kind="stable")
    groups = {key: part[form].tolist() for key, part in frame.groupby(["layer", "head"])}
    return {key: groups.get(key, []) for key in keys}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _head(name: str, place: Path) -> Head:
    found = _KEY.fullmatch(name)
    if found is None:
        raise ResultsError(f"{place}: {name[:40]!r} names no head; wanted `layer-head`, as 13-18")
    return int(found[1]), int(found[2])
