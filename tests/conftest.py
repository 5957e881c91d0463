"""Fixtures for tables and pages: an invented model's numbers, shaped like a real scan's, none measured."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe.table import HeadTable

LAYERS, HEADS, SEQUENCES, LENGTH = 30, 9, 8, 4096
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"
WORDS = (
    "The",
    " quick",
    ",",
    ".",
    "\n",
    " of",
    " and",
    "é",
    "\t",
    " def",
    '"',
    "\u2028",
    "\x1b[31m",
    "&amp;",
    "<!--",
)


def _thumbnails(kinds: np.ndarray) -> np.ndarray:
    """[L, H, 64, 64] causal maps, rows summing to 1: a sink, a diagonal, a sub-diagonal, an even spread."""
    band = np.arange(64)
    maps = np.zeros((*kinds.shape, 64, 64), dtype=np.float32)
    distance = band[:, None] - band[None, :]
    shapes = {
        0: np.where(band[None, :] == 0, 40.0, 1.0) * (distance >= 0),
        1: np.exp(-2.0 * np.abs(distance)) * (distance >= 0),
        2: (np.abs(distance - 20) < 2) * 8.0 * (distance >= 0) + 0.2 * (distance >= 0),
        3: 1.0 * (distance >= 0),
    }
    for kind, shape in shapes.items():
        maps[kinds == kind] = shape / shape.sum(-1, keepdims=True)
    return maps


def _per_sequence(kinds: np.ndarray, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    def around(level: np.ndarray) -> np.ndarray:
        return np.clip(level + rng.normal(0, 0.02, (n, *level.shape)), 1e-3, 0.999)

    base = rng.beta(1, 12, kinds.shape)
    sink = np.where(kinds == 0, rng.uniform(0.4, 0.95, kinds.shape), base)
    previous = np.where(kinds == 1, rng.uniform(0.2, 0.9, kinds.shape), base)
    copying = np.where(kinds == 2, rng.uniform(0.3, 0.92, kinds.shape), base / 2)
    twin = copying[::-1, ::-1]
    values = {
        "sink_first": around(sink),
        "sink_rate": (around(sink) > 0.3).astype(float),
        "sink_other": around(base[::-1]),
        "sink_learned": np.full((n, *kinds.shape), np.nan),
        "previous_token": around(previous),
        "current_token": around(base / 2),
        "duplicate_token": around(twin * 0.8),
        "induction": around(copying * 0.8),
        "previous_token_random": around(previous),
        "duplicate_token_random": around(twin),
        "induction_random": around(copying),
        "induction_chance": np.full((n, 1, 1), 0.0123),
        "duplicate_token_chance": np.full((n, 1, 1), 0.0151),
        "entropy": around(base) * 8,
        "entropy_normalised": around(1 - sink),
        "max_weight": around(np.maximum(sink, previous)),
        "distance": around(base) * 2000,
        "local_mass": around(np.maximum(previous, 0.2)),
        "streaming_error": around(np.where(kinds == 1, 0.01, 0.6)),
        "streaming_mass": around(np.maximum(sink, previous)),
        "output_norm": around(base) * 30,
        "output_share": around(np.where(kinds == 3, 0.006, 0.13)) * 0.9,
    }
    values["induction"][0, 0, 0] = np.nan
    return values


def invented_table(n: int = SEQUENCES, seed: int = 0) -> HeadTable:
    """30 × 9 heads over n sequences of 4,096 tokens, every profile present."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice([0, 0, 0, 0, 0, 1, 2, 3], size=(LAYERS, HEADS))
    received = rng.gamma(0.4, 4e-4, (LAYERS, HEADS, LENGTH)).astype(np.float32)
    received[..., 0] = np.where(kinds == 0, 0.7, 0.05)
    received[:, ::3, 57] = 0.2
    bins = 2 + int(np.log2(LENGTH - 1))
    offsets = rng.dirichlet(np.ones(bins) * 0.7, size=(LAYERS, HEADS)).astype(np.float32)
    at = np.full((n, LAYERS, HEADS), 57, dtype=np.float32)
    at[:, :, 1] = rng.integers(1, LENGTH - 40, (n, LAYERS))
    metadata = {
        "model": "invented-30x9 <b>not a model</b>",
        "weight_hash": "0" * 64,
        "tokens_hash": "1" * 64,
        "n_sequences": n,
        "length": LENGTH,
        "bos": "none added",
        "dtype": "float32",
        "device": "cpu",
        "backend": "blockwise",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "seed": 0,
        "parameters": {"sinks": 4, "window": 64, "epsilon": 0.3},
    }
    profiles = {
        "received": received,
        "sink_other_at": at,
        "offset_mass": offsets,
        "thumbnail": _thumbnails(kinds),
    }
    return HeadTable.build(_per_sequence(kinds, rng, n), profiles, metadata, kv_heads=3)


def invented_retrieval(trials: int = 40, seed: int = 0) -> SimpleNamespace:
    """A retrieval result with the contract's four tables."""
    rng = np.random.default_rng(seed)
    grid = [(length, depth) for length in (512, 1024, 2048, 4096) for depth in (0, 25, 50, 75, 100)]
    rows = [
        {"index": index, "length": grid[index % 20][0], "depth": grid[index % 20][1], "prompt_ids": [1, 2],
         "needle": [3, 9], "answer": [5, 9], "answer_ids": [4, 5 + index % 13], "generated_ids": [4, 5],
         "usable": index % 7 != 3, "seed": seed}
        for index in range(trials)
    ]  # fmt: skip
    keys = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    heads = pd.DataFrame(keys, columns=["layer", "head"])
    strong = rng.choice(len(keys), 12, replace=False)
    for name in ("retrieval", "retrieval_paper", "retrieval_forced", "retrieval_control"):
        level = rng.beta(1, 60, len(keys))
        if name != "retrieval_control":
            level[strong] = np.linspace(0.85, 0.2, 12)
        heads[name], heads[f"{name}_low"], heads[f"{name}_high"] = (
            level,
            level * 0.8,
            np.minimum(level * 1.15, 1),
        )
    chance = {"clean": 0.9, "top": 0.25, "random": 0.85}
    ablation = [
        {"k": k, "arm": arm, "draw": draw, "trial": trial,
         "recall": float(rng.random() < (chance[arm] if arm != "top" else 0.9 - 0.06 * k))}
        for arm, ks, draws in (("clean", (0,), 1), ("top", (1, 2, 5, 10), 1), ("random", (1, 2, 5, 10), 5))
        for k in ks for draw in range(draws) for trial in range(trials)
    ]  # fmt: skip
    return SimpleNamespace(
        trials=rows, heads=heads, per_trial=pd.DataFrame(), ablation=pd.DataFrame(ablation), metadata={}
    )


def invented_tokens(n: int = SEQUENCES, seed: int = 0) -> list[list[str]]:
    """Token strings of each sequence, hostile ones among them."""
    rng = np.random.default_rng(seed)
    text = [[WORDS[word] for word in rng.integers(0, len(WORDS), LENGTH)] for _ in range(n)]
    for tokens in text:
        tokens[0], tokens[57] = "The", HOSTILE
    return text


@pytest.fixture
def make_table() -> Callable[..., HeadTable]:
    return invented_table


@pytest.fixture(scope="session")
def head_table() -> HeadTable:
    return invented_table()


@pytest.fixture(scope="session")
def retrieval_result() -> Any:
    return invented_retrieval()


@pytest.fixture(scope="session")
def token_text() -> list[list[str]]:
    return invented_tokens()
