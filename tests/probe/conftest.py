"""Small random models in float64, a task and circuits for them, for tests that compare with brute force."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from probe import formats
from probe.analyses.circuit_tests import Completeness, Difference, Minimality
from probe.analyses.overlap import Overlap
from probe.analyses.retrieval_result import FORMS, RetrievalResult
from probe.circuits.circuit import Circuit, CircuitEdge, CircuitNode
from probe.circuits.files import document, save
from probe.circuits.graph import Graph, head_node
from probe.circuits.tests_file import circuit_tests_json
from probe.page.report_circuit import circuit_table
from probe.store import results_folder
from probe.studies.file import Study
from probe.studies.folder import write_run
from probe.studies.prompts import prompts_jsonl
from probe.studies.record import tasks_json
from probe.studies.tables import curves_frame, effects_frame
from probe.studies.task_study import TaskStudy
from probe.table import HeadTable
from probe.tasks.task import Prompt, Task
from probe.token_file import TokenTexts, save_tokens
from probe.tokens import tokens_hash

VOCABULARY, LENGTH = 31, 9


def small_llama(*, layers: int = 3, linear_end: bool = False, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """4 query heads on 2 key/value heads of 8 dims. linear_end: no final norm and no MLP in the last layer."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            # Weights of 0.02 would leave every map linear; these bend the softmax.
            parameter.data = torch.randn_like(parameter) * 0.25 + (1 if parameter.ndim == 1 else 0)
    _widen_norms(model)
    if linear_end:
        model.model.norm = nn.Identity()
        model.model.layers[-1].mlp.down_proj.weight.data.zero_()
    return model.to(dtype).eval().requires_grad_(False)


def _widen_norms(model: nn.Module) -> None:
    """torch's RMSNorm for transformers', which computes in float32 whatever it is given."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            wide = nn.RMSNorm(len(module.weight), eps=module.variance_epsilon)
            wide.weight.data = module.weight.data
            model.set_submodule(name, wide)


def small_gpt2(seed: int = 0) -> Any:
    """Biases everywhere, learned positions, 4 heads of 8 dims, 2 layers."""
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=4, n_inner=32,
                        bos_token_id=None, eos_token_id=None)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * 0.25 + (1 if parameter.ndim == 1 else 0)
    return model.double().eval().requires_grad_(False)


def small_task(prompts: int = 5, *, metric: str = "logit_diff", twins: bool = True, seed: int = 0) -> Task:
    """Random ids; a twin differs in a third of its tokens; judged at the last two positions."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(prompts):
        ids = rng.integers(0, VOCABULARY, LENGTH)
        other = np.where(np.arange(LENGTH) % 3 == 1, rng.integers(0, VOCABULARY, LENGTH), ids)
        right, wrong = rng.choice(VOCABULARY, 2, replace=False).tolist()
        made.append(
            Prompt(
                clean_ids=tuple(ids.tolist()),
                corrupted_ids=tuple(other.tolist()) if twins else None,
                answer_ids=(right,),
                wrong_ids=(wrong,),
                metric_positions=(LENGTH - 2, LENGTH - 1),
                target_ids=(wrong, right),
                clean="",
            )
        )
    return Task("small", metric, tuple(made))


def small_circuit(
    members: Collection[tuple[int, int]] = ((0, 1), (2, 3)),
    *,
    scores: Sequence[float] | None = None,
    roles: Mapping[tuple[int, int], str] | None = None,
    edges: Collection[tuple[str, str]] = (),
    n_layers: int = 3,
    n_heads: int = 4,
    **fields: Any,
) -> Circuit:
    """A circuit of 3 × 4 heads: members score 1 unless said otherwise, others 0, and every edge is in it."""
    graph = Graph(n_layers, n_heads)
    names = {head_node(*head) for head in members}
    told = {head_node(*head): role for head, role in (roles or {}).items()}
    values = [float(name in names) for name in graph.heads] if scores is None else list(scores)
    nodes = tuple(
        CircuitNode(name, value, value - 0.25, value + 0.25, name in names, told.get(name, ""))
        for name, value in zip(graph.heads, values, strict=True)
    )
    made = {
        "model": "small", "n_kv_heads": 2, "parallel": False, "layers": None, "task": "ioi", "metric": "logit_diff",
        "method": "eap", "ablation": "resample", "corruption": "s2_io", "prompts": 5, "prompts_sha256": "0" * 64,
        "seed": 0, "definitions": "1",
    }  # fmt: skip
    found = tuple(CircuitEdge(source, target, 0.5, True) for source, target in edges)
    return Circuit(n_layers=n_layers, n_heads=n_heads, nodes=nodes, edges=found, **{**made, **fields})


@pytest.fixture
def make_llama() -> Callable[..., Any]:
    return small_llama


@pytest.fixture
def make_gpt2() -> Callable[..., Any]:
    return small_gpt2


@pytest.fixture
def make_task() -> Callable[..., Task]:
    return small_task


@pytest.fixture
def make_small_circuit() -> Callable[..., Circuit]:
    return small_circuit


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published prompt sets and graphs."""
    folder = os.environ.get("HEADPROBE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("not checked: no data")
    return Path(folder)


WEIGHTS = "a" * 64
"""The weight hash of the invented model whose results lie in `results_home`."""


@pytest.fixture(scope="session")
def results_home(
    tmp_path_factory: pytest.TempPathFactory, closeup_table: HeadTable, texts: TokenTexts, retrieval_result: Any,
    ablation_study: TaskStudy, effect_table: HeadTable, several_circuits: tuple[Circuit, ...],
    several_overlaps: tuple[Overlap, ...], transfer_table: pd.DataFrame, removed: pd.DataFrame,
) -> Path:  # fmt: skip
    """Folders of one invented model, as commands write them: scan, report, retrieval, study, ioi, matrix, overlap.

    Read only: a test that damages one copies it first.
    """
    home = tmp_path_factory.mktemp("results")
    same = {"model": "invented", "weight_hash": WEIGHTS, "definitions": "1"}
    scan = HeadTable(closeup_table.frame, closeup_table.profiles, {
        **closeup_table.metadata, **same, "tokens_hash": tokens_hash(texts.ids), "n_sequences": len(texts.ids),
    })  # fmt: skip
    found = _retrieval(retrieval_result, scan, same)
    _folder(home / "scan", {"command": "probe scan invented --out DIR"}, scan)
    save_tokens(home / "scan", texts)
    found.save(home / "retrieval")
    joined = scan.with_columns(found.heads)
    _folder(home / "report", {"command": "probe report invented --out DIR"},
            HeadTable(joined.frame, joined.profiles, {**joined.metadata, "retrieval": found.metadata}))  # fmt: skip
    save_tokens(home / "report", texts)
    found.save_evidence(home / "report")
    _study(home / "study", ablation_study, HeadTable(effect_table.frame, {}, {**effect_table.metadata, **same}))
    for name, circuits in (("ioi", several_circuits[:1]), ("matrix", several_circuits)):
        folders = [home / name] if name == "ioi" else [home / name / one.task for one in circuits]
        for folder, circuit in zip(folders, circuits, strict=True):
            _circuit(folder, circuit)
    _matrix(home / "matrix", several_circuits, several_overlaps, transfer_table, removed)
    asked = {"overlap": [document(one) for one in several_circuits[:2]], "draws": 500, "seed": 0}
    with results_folder(home / "overlap", asked) as made:
        (made.path / "overlap.json").write_text(json.dumps(several_overlaps[0].json()))
    return home


def _folder(place: Path, run: Mapping[str, Any], table: HeadTable) -> None:
    table.save(place)
    write_run(place, {"weight_hash": WEIGHTS}, run)


def _retrieval(invented: Any, scan: HeadTable, same: Mapping[str, Any]) -> RetrievalResult:
    keys = scan.frame[["stack", "kind", "layer", "head", "kv_head"]]
    heads = keys.merge(invented.heads, on=["layer", "head"])
    rows = [(trial["index"], layer, head, 0.5, 0.5, 0.5, 0.0) for trial in invented.trials for layer, head in ((0, 0),)]
    per_trial = pd.DataFrame(rows, columns=["trial", "layer", "head", *FORMS])
    trials = [{**trial, "recall": trial["usable"]} for trial in invented.trials]
    about = {**same, "n_trials": len(trials), "ablation": {"done": True, "mode": "zero", "sets": []}}
    return RetrievalResult(trials, heads, per_trial, invented.ablation.astype({"recall": "float64"}), about)


def _study(place: Path, study: TaskStudy, table: HeadTable) -> None:
    asked = Study(("invented",), (study.task.name,), methods=("exact", "gradient"))
    _folder(place, {"command": "probe run study.toml", "state": "finished"}, table)
    effects = effects_frame([study], asked, "invented", 3)
    documents = {"probe": table.metadata}
    (place / "effects.parquet").write_bytes(formats.parquet(effects, documents))
    (place / "curves.parquet").write_bytes(formats.parquet(curves_frame([study]), documents))
    (place / "prompts.jsonl").write_bytes(prompts_jsonl([study.task]))
    (place / "tasks.json").write_bytes(tasks_json([study]))
    (place / "study.toml").write_text(asked.toml())


def _circuit(place: Path, circuit: Circuit) -> None:
    heads = circuit.heads[:2]
    apart = Difference(0.5, 0.25, 0.75, 0.1)
    place.mkdir(parents=True)
    save(circuit, place / "circuit.json")
    circuit_table([circuit]).save(place)
    complete = (Completeness("greedy", "1", heads, 2.0, 1.5, apart),)
    minimal = tuple(Minimality(head, "none", (), replace(apart, low=-0.25)) for head in heads)
    (place / "tests.json").write_bytes(circuit_tests_json(complete, minimal))
    write_run(place, {"weight_hash": WEIGHTS, "model": circuit.model}, {"command": f"probe circuit {circuit.task}"})


def _matrix(
    place: Path, circuits: Sequence[Circuit], overlaps: Sequence[Overlap], transfer: pd.DataFrame, removed: pd.DataFrame
) -> None:
    told = {
        "model": circuits[0].model, "tasks": [one.task for one in circuits], "not_done": {"mcq": "it guesses"},
        "overlaps": [one.json() for one in overlaps], "pairs": [],
    }  # fmt: skip
    (place / "matrix.json").write_text(json.dumps(told))
    (place / "transfer.parquet").write_bytes(formats.parquet(transfer, {}))
    (place / "removed.parquet").write_bytes(formats.parquet(removed, {}))
    write_run(place, {"study": {}, "parts": {}}, {"command": "probe matrix invented"})
