"""What a retrieval run found, with its evidence, and its files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from probe.analyses.retrieval_ablation import Head
from probe.formats import parquet, plain
from probe.store import write_file

FORMS = {
    "set": "retrieval",
    "paper": "retrieval_paper",
    "forced": "retrieval_forced",
    "control": "retrieval_control",
}
"""A form's column in `per_trial`, and its metric in the head table."""
ENOUGH = 10
"""Usable trials below which there is no ranking."""


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

    def save(self, folder: str | Path) -> None:
        """Write `trials.jsonl`, `retrieval.parquet`, `heads.parquet` and `ablation.parquet` into a folder.

        Each file is written whole or not at all. Raises ResultsError when the disk refuses.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        self.save_evidence(place)
        write_file(place / "heads.parquet", parquet(self.heads, {"probe": self.metadata}))

    def save_evidence(self, folder: Path) -> None:
        """As `save`, without the head table, for a folder whose table these scores have joined."""
        lines = (json.dumps(plain(trial), allow_nan=False) for trial in self.trials)
        write_file(folder / "trials.jsonl", "".join(f"{line}\n" for line in lines).encode())
        write_file(folder / "retrieval.parquet", parquet(self.per_trial, {"probe": self.metadata}))
        write_file(folder / "ablation.parquet", parquet(self.ablation, {"probe": self.metadata}))


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
