"""Logits at the judged positions are the model's own there, for transformers and TransformerLens models."""

from __future__ import annotations

import warnings

import pytest
import torch

from probe.models import Loaded
from probe.tasks.evaluate import logits_at

IDS = torch.randint(0, 60, (3, 9), generator=torch.Generator().manual_seed(0))
PLACES = [[[8], [8], [8]], [[0, 4], [3, 4], [7, 8]], [[8, 1], [2, 1], [0, 0]]]
PLACES += [[[1, 4, 8]] * 3, [[8, 1]] * 3, [[3, 3]] * 3]


@pytest.mark.parametrize("places", PLACES)
def test_each_rows_own_positions(wordy: Loaded, places: list[list[int]]):
    positions = torch.tensor(places)
    with torch.no_grad():
        found = logits_at(wordy.model, IDS, positions)
        whole = wordy.model(IDS).logits
    wanted = torch.stack([row[at] for row, at in zip(whole, positions, strict=True)])
    # The same products over 16 features, maybe in another order: a few roundings of logits below 1.
    assert (found - wanted).abs().max() < 1e-6


def test_gradients_pass(wordy: Loaded):
    embedded = wordy.model.get_input_embeddings().weight
    embedded.requires_grad_(True)
    try:
        logits_at(wordy.model, IDS, torch.tensor(PLACES[1])).sum().backward()
        assert embedded.grad is not None
        assert embedded.grad.abs().max() > 0
    finally:
        embedded.requires_grad_(False)
        embedded.grad = None


def test_a_bridge_gives_the_same(wordy: Loaded):
    sources = pytest.importorskip("transformer_lens.model_bridge.sources._bridge_builder")
    positions = torch.tensor(PLACES[1])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the bridge's own remarks about models made in memory
        wanted = logits_at(wordy.model, IDS, positions)
        bridged = sources.build_bridge_from_module(wordy.model, "LlamaForCausalLM", hf_config=wordy.model.config)
        found = logits_at(bridged, IDS, positions)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5
