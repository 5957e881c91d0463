"""Small random models in float64, a task and circuits for them, for tests that compare with brute force."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from probe.circuits.circuit import Circuit, CircuitEdge, CircuitNode
from probe.circuits.graph import Graph, head_node
from probe.tasks.task import Prompt, Task

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
