"""Fixtures for tables and pages: an invented model's numbers, shaped like a real scan's, none measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe.analyses.effect_columns import with_effects
from probe.analyses.effects import Effects
from probe.analyses.overlap import Overlap, overlap
from probe.analyses.removal_curve import RemovalCurve
from probe.analyses.units import Unit
from probe.circuits.circuit import Circuit, CircuitEdge, CircuitNode, CurvePoint
from probe.circuits.graph import Graph
from probe.comparisons.compare import compare
from probe.comparisons.comparison import Comparison
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable, head_name
from probe.tasks.baseline import Baseline
from probe.tasks.task import Prompt, Task
from probe.token_file import TokenTexts

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


def invented_table(n: int = SEQUENCES, seed: int = 0, layers: int = LAYERS, heads: int = HEADS) -> HeadTable:
    """30 × 9 heads over n sequences of 4,096 tokens, every profile present."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice([0, 0, 0, 0, 0, 1, 2, 3], size=(layers, heads))
    received = rng.gamma(0.4, 4e-4, (layers, heads, LENGTH)).astype(np.float32)
    received[..., 0] = np.where(kinds == 0, 0.7, 0.05)
    received[:, ::3, 57] = 0.2
    bins = 2 + int(np.log2(LENGTH - 1))
    offsets = rng.dirichlet(np.ones(bins) * 0.7, size=(layers, heads)).astype(np.float32)
    at = np.full((n, layers, heads), 57, dtype=np.float32)
    at[:, :, 1] = rng.integers(1, LENGTH - 40, (n, layers))
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
    shared = heads // 3 if heads % 3 == 0 else heads
    return HeadTable.build(_per_sequence(kinds, rng, n), profiles, metadata, kv_heads=shared)


def invented_comparison() -> Comparison:
    """The invented table against itself on a longer text, with two heads that rest 0.7 less or more on the first."""
    a = invented_table()
    rows = a.frame["sink_first"]
    added = a.frame[["layer", "head", *(f"sink_first{end}" for end in ("", "_low", "_high"))]].copy()
    for row, shift in ((int(rows.to_numpy().argmax()), -0.7), (int(rows.to_numpy().argmin()), 0.7)):
        added.loc[row, added.columns[2:]] += shift
    b = a.with_columns(added)
    other = {"model": f"other {HOSTILE}", "tokens_hash": "2" * 64, "length": 2 * LENGTH, "weight_hash": "3" * 64}
    return compare(a, HeadTable(b.frame, {}, {**b.metadata, **other}))


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


NASTY = {57: HOSTILE, 60: "\u202egnp.exe", 61: "\ud800", 62: "`${alert(1)}`", 63: "␣", 64: "a b\nc"}
"""Positions of the first text where a page must be careful."""


def with_closeups(table: HeadTable, length: int = LENGTH, seed: int = 3) -> HeadTable:
    """The table with pairs, windows and promoted tokens as a scan keeps them; L0H0 looks at the hostile token."""
    rng = np.random.default_rng(seed)
    shape = table.frame["layer"].nunique(), table.frame["head"].nunique()
    query = rng.integers(8, length, (*shape, 12)).astype(np.int32)
    key = (4 + (query - 4) * rng.random(query.shape)).astype(np.int32)
    query[0, 0, :4], key[0, 0, :4] = (60, 62, 64, 4000), (57, 61, 63, 60)
    weight = -np.sort(-rng.beta(2, 2, query.shape), axis=-1).astype(np.float32)
    at = np.clip(np.stack([query[..., 0], key[..., 0]], axis=-1) - 19, 0, length - 24).astype(np.int32)
    window = rng.dirichlet(np.full(24, 0.2), (*shape, 24)).astype(np.float32)
    writes = rng.integers(0, 100, (*shape, 5)).astype(np.int32)
    for array in (query, key, at, writes):
        array[0, 1] = -1
    weight[0, 1], window[0, 1] = 0, np.nan
    closeups = {"pair_query": query, "pair_key": key, "pair_weight": weight, "window": window, "window_at": at,
                "writes": writes}  # fmt: skip
    about = {"length": length, "skipped_keys": 4, "pairs": 12, "span": 24}
    return table.with_profiles(closeups, {"closeups": about})


def invented_texts() -> TokenTexts:
    """Texts of the invented sequences, the first one nasty where `with_closeups` looks, and of the written tokens."""
    tokens = invented_tokens()
    for position, text in NASTY.items():
        tokens[0][position] = text
    strings = {number: f"␣word{number}" for number in range(100)} | {7: HOSTILE}
    return TokenTexts(tuple((0,) * LENGTH for _ in tokens), tuple(map(tuple, tokens)), strings)


HELPING, HURTING = {(18, 6): 1.9, (20, 3): 1.1, (17, 2): 0.6, (12, 8): 0.3}, {(25, 1): -0.8, (22, 7): -0.4}


def invented_effects(method: str = "exact", mode: str = "mean", prompts: int = 64, measured: int = 270) -> Effects:
    """Six heads that matter among 270; an estimate is off by a quarter and misses one of them."""
    rng = np.random.default_rng(1)
    units = tuple(
        Unit(head_name(layer, head), "head", ((layer, head),)) for layer in range(LAYERS) for head in range(HEADS)
    )
    clean = rng.normal(5, 1, prompts)
    effect = rng.normal(0, 0.05, (len(units), 1)) / 5 + rng.normal(0, 0.05, (len(units), prompts))
    for (layer, head), size in (HELPING | HURTING).items():
        effect[layer * HEADS + head] += size * rng.normal(1, 0.3, prompts)
    if method != "exact":
        effect = 0.75 * effect + rng.normal(0, 0.02, effect.shape)
        effect[20 * HEADS + 3] /= 50
    ablated = clean - effect
    ablated[np.argsort(-np.abs(effect.mean(axis=1)), kind="stable")[measured:]] = np.nan
    return Effects("ioi", mode, method, units, clean, ablated, {"exact": 4185.0}.get(method, 120.0))


def invented_curve(criteria: tuple[str, ...] = ("ablation_ioi",), prompts: int = 16, draws: int = 5) -> RemovalCurve:
    """Score against share: it falls early when the best go first, late when they go last."""
    rng = np.random.default_rng(2)
    base, rows = rng.normal(5, 1, prompts), []
    steps = {"ranked": 0.04, "random": 0.35, "reversed": 0.85}
    for place, criterion in enumerate(criteria):
        for order, middle in steps.items():
            for draw in range(draws if order == "random" else 1):
                for k in (0, 1, 2, 5, 10, 20, 40, 80, 135, 200, 270):
                    share = k / 270
                    kept = 1 / (1 + np.exp((share - middle - 0.02 * draw - 0.03 * place) / 0.05))
                    noise = rng.normal(0, 0.2, prompts) * (k > 0)
                    rows += [
                        (criterion, order, draw, k, share, prompt, value)
                        for prompt, value in enumerate((base + noise) * (kept if k else 1))
                    ]
    return RemovalCurve(pd.DataFrame(rows, columns=["criterion", "order", "draw", "k", "share", "prompt", "value"]))


def invented_study(
    effects: tuple[Effects, ...] | None = None, curve: RemovalCurve | None = None, prompts: int = 64, right: float = 0.9
) -> TaskStudy:
    """IOI on an invented model, its first prompt hostile; right: its accuracy, give or take 0.05."""
    text = "When Mary and John went to the store, John gave a drink to"
    asked = [
        Prompt((1, 2, 3), (4,), (5,), (2,), f"{HOSTILE} {text}" if not number else text, corrupted_ids=(1, 5, 3),
               corrupted=text.replace("Mary", "\u202eAnna"))
        for number in range(prompts)
    ]  # fmt: skip
    task = Task("ioi", "logit_diff", tuple(asked), chance=0.5, parameters={"corruption": "s2_io"})
    nothing = np.zeros(prompts)
    before = Baseline(
        "ioi", "logit_diff", nothing, 5.0, 4.8, 5.2, nothing, right, right - 0.05, right + 0.05, 0.5,
        right - 0.05 > 0.5, "as invented",
    )  # fmt: skip
    return TaskStudy(
        task, effects or (invented_effects(prompts=prompts), invented_effects("gradient", prompts=prompts)),
        question="which of two names came once", baseline=before, answers=(" Mary",), wrongs=(HOSTILE,), curve=curve,
    )  # fmt: skip


def invented_effect_table(study: TaskStudy) -> HeadTable:
    """The table that such a study alone leaves."""
    table = HeadTable.of_heads(range(LAYERS), HEADS, {"model": "invented-30x9", "seed": 0}, kv_heads=3)
    return with_effects(table, study.effects, {"ioi": study.task})


ROLE_HEADS = {
    "previous_token": ((2, 4), (4, 1)), "duplicate_token": ((0, 3), (3, 7)), "induction": ((6, 0), (7, 5), (8, 5)),
    "s_inhibition": ((12, 8), (14, 2), (17, 2)), "name_mover": ((18, 6), (20, 3), (22, 0), (24, 8)),
    "negative_mover": ((25, 1),), "": ((10, 3), (16, 6), (27, 4)),
}  # fmt: skip
"""The heads of an invented circuit, by role."""
_FLOW = (
    ("previous_token", "induction", "k"), ("duplicate_token", "s_inhibition", "v"), ("induction", "s_inhibition", "v"),
    ("s_inhibition", "name_mover", "q"), ("s_inhibition", "negative_mover", "q"), ("", "name_mover", "q"),
)  # fmt: skip


def invented_circuit(task: str = "ioi", heads: int = HEADS, layers: int = LAYERS, seed: int = 0) -> Circuit:
    """Eighteen heads with jobs, the edges of their story, strong MLP edges and many weak ones; none measured."""
    rng, graph = np.random.default_rng(seed), Graph(layers, heads)
    role_of = {f"a{layer}.h{head}": role for role, places in ROLE_HEADS.items() for layer, head in places
               if layer < layers and head < heads}  # fmt: skip
    nodes = []
    for name in graph.heads:
        role = role_of.get(name)
        score = rng.normal(0, 0.02) if role is None else rng.uniform(0.1, 1.5) * (-1 if "negative" in role else 1)
        evidence = {"attention END to IO": 0.71, "copy score": 0.9} if role == "name_mover" else {}
        nodes.append(CircuitNode(name, score, score - 0.05, score + 0.05, role is not None, role or "", evidence))
    edges = {("input", "m0"): 1.4, ("m0", "m1"): 0.5, ("m20", "m22"): -0.1, ("m27", "logits"): 0.3}
    for first, second, port in _FLOW:
        for source in ROLE_HEADS[first]:
            for target in ROLE_HEADS[second]:
                if source[0] < target[0] < layers and max(source[1], target[1]) < heads and rng.random() < 0.6:
                    pair = f"a{source[0]}.h{source[1]}", f"a{target[0]}.h{target[1]}<{port}>"
                    edges[pair] = rng.uniform(0.05, 0.7)
    for name, role in role_of.items():
        if role.endswith("mover"):
            edges[name, "logits"] = -0.6 if role == "negative_mover" else rng.uniform(0.3, 1.2)
        if role in ("previous_token", "duplicate_token") and not name.startswith("a0."):
            edges["m0", f"{name}<q>"] = edges["m0", f"{name}<k>"] = 0.15
    for source, target in rng.permutation(np.argwhere(graph.possible))[:400]:
        edges.setdefault((graph.sources[source], graph.targets[target]), rng.normal(0, 0.015))
    found = tuple(CircuitEdge(*pair, score, abs(score) > 0.01) for pair, score in edges.items()
                  if all(place in graph.sources or place in graph.targets for place in pair))  # fmt: skip
    return Circuit(
        "invented", layers, heads, heads // 3 if heads % 3 == 0 else heads, False, None, task, "logit_diff", "eap-ig",
        "resample", "s2_io", 64, "0" * 64, seed, "1", tuple(nodes), found, invented_faithfulness(graph),
        {"cpr": 0.97, "cmd": 0.06, "m_clean": 3.4, "m_corrupted": -2.9}, ("two prompts were dropped <b>",),
    )  # fmt: skip


def invented_faithfulness(graph: Graph) -> tuple[CurvePoint, ...]:
    """Curves that rise early for the circuit and late for random parts."""
    points = []
    total = {"heads": len(graph.heads), "edges": graph.n_edges}
    shares = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    rising = {"heads": 0.03, "random_heads": 0.6, "edges": 0.008, "edges_absolute": 0.004, "random_edges": 0.5}
    for arm, middle in rising.items():
        kind = "heads" if arm.endswith("heads") else "edges"
        sizes = [n for n in (1, 2, 5, 10, 20, 50, 100) if n < total["heads"]] + [total["heads"]]
        for size in sizes if kind == "heads" else shares:
            share = size / total[kind] if kind == "heads" else size
            value = 1.0 if share == 1 else 1.1 * share / (share + middle)
            spread = 0.0 if share == 1 else 0.08
            count = int(share * total[kind])
            points.append(CurvePoint(arm, float(size), count, value, value - spread, value + spread))
    return tuple(points)


def with_heads(circuit: Circuit, gone: Iterable[str], new: Iterable[str]) -> Circuit:
    """The same circuit with some heads out and others in."""
    left, added = set(gone), set(new)
    nodes = (replace(node, in_circuit=(node.in_circuit and node.name not in left) or node.name in added)
             for node in circuit.nodes)  # fmt: skip
    return replace(circuit, nodes=tuple(nodes))


def invented_circuits() -> tuple[Circuit, ...]:
    """Three tasks: the second shares most heads with the first, the third none."""
    first, second, third = (
        invented_circuit(task, seed=seed) for seed, task in enumerate(("ioi", "greater_than", "induction"))
    )
    others = (f"a{layer}.h{7 - layer % 2}" for layer in range(9, 16))
    return (
        first,
        with_heads(second, ("a6.h0", "a24.h8", "a14.h2", "a12.h8"), ("a5.h5", "a9.h1", "a13.h2")),
        with_heads(third, (node.name for node in third.nodes), others),
    )


@pytest.fixture(scope="session")
def make_circuit() -> Callable[..., Circuit]:
    return invented_circuit


@pytest.fixture(scope="session")
def several_circuits() -> tuple[Circuit, ...]:
    return invented_circuits()


@pytest.fixture(scope="session")
def several_overlaps(several_circuits: tuple[Circuit, ...]) -> tuple[Overlap, ...]:
    return tuple(overlap(a, b, draws=500) for a, b in combinations(several_circuits, 2))


@pytest.fixture(scope="session")
def transfer_table() -> pd.DataFrame:
    """Heads of two tasks on both: one case better than random, one that is not told from it, one worse."""
    own = [("ioi", "ioi", 0.9), ("induction", "induction", 0.95)]
    rows = [own[0], ("ioi", "induction", 0.2), ("induction", "ioi", -0.3), own[1]]
    return pd.DataFrame(
        [(*names, f, f - 0.12, f + 0.12, 0.05, -0.02, 0.1, 0.3) for *names, f in rows],
        columns=["circuit", "task", "faithfulness", "faithfulness_low", "faithfulness_high", "random", "random_low",
                 "random_high", "p"],
    )  # fmt: skip


@pytest.fixture(scope="session")
def removed() -> pd.DataFrame:
    """IOI without the heads that it shares with induction, and without those of either alone."""
    rows = [
        ("ioi", "induction", "ioi", part, heads, lost, lost - 0.05, lost + 0.05, 0.15, 0.1, 0.2, 0.3)
        for part, heads, lost in (("shared heads", 2, 0.5), ("heads of ioi alone", 1, 0.1),
                                  ("heads of induction alone", 1, 0.0125))
    ]
    spread = [f"{name}{end}" for name in ("lost", "random") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["a", "b", "task", "part", "heads", *spread, "p"])


@pytest.fixture(scope="session")
def make_study() -> Callable[..., TaskStudy]:
    return invented_study


@pytest.fixture(scope="session")
def make_effects() -> Callable[..., Effects]:
    return invented_effects


@pytest.fixture(scope="session")
def make_curve() -> Callable[..., RemovalCurve]:
    return invented_curve


@pytest.fixture(scope="session")
def ablation_study() -> TaskStudy:
    return invented_study(curve=invented_curve())


@pytest.fixture(scope="session")
def effect_table(ablation_study: TaskStudy) -> HeadTable:
    return invented_effect_table(ablation_study)


@pytest.fixture
def make_table() -> Callable[..., HeadTable]:
    return invented_table


@pytest.fixture(scope="session")
def head_table() -> HeadTable:
    return invented_table()


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    return invented_comparison()


@pytest.fixture(scope="session")
def retrieval_result() -> Any:
    return invented_retrieval()


@pytest.fixture(scope="session")
def token_text() -> list[list[str]]:
    return invented_tokens()


@pytest.fixture(scope="session")
def closeup_table() -> HeadTable:
    return with_closeups(invented_table())


@pytest.fixture(scope="session")
def texts() -> TokenTexts:
    return invented_texts()
