"""The peer that we are timed against computes what we compute: otherwise the race means nothing."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from probe.analyses.edge_attribution import attribute
from probe.models import Loaded
from probe.tasks.task import Prompt, Task
from tests.benchmarks.edge_peer import attribute_at_once


def test_all_at_once_gives_the_scores_of_batches_and_sums() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=31, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    model = LlamaForCausalLM(config).double().eval().requires_grad_(False)
    for parameter in model.parameters():  # weights of 0.02 would leave every score at 1e-6
        parameter.data = torch.randn_like(parameter) * 0.25 + (1 if parameter.ndim == 1 else 0)
    rng = np.random.default_rng(0)
    prompts = []
    for _ in range(3):
        ids, twin = rng.integers(0, 31, (2, 7)).tolist()
        prompts.append(Prompt(tuple(ids), (3,), (5,), (6,), clean="", corrupted_ids=tuple(twin)))
    loaded, task = Loaded(model, None, "small", "test", "0"), Task("small", "logit_diff", tuple(prompts))
    theirs = attribute_at_once(loaded, task, steps=3)
    ours = attribute(loaded, task, steps=3).edges
    assert np.abs(ours).max() > 0.1
    # The same sums in another order: float64, but llama's RMSNorm works in float32 (unit 6e-8) at some ten places.
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())
    assert np.abs(attribute_at_once(loaded, task, steps=1) - ours).max() > 1e-3
