"""Attention put on named keys, against weights written out in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from probe.hooks.edits import Edit, ForcePattern, Part, edit
from probe.hooks.errors import HookError

FAMILIES = ["llama", "gpt2", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "t5", "bert"]
PartOf = Callable[..., Part]


@pytest.mark.parametrize("name", FAMILIES)
def test_named_queries_look_at_named_keys_in_equal_shares(
    name: str, part_of: PartOf, dense: SimpleNamespace
) -> None:
    part = part_of(name)
    # Within every family's window of 4; no padding among them.
    queries, keys = [5, 6], [3, 4, 5] if name != "t5" else [3, 4]
    weights = torch.zeros(1, 1, part.whole.k.shape[2], dtype=torch.float64)
    weights[..., keys] = 1 / len(keys)
    wanted = (weights @ dense.values(part.whole))[:, part.heads]
    given = ForcePattern(queries, keys)(part)
    assert (given[:, :, queries] - wanted).abs().max() <= dense.bound(part.whole)
    assert (part.z[:, :, queries] - wanted).abs().max() > 1e-3
    others = [t for t in range(part.shape[2]) if t not in queries]
    assert torch.equal(given[:, :, others], part.z[:, :, others])
    assert torch.equal(ForcePattern(queries, [*keys, keys[0]])(part), given), "a key named twice counts once"


def test_positions_of_each_row(part_of: PartOf, dense: SimpleNamespace) -> None:
    part = part_of("llama")
    queries, keys = torch.tensor([[7, 8], [9, 9]]), torch.tensor([[1, 2], [5, 5]])
    given, v = ForcePattern(queries, keys)(part), dense.values(part.whole)[:, part.heads]
    bound = dense.bound(part.whole)
    assert (given[0, :, 7:9] - v[0, :, 1:3].mean(1, keepdim=True)).abs().max() <= bound
    assert torch.equal(given[1, :, 9], v[1, :, 5]), "one key with weight 1: nothing is rounded"
    assert torch.equal(given[0, :, 9], part.z[0, :, 9])
    assert torch.equal(given[1, :, :9], part.z[1, :, :9])


def test_keys_that_a_query_cannot_see_are_refused(part_of: PartOf) -> None:
    with pytest.raises(HookError, match="query 5 of row 0 cannot see key 6"):
        ForcePattern([5], [6])(part_of("llama"))
    with pytest.raises(HookError, match="query 5 of row 1 cannot see key 2"):
        ForcePattern([5], [2])(part_of("llama"))  # row 1 begins with three tokens of padding
    with pytest.raises(HookError, match="query 9 of row 0 cannot see key 5"):
        ForcePattern([9], [5])(part_of("mistral"))  # a window of 4
    with pytest.raises(HookError, match="query 5 of row 0 cannot see key 12"):
        ForcePattern([5], [12])(part_of("bert"))
    with pytest.raises(HookError, match="positions for 3 rows in an edit of 2"):
        ForcePattern([5], torch.tensor([[1], [2], [3]]))(part_of("llama"))
    with pytest.raises(HookError, match="wanted one or more integers"):
        ForcePattern([5], [])
    # Each row is asked for its own: query 9 of row 1 may see key 8, whatever the others do.
    ForcePattern(torch.tensor([[4], [9]]), torch.tensor([[3], [8]]))(part_of("mistral"))


def test_what_an_additive_mask_hides_is_refused(part_of: PartOf) -> None:
    part = part_of("gpt2")
    bias = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    bias[..., 5, 3] = torch.finfo(torch.float64).min
    part = replace(part, whole=replace(part.whole, mask=None, causal=False, bias=bias))
    ForcePattern([4], [3])(part)
    with pytest.raises(HookError, match="query 5 of row 0 cannot see key 3"):
        ForcePattern([5], [3])(part)


def test_infinities_at_other_keys_do_not_reach_z(part_of: PartOf) -> None:
    part = part_of("llama")
    v = part.whole.v.clone()
    v[:, :, 9:] = torch.inf
    part = replace(part, whole=replace(part.whole, v=v))
    assert ForcePattern([5], [3, 4])(part)[:, :, 5].isfinite().all()


def test_in_the_dtype_of_z(part_of: PartOf) -> None:
    assert ForcePattern([5], [3, 4])(part_of("llama", wide=False)).dtype == torch.float32


def test_forced_at_prefill_and_while_decoding(build: Callable[[str], Any]) -> None:
    """A query past a cache looks at keys that the cache holds, counted from the first token of the sequence."""
    case = build("gpt2")
    model, ids = case.model.double(), case.inputs["input_ids"][:1]
    edits = [Edit(((0, 2), (1, 3)), ForcePattern([9, 11], [2, 5]))]
    with torch.no_grad(), edit(model, edits):
        whole = model(ids).logits
    with torch.no_grad(), edit(model, edits):
        first = model(ids[:, :8], use_cache=True)
        rest = model(ids[:, 8:], past_key_values=first.past_key_values, use_cache=True).logits
    with torch.no_grad():
        plain = model(ids).logits
    # Two evaluations of float64 logits of size 10.
    assert (torch.cat([first.logits, rest], 1) - whole).abs().max() < 1e-11
    assert torch.equal(whole[:, :9], plain[:, :9])
    assert (whole - plain)[:, 9:].abs().max() > 0.1


def test_a_position_that_no_prompt_reached_is_refused(build: Callable[[str], Any]) -> None:
    case = build("gpt2")
    with (
        pytest.raises(HookError, match="position 12 is named, and no prompt was longer than 12"),
        torch.no_grad(),
        edit(case.model, [Edit(((0, 0),), ForcePattern([12], [3]))]),
    ):
        case.model(case.inputs["input_ids"])


def test_gradients_flow_through_the_values_and_not_through_the_pattern(part_of: PartOf) -> None:
    part = part_of("llama")
    q, k, v = (getattr(part.whole, name).clone().requires_grad_() for name in ("q", "k", "v"))
    live = replace(part, whole=replace(part.whole, q=q, k=k, v=v))
    z = ForcePattern([5], [3, 4])(live)[:, :, 5].sum()
    found = torch.autograd.grad(z, (q, k, v), allow_unused=True)
    assert found[0] is None
    assert found[1] is None
    # Heads 1, 3 and 4 of groups 0, 1, 1: half of each of two keys for every head of the group.
    assert found[2][0, :, :, 0].nonzero().tolist() == [[0, 3], [0, 4], [1, 3], [1, 4]]
    assert found[2][0, :, 3, 0].tolist() == [0.5, 1.0]
