"""Windows of the map and the strongest pairs are those of eager attention; too much is refused beforehand."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import probe
from probe.errors import ProbeError, TokensError
from probe.look import pattern, top_pairs

EPS = torch.finfo(torch.float32).eps


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=48, intermediate_size=32, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return torch.randint(50, (150,), generator=torch.Generator().manual_seed(1)).tolist()


def eager(model: LlamaForCausalLM, ids: list[int], layer: int) -> torch.Tensor:
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(torch.tensor([ids]), output_attentions=True).attentions[layer][0]
    model.set_attn_implementation("sdpa")
    return found


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("head", [None, 0, 5])
def test_windows_are_eager_attention(model, ids, layer, head):
    full = eager(model, ids, layer)
    full = full if head is None else full[head]
    # Two float32 softmaxes of scores up to about 10, after up to two layers that round differently.
    bound = 16 * EPS * 11 * (layer + 1)
    assert (pattern(model, ids, layer, head) - full).abs().max() <= bound
    rows, columns = range(70, 150), range(3, 64)
    window = pattern(model, torch.tensor(ids), layer, head, queries=rows, keys=columns)
    assert window.shape == full[..., 70:150, 3:64].shape
    assert (window - full[..., 70:150, 3:64]).abs().max() <= bound


def test_top_pairs_are_the_largest_entries_with_ties_in_order(model, ids):
    full = pattern(model, ids, 1, 3)
    found = top_pairs(model, ids, 1, 3, k=40)
    wanted = full.flatten().sort(descending=True, stable=True)
    assert found["weight"].tolist() == pytest.approx(wanted.values[:40].tolist(), abs=16 * EPS)
    entries = full[torch.tensor(found["query"].tolist()), torch.tensor(found["key"].tolist())]
    assert entries.tolist() == pytest.approx(found["weight"].tolist(), abs=16 * EPS)
    assert found["weight"].is_monotonic_decreasing
    assert len(found[["query", "key"]].drop_duplicates()) == 40
    assert len(top_pairs(model, ids[:3], 0, 0, k=40)) == 6  # three tokens have six visible pairs


def test_layers_above_do_not_run_and_nothing_is_left(model, ids):
    ran = []
    handle = model.model.layers[1].register_forward_hook(lambda *_: ran.append(1))
    before = model.config._attn_implementation
    pattern(model, ids, 0)
    handle.remove()
    assert ran == []
    assert model.config._attn_implementation == before


def test_refusals_name_what_was_found_and_wanted(model, ids):
    with pytest.raises(ProbeError, match=r"6 heads × 150 queries × 150 keys take 1 MiB, over the budget of 0 MiB"):
        pattern(model, ids, 0, memory_budget=500_000)
    for arguments, message in (
        ({"layer": 3}, "layer: found 3, wanted one of 0 to 2"),
        ({"layer": 0, "head": 6}, "head: found 6, wanted 0 to 5"),
        ({"layer": 0, "queries": range(0, 151)}, r"queries: found range\(0, 151\), wanted"),
        ({"layer": 0, "keys": range(5, 5)}, "keys: found"),
    ):
        with pytest.raises(ProbeError, match=message):
            pattern(model, ids, **arguments)
    with pytest.raises(ProbeError, match="k: found 0"):
        top_pairs(model, ids, 0, 0, k=0)
    with pytest.raises(TokensError, match=r"256"):
        pattern(model, list(range(50)) * 6, 0)
    assert probe.pattern is pattern
