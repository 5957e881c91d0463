"""Rules that change where a head looks, against attention written out in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from probe.hooks.bounds import z_bound
from probe.hooks.edits import (
    ByDistance,
    Edit,
    FrozenPattern,
    FrozenValues,
    Identity,
    Part,
    SelfOnly,
    Uniform,
    edit,
)
from probe.hooks.errors import HookError

FAMILIES = ["llama", "gpt2", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "t5", "bert"]
PartOf = Callable[..., Part]


def same(given: Tensor, wanted: Tensor, part: Part, dense: SimpleNamespace, heads: Any = None) -> bool:
    """Whether the part's z is what was written out for all heads, at queries that see something."""
    heads = part.heads if heads is None else heads
    seen = dense.visible(part.whole).any(-1)[:, 0].expand(len(part.current), -1)
    difference = (given - wanted[part.rows][:, heads]).abs().amax((1, 3))
    return bool((difference[seen[part.rows]] <= dense.bound(part.whole)).all())


def distances(part: Part) -> Tensor:
    keys = torch.arange(part.whole.k.shape[2])
    return (torch.arange(part.shape[2])[:, None] + part.offset - keys).abs()


@pytest.mark.parametrize("name", FAMILIES)
def test_uniform_is_the_mean_of_what_is_visible(name: str, part_of: PartOf, dense: SimpleNamespace) -> None:
    part = part_of(name)
    seen = dense.visible(part.whole).double()
    weights = seen / seen.sum(-1, keepdim=True).clamp(min=1)
    given = Uniform()(part)
    assert same(given, weights @ dense.values(part.whole), part, dense)
    assert not same(part.z, weights @ dense.values(part.whole), part, dense)
    if name == "gpt2":
        v = part.whole.v[0, 4]
        for row in range(12):
            assert (given[0, 2, row] - v[: row + 1].mean(0)).abs().max() <= dense.bound(part.whole)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("per_head", [False, True])
def test_by_distance(name: str, per_head: bool, part_of: PartOf, dense: SimpleNamespace) -> None:
    part = part_of(name)
    generator = torch.Generator().manual_seed(0)
    profile = torch.rand(6, 5, dtype=torch.float64, generator=generator) + 0.1
    profile[:, 0] = 0  # the first query sees only itself, at distance 0
    profile = profile if per_head else profile[0]
    counts = torch.nn.functional.pad(profile, (0, 20))[..., distances(part)] * dense.visible(part.whole)
    own = (distances(part) == 0) & dense.visible(part.whole)
    counts = torch.where(counts.sum(-1, keepdim=True) > 0, counts, own.double())
    wanted = counts / counts.sum(-1, keepdim=True).clamp(min=1e-9) @ dense.values(part.whole)
    assert same(ByDistance(profile)(part), wanted.expand(2, 6, -1, -1), part, dense)
    assert not same(ByDistance(profile.flip(-1))(part), wanted.expand(2, 6, -1, -1), part, dense)


def test_profiles_that_do_not_fit_are_refused(part_of: PartOf) -> None:
    for weights in (torch.tensor([]), torch.tensor([1, 2]), torch.tensor([0.5, -0.1]), torch.ones(1, 6, 3)):
        with pytest.raises(HookError, match=r"wanted \[K\] or \[heads, K\] floats from 0"):
            ByDistance(weights)
    with pytest.raises(HookError, match=r"weights \(5, 3\); wanted 6 heads"):
        ByDistance(torch.ones(5, 3))(part_of("llama"))


@pytest.mark.parametrize("name", FAMILIES)
def test_self_and_identity(name: str, part_of: PartOf, dense: SimpleNamespace) -> None:
    part = part_of(name)
    own = dense.values(part.whole)[:, :, part.offset : part.offset + part.shape[2]]
    assert torch.equal(SelfOnly()(part), own[:, part.heads])
    wanted = 0.7 * part.current + 0.3 * own
    assert same(Identity(0.3)(part), wanted, part, dense)
    assert torch.equal(Identity(0.0)(part), part.z)
    assert torch.equal(Identity(1.0)(part), SelfOnly()(part))


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_patterns_and_values(name: str, part_of: PartOf, dense: SimpleNamespace) -> None:
    part = part_of(name)
    generator = torch.Generator().manual_seed(0)
    call = part.whole
    q, k, v = (torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in (call.q, call.k, call.v))
    wanted = dense.weights(replace(call, q=q, k=k)) @ dense.values(call)
    frozen = FrozenPattern(q, k)(part)
    assert (frozen - wanted[:, part.heads])[:, :, 3:].abs().max() <= dense.bound(replace(call, q=q, k=k))
    assert not same(part.z, wanted, part, dense)
    wanted = dense.weights(call) @ dense.values(replace(call, v=v))
    assert same(FrozenValues(v)(part), wanted, part, dense)
    assert same(FrozenValues(v[:1])(part), dense.weights(call) @ dense.values(replace(call, v=v[:1])), part, dense)
    # Its own q, k and v change nothing but roundings.
    assert same(FrozenPattern(call.q, call.k)(part), part.current, part, dense)
    assert same(FrozenValues(call.v)(part), part.current, part, dense)


def test_frozen_tensors_that_do_not_fit_are_refused(part_of: PartOf) -> None:
    part = part_of("llama")
    q, k, v = part.whole.q, part.whole.k, part.whole.v
    with pytest.raises(HookError, match="frozen q of 11 tokens and width 8; this call has 12 and 8"):
        FrozenPattern(q[:, :, 1:], k)(part)
    with pytest.raises(HookError, match=r"k \(2, 3, 12, 8\); wanted \[1 or 2 rows, 6 or 2 heads"):
        FrozenPattern(q, q[:, :3])(part)
    with pytest.raises(HookError, match=r"q \(2, 2, 12, 8\); wanted \[1 or 2 rows, 6 heads"):
        FrozenPattern(k, k)(part)
    with pytest.raises(HookError, match="width 7"):
        FrozenValues(v[..., 1:])(part)
    with pytest.raises(HookError, match=r"are torch\.float32; the model computes in torch\.float64"):
        FrozenValues(v.float())(part)


def test_values_frozen_for_each_query_head(part_of: PartOf, dense: SimpleNamespace) -> None:
    """A frozen v of H heads gives each query head its own, though the model shares them in groups."""
    part = part_of("llama")
    v = torch.randn(2, 6, 12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert same(FrozenValues(v)(part), dense.weights(part.whole) @ v, part, dense)


@pytest.mark.parametrize("name", FAMILIES)
def test_in_float32_within_the_bound_of_a_correct_kernel(name: str, part_of: PartOf, dense: SimpleNamespace) -> None:
    part = part_of(name, wide=False)
    call = part.whole
    seen = dense.visible(call).double()
    queries = seen.any(-1)[:, 0].expand(2, -1)
    uniform = seen / seen.sum(-1, keepdim=True).clamp(min=1) @ dense.values(call)
    difference = (Uniform()(part) - uniform[:, part.heads]).abs().amax((1, 3))
    with torch.no_grad():
        assert difference[queries].max() <= z_bound(call)
    assert Uniform()(part).dtype == ByDistance(torch.ones(3))(part).dtype == torch.float32


def test_what_an_additive_mask_hides_stays_hidden(part_of: PartOf, dense: SimpleNamespace) -> None:
    part = part_of("gpt2")
    bias = torch.randn(1, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = torch.ones(12, 12, dtype=torch.bool).tril()
    hiding = torch.where(seen, bias, torch.finfo(torch.float64).min)
    part = replace(part, whole=replace(part.whole, mask=None, causal=False, bias=hiding))
    wanted = seen.double() / seen.sum(-1, keepdim=True) @ dense.values(part.whole)
    assert (Uniform()(part) - wanted[:, part.heads]).abs().max() <= dense.bound(part.whole)
    assert (ByDistance(torch.ones(12))(part) - wanted[:, part.heads]).abs().max() <= dense.bound(part.whole)


def test_gradients_are_those_of_finite_differences(build: Callable[[str], Any]) -> None:
    case = build("gpt2")  # its norms keep float64
    model, ids = case.model.double(), case.inputs["input_ids"][:1, :6]

    def loss(u: Tensor, profile: Tensor) -> Tensor:
        edits = [Edit(((0, 1), (0, 4)), Identity(u)), Edit(((0, 2), (1, 3)), ByDistance(profile))]
        with edit(model, edits):
            return model(ids).logits[0, -1].log_softmax(-1)[:3]

    u = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    profile = torch.tensor([0.5, 1.0, 0.25], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (u, profile))


def test_gradients_flow_through_patterns_to_what_lies_below(build: Callable[[str], Any]) -> None:
    case = build("gpt2")
    model, ids = case.model.double(), case.inputs["input_ids"][:1, :5]
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 6, 5, 8, dtype=torch.float64, generator=generator).unbind(0)
    edits = [
        Edit(((0, 0), (1, 0)), Uniform()),
        Edit(((1, 1),), FrozenPattern(q, k)),
        Edit(((1, 2),), FrozenValues(v)),
        Edit(((1, 3),), SelfOnly()),
    ]

    embedded = model.get_input_embeddings()(ids).detach()
    ways = torch.randn(3, *embedded.shape, dtype=torch.float64, generator=generator)

    def loss(steps: Tensor) -> Tensor:
        with edit(model, edits):
            moved = embedded + torch.einsum("n,n...->...", steps, ways)
            return model(inputs_embeds=moved).logits[0, -1].log_softmax(-1)[:2]

    assert torch.autograd.gradcheck(loss, torch.zeros(3, dtype=torch.float64, requires_grad=True))
