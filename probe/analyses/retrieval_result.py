"""What a retrieval run found, with its evidence, and its files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.analyses.retrieval_ablation import Head
from probe.columns import KEYS
from probe.errors import ResultsError
from probe.formats import parquet, plain, read_parquet
from probe.store import write_file
from probe.strict import parsed_json, read_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMS = {
    "set": "retrieval",
    "paper": "retrieval_paper",
    "forced": "retrieval_forced",
    "control": "retrieval_control",
}
"""A form's column in `per_trial`, and its metric in the head table."""
ENOUGH = 10
"""Usable trials below which there is no ranking."""
TRIALS_FILE, SCORES_FILE, ABLATION_FILE, HEADS_FILE = (
    "trials.jsonl", "retrieval.parquet", "ablation.parquet", "heads.parquet",
)  # fmt: skip
_TRIAL = ("index", "length", "depth", "answer_ids", "usable", "recall")
"""What every trial must tell for a page to be made of it."""


@dataclass(eq=False, repr=False)
class RetrievalResult:
    """Retrieval scores and their evidence.

    trials: one mapping a trial, as in `trials.jsonl`. heads: one row a head: the keys of METRICS, then
    `retrieval`, `retrieval_paper` (mean over usable trials), `retrieval_forced`, `retrieval_control` (over
    all), each with `_low`, `_high` and the number of trials `n_…`. per_trial: `trial, layer, head, set,
    paper, forced, control`; set and paper are NaN where the trial is not usable. ablation: `k, arm, draw,
    trial, recall`; empty where there was no ranking to test, and `metadata["ablation"]` says why.
    """

    trials: list[dict[str, Any]]
    heads: pd.DataFrame
    per_trial: pd.DataFrame
    ablation: pd.DataFrame
    metadata: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        best = ", ".join(f"L{layer}H{head}" for layer, head in self.ranked()[:3]) or "no head ranked"
        return f"RetrievalResult({self.n_usable} of {len(self.trials)} trials usable; {best})"

    @property
    def n_usable(self) -> int:
        """Trials in which the model's own answer held at least half of the needle's."""
        return sum(bool(trial["usable"]) for trial in self.trials)

    def ranked(self) -> list[Head]:
        """Heads that copied anything, best `retrieval` first, ties in the order of layer and head.

        Empty with fewer than 10 usable trials: that is not enough for a ranking.
        """
        return rank(self.heads) if self.n_usable >= ENOUGH else []

    def recall(self) -> pd.DataFrame:
        """Share of trials recalled (answer fed in), and usable, by length and depth."""
        frame = pd.DataFrame(self.trials)[["length", "depth", "recall", "usable"]]
        return frame.groupby(["length", "depth"], as_index=False).mean()

    def plot(self) -> go.Figure:
        """Recall without the retrieval heads, beside random ones; without a removal test, recall by context length."""
        from probe.plots.retrieval import recall_by_length, recall_without

        return recall_without(self) if len(self.ablation) else recall_by_length(self)

    def save(self, folder: str | Path) -> None:
        """Write `trials.jsonl`, `retrieval.parquet`, `heads.parquet` and `ablation.parquet` into a folder.

        Each file is written whole or not at all. Raises ResultsError when the disk refuses.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        self.save_evidence(place)
        write_file(place / HEADS_FILE, parquet(self.heads, {"probe": self.metadata}))

    def save_evidence(self, folder: Path) -> None:
        """As `save`, without the head table, for a folder whose table these scores have joined."""
        lines = (json.dumps(plain(trial), allow_nan=False) for trial in self.trials)
        write_file(folder / TRIALS_FILE, "".join(f"{line}\n" for line in lines).encode())
        write_file(folder / SCORES_FILE, parquet(self.per_trial, {"probe": self.metadata}))
        write_file(folder / ABLATION_FILE, parquet(self.ablation, {"probe": self.metadata}))

    @classmethod
    def load(cls, folder: str | Path, heads: pd.DataFrame | None = None) -> RetrievalResult:
        """What `save` wrote; heads: the head table that the scores have joined (`save_evidence`), else heads.parquet.

        Raises ResultsError, naming the file, for what is missing, damaged, or of two different runs.
        """
        place = Path(folder)
        per_trial, documents = _evidence(place / SCORES_FILE, ("trial", "layer", "head", *FORMS))
        ablation, other = _evidence(place / ABLATION_FILE, tuple(map(str, no_ablation())))
        if heads is None:
            heads, own = _evidence(place / HEADS_FILE, ("layer", "head", *FORMS.values()))
            if own != documents:
                raise ResultsError(f"{place}: {HEADS_FILE} and {SCORES_FILE} are of two runs; run again")
        scores = [name + end for name in FORMS.values() for end in ("", "_low", "_high")]
        counts = [f"n_{name}" for name in FORMS.values()]
        missing = [name for name in scores if name not in heads]
        if missing or other != documents:
            found = f"no {missing[0]} in the head table" if missing else f"{ABLATION_FILE} is of another run"
            raise ResultsError(f"{place}: {found}, beside {SCORES_FILE}; run again to replace them")
        kept = [name for name in heads if name in (*KEYS, *scores, *counts)]
        trials = _trials(place / TRIALS_FILE)
        if sorted(per_trial["trial"].unique()) != [trial["index"] for trial in trials]:
            raise ResultsError(f"{place}: {TRIALS_FILE} and {SCORES_FILE} hold other trials; run again")
        return cls(trials, heads[kept].reset_index(drop=True), per_trial, ablation, documents)


def rank(heads: pd.DataFrame) -> list[Head]:
    """Heads with a score above 0, best first, ties in the order of layer and head."""
    scored = heads[heads["retrieval"] > 0].sort_values(
        ["retrieval", "layer", "head"], ascending=[False, True, True], kind="stable"
    )
    return [(int(layer), int(head)) for layer, head in zip(scored["layer"], scored["head"], strict=True)]


def no_ablation() -> pd.DataFrame:
    """An ablation table without rows."""
    kinds = {"k": "int64", "arm": "str", "draw": "int64", "trial": "int64", "recall": "int64"}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})


def _evidence(path: Path, columns: tuple[str, ...]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table of a retrieval run and the run's record."""
    frame, documents = read_parquet(path)
    missing = [name for name in columns if name not in frame]
    if missing or not isinstance(documents.get("probe"), dict):
        what = f"no column {missing[0]}" if missing else "no `probe` metadata"
        raise ResultsError(f"{path}: not of a retrieval run ({what})")
    return frame, documents["probe"]


def _trials(path: Path) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        trial = parsed_json(line, f"{path}, line {number}")
        missing = _TRIAL if not isinstance(trial, dict) else [name for name in _TRIAL if name not in trial]
        if missing:
            raise ResultsError(f"{path}, line {number}: no {missing[0]!r}; not a trial of a retrieval run")
        found.append(trial)
    return found
