"""Rules that take keys away, against attention with minus infinity and a new softmax in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from probe.hooks.edits import Edit, KnockOut, Part, SinkScale, SinkValueZero, edit
from probe.hooks.errors import HookError

FAMILIES = ["llama", "gpt2", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "t5", "bert"]
PartOf = Callable[..., Part]


def left(part: Part, hidden: Tensor, dense: SimpleNamespace) -> Tensor:
    """Visibility without the hidden edges; without learned sinks, a row left with nothing keeps itself."""
    seen = dense.visible(part.whole)
    own = torch.arange(part.whole.k.shape[2]) == torch.arange(part.shape[2])[:, None] + part.offset
    kept = seen & ~hidden
    return kept if part.whole.sinks is not None else kept | (seen & own & ~kept.any(-1, keepdim=True))


def close(given: Tensor, wanted: Tensor, part: Part, dense: SimpleNamespace) -> bool:
    seen = dense.visible(part.whole).any(-1)[:, 0].expand(len(part.current), -1)
    difference = (given - wanted[:, part.heads]).abs().amax((1, 3))
    return bool((difference[seen] <= dense.bound(part.whole)).all())


def sink_keys(part: Part, count: int) -> Tensor:
    """[B, 1, 1, S]: the first tokens of each row; row 1 of the families that pad begins with three of padding."""
    keys = torch.arange(part.whole.k.shape[2])
    mask = part.whole.mask
    padded = mask is not None and mask.valid_keys() is not None
    first = torch.tensor([0, 3 if padded else 0])[:, None]
    return ((keys >= first) & (keys < first + count))[:, None, None]


@pytest.mark.parametrize("name", FAMILIES)
def test_knocked_out_edges(name: str, part_of: PartOf, dense: SimpleNamespace) -> None:
    part = part_of(name)
    queries, keys = [4, 5, 6], [3, 4, 5, 6]
    hidden = torch.zeros(part.shape[2], part.whole.k.shape[2], dtype=torch.bool)
    hidden[4:7, 3:7] = True
    seen = torch.where(hidden.any(-1)[:, None], left(part, hidden, dense), dense.visible(part.whole))
    wanted = dense.weights(part.whole, seen) @ dense.values(part.whole)
    given = KnockOut(queries, keys)(part)
    assert close(given, wanted, part, dense)
    assert not close(part.z, wanted, part, dense)
    others = [t for t in range(part.shape[2]) if t not in queries]
    assert torch.equal(given[:, :, others], part.z[:, :, others])


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_knocked_out_for_every_query(name: str, part_of: PartOf, dense: SimpleNamespace) -> None:
    part = part_of(name)
    hidden = torch.zeros(1, part.whole.k.shape[2], dtype=torch.bool)
    hidden[:, :5] = True  # the first rows are left with nothing, and keep themselves
    wanted = dense.weights(part.whole, left(part, hidden, dense)) @ dense.values(part.whole)
    assert close(KnockOut(None, range(5))(part), wanted, part, dense)


def test_a_query_left_with_no_key_sees_its_own(part_of: PartOf) -> None:
    part = part_of("gpt2", heads=(2,), rows=slice(0, 1))
    given = KnockOut([2], range(12))(part)
    # One key with weight 1: nothing is rounded.
    assert torch.equal(given[0, 0, 2], part.whole.v[0, 2, 2])


def test_positions_of_each_row(part_of: PartOf, dense: SimpleNamespace) -> None:
    part = part_of("llama")
    queries, keys = torch.tensor([[7, 8], [9, 9]]), torch.tensor([[1, 2], [5, 6]])
    hidden = torch.zeros(2, 1, 12, 12, dtype=torch.bool)
    hidden[0, :, 7:9, 1:3] = True
    hidden[1, :, 9, 5:7] = True
    wanted = dense.weights(part.whole, dense.visible(part.whole) & ~hidden) @ dense.values(part.whole)
    assert close(KnockOut(queries, keys)(part), wanted, part, dense)
    with pytest.raises(HookError, match="positions for 3 rows in an edit of 2"):
        KnockOut(torch.tensor([[1], [2], [3]]), [0])(part)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("beta", "sinks"), [(0.0, 1), (0.3, 1), (0.5, 3), (1.0, 1), (1.5, 1)])
def test_scaled_sinks_by_the_identity_of_metrics(
    name: str, beta: float, sinks: int, part_of: PartOf, dense: SimpleNamespace
) -> None:
    part = part_of(name)
    on = sink_keys(part, sinks)
    weights, v = dense.weights(part.whole), dense.values(part.whole)
    mass = (weights * on).sum(-1, keepdim=True)
    a_s = (weights * on) @ v
    a_r = (weights * ~on) @ v
    wanted = beta * a_s + a_r * (1 + (1 - beta) * mass / (1 - mass))
    # Where nothing else is visible there is nobody to give to: the query's own token takes it.
    alone = ~(dense.visible(part.whole) & ~on).any(-1, keepdim=True)
    if part.whole.sinks is None:
        own = v[:, :, part.offset : part.offset + part.shape[2]]
        wanted = torch.where(alone, beta * a_s + (1 - beta) * own, wanted)
    else:
        wanted = torch.where(alone, beta * a_s, wanted)
    given = SinkScale(beta, sinks)(part)
    seen = dense.visible(part.whole).any(-1)[:, 0].expand(2, -1)
    # The formula divides by 1 - mass, and loses what is lost there; the rule does not.
    loss = 1 + torch.where(alone, 0.0, 4 / (1 - mass)).amax((1, 3))[seen]
    difference = (given - wanted[:, part.heads]).abs().amax((1, 3))[seen]
    assert bool((difference <= loss * dense.bound(part.whole)).all())
    if beta == 0.0:
        hidden = on.expand(-1, 1, 1, -1)
        knocked = dense.weights(part.whole, left(part, hidden, dense)) @ v
        assert close(given, knocked, part, dense)
    if beta == 1.0:
        assert close(given, part.current, part, dense)
    elif name != "t5":
        assert not close(given, part.current, part, dense)


def test_a_sink_with_nearly_all_the_mass_keeps_its_precision(part_of: PartOf, dense: SimpleNamespace) -> None:
    """At a mass of 1 - 1e-6 the formula as METRICS writes it has lost nearly every digit of float32."""
    part = part_of("gpt2", rows=slice(0, 1), wide=False)
    call = part.whole
    k = torch.nn.functional.pad(call.k, (0, 1))
    k[:, :, 0, -1] = 16.0
    q = torch.nn.functional.pad(call.q, (0, 1), value=1 / call.scale)
    call = replace(call, q=q, k=k)
    part = replace(part, whole=call, current=call.attend())
    wide = replace(call, q=q.double(), k=k.double(), v=call.v.double())
    weights = dense.weights(wide)
    assert 1e-7 < (1 - weights[0, :, 6:, 0]).min() < 1e-5
    seen = dense.visible(call) & (torch.arange(12) > 0) | torch.eye(12, dtype=torch.bool)
    wanted = dense.weights(wide, seen) @ dense.values(wide)
    difference = (SinkScale(0.0)(part) - wanted[:1, part.heads])[:, :, 1:].abs().max()
    # As `bounds.z_bound`: scores of 9 terms that sum to at most 40 err by 14 x 6e-8 x 40, weights by twice that.
    assert difference < 2 * 14 * 6e-8 * 40 * float(call.v.abs().max())
    z, p = part.current, weights[..., :1].float()
    formula = (z - p * call.v[:, :, :1]) / (1 - p)
    assert (formula - wanted)[0, part.heads, 6:].abs().max() > 10 * difference


@pytest.mark.parametrize("name", FAMILIES)
def test_sink_values_taken_away(name: str, part_of: PartOf, dense: SimpleNamespace) -> None:
    part = part_of(name)
    on = sink_keys(part, 2)
    wanted = dense.weights(part.whole) * ~on @ dense.values(part.whole)
    assert close(SinkValueZero(2)(part), wanted, part, dense)
    assert not close(SinkValueZero(1)(part), wanted, part, dense)


def test_gradients_are_those_of_finite_differences(build: Callable[[str], Any]) -> None:
    case = build("gpt2")  # its norms keep float64
    model, ids = case.model.double(), case.inputs["input_ids"][:1, :5]

    embedded = model.get_input_embeddings()(ids).detach()
    ways = torch.randn(3, *embedded.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(beta: Tensor, steps: Tensor) -> Tensor:
        edits = [
            Edit(((0, 1),), SinkScale(beta)),
            Edit(((1, 2),), KnockOut([3, 4], [0, 2])),
            Edit(((1, 3),), SinkValueZero()),
        ]
        with edit(model, edits):
            moved = embedded + torch.einsum("n,n...->...", steps, ways)
            return model(inputs_embeds=moved).logits[0, -1].log_softmax(-1)[:2]

    steps = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (beta, steps))


def test_what_cannot_be_is_refused() -> None:
    for count in (0, -1):
        with pytest.raises(HookError, match=f"{count} sinks; wanted 1 or more"):
            SinkScale(0.5, count)
        with pytest.raises(HookError, match="wanted 1 or more"):
            SinkValueZero(count)
    with pytest.raises(HookError, match="keys"):
        KnockOut([1], [])
    with pytest.raises(HookError, match="queries"):
        KnockOut([-1], [0])
