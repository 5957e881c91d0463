"""Rules that put something else where z was, against their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from probe.hooks.attention import sites
from probe.hooks.edits import Edit, MeanSelf, Replace, Scale, Zero, all_heads, edit
from probe.hooks.errors import HookError
from probe.hooks.heads import head_sites
from probe.hooks.spec import output_projection


def test_zeroing_z_is_zeroing_the_slice_of_w_o(case: Any) -> None:
    """To the bit: either way each product of the head is a zero at the same place of the same sum."""
    if case.name == "clip":
        assert "logits" not in case.model(**case.inputs)
        return
    layer, (site, heads, _) = list(head_sites(case.model).items())[-1]
    head = heads - 2
    with torch.no_grad():
        with edit(case.model, [Edit(((layer, head),), Scale(1.0))]):
            plain = case.model(**case.inputs).logits
        with edit(case.model, [Edit(((layer, head),), Zero())]):
            given = case.model(**case.inputs).logits
        output_projection(case.model, site)[1][head] = 0
        with edit(case.model, [Edit(((layer, head),), Scale(1.0))]):
            wanted = case.model(**case.inputs).logits
    assert torch.equal(given, wanted)
    assert not torch.equal(given, plain)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "qwen3_next", "t5"])
def test_a_head_replaced_by_its_own_z_changes_no_bit(
    name: str, build: Callable[[str], Any], watch: Callable[..., Any]
) -> None:
    case = build(name)
    layers = sorted(head_sites(case.model))
    with torch.no_grad():
        plain, seen = watch(case.model, case.inputs, [])
        edits = [
            Edit(((layer, 1), (layer, 4)), Replace(one.plain)) for layer, one in zip(layers, seen, strict=True)
        ]
        given, _ = watch(case.model, case.inputs, edits)
        wrong = [Edit(((layers[0], 1),), Replace(seen[0].plain.flip(1)))]
        changed, _ = watch(case.model, case.inputs, wrong)
    assert torch.equal(given, plain)
    assert not torch.equal(changed, plain)


def test_replacing_by_one_value_a_head_and_by_one_row_for_all(llama: Any, watch: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in [(1, 6, 1, 8), (2, 6, 1, 8), (1, 6, 12, 8), (2, 6, 12, 8)]:
        values = torch.randn(shape, generator=generator)
        _, seen = watch(llama.model, llama.inputs, [Edit(((1, 0), (1, 3), (1, 4)), Replace(values))])
        heads = [0, 3, 4]
        assert torch.equal(seen[1].edited[:, heads], values.expand(2, 6, 12, 8)[:, heads])


@pytest.mark.parametrize(
    ("values", "first", "message"),
    [
        (torch.zeros(3, 6, 12, 8), 0, r"wanted \[1 or 2 rows, 6 heads, positions, width\]"),
        (torch.zeros(2, 2, 12, 8), 0, r"wanted \[1 or 2 rows, 6 heads"),
        (torch.zeros(6, 12, 8), 0, r"wanted \[1 or 2 rows"),
        (torch.zeros(2, 6, 11, 8), 0, "values for positions 0 to 10 in a call of positions 0 to 11"),
        (torch.zeros(2, 6, 13, 8), 0, "values for positions 0 to 12 in a call of positions 0 to 11"),
        (torch.zeros(2, 6, 12, 8), 1, "values for positions 1 to 12"),
        (torch.zeros(2, 6, 12, 7), 0, "values are 7 wide; heads give 8"),
        (torch.zeros(2, 6, 12, 8, dtype=torch.float64), 0, "are torch.float64; the model computes in torch.float32"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: torch.Tensor, first: int, message: str, llama: Any) -> None:
    with pytest.raises(HookError, match=message), edit(llama.model, [Edit(((0, 1),), Replace(values, first))]):
        llama.model(**llama.inputs)


def test_scaling_by_a_number_and_by_gates(llama: Any, watch: Callable[..., Any]) -> None:
    gates = torch.linspace(-1, 1, 6)
    heads = ((0, 5), (0, 2))
    _, seen = watch(llama.model, llama.inputs, [Edit(heads, Scale(0.25))])
    assert torch.equal(seen[0].edited[:, [2, 5]], seen[0].plain[:, [2, 5]] * 0.25)
    _, seen = watch(llama.model, llama.inputs, [Edit(heads, Scale(gates))])
    assert torch.equal(seen[0].edited[:, [2, 5]], seen[0].plain[:, [2, 5]] * gates[[2, 5]][:, None, None])
    with pytest.raises(HookError, match=r"factor \(5,\); wanted one number or 6"):
        watch(llama.model, llama.inputs, [Edit(heads, Scale(gates[:5]))])


def test_gates_have_the_gradient_of_finite_differences(build: Callable[[str], Any]) -> None:
    case = build("gpt2")  # its norms keep float64; llama's go through float32
    model = case.model.double()
    heads = all_heads(model)[:6]

    def loss(gates: torch.Tensor) -> torch.Tensor:
        with edit(model, [Edit(heads, Scale(gates))]):
            return model(**case.inputs).logits[0, -1].log_softmax(-1)[:3]

    assert torch.autograd.gradcheck(loss, torch.ones(6, dtype=torch.float64, requires_grad=True))


def test_replaced_values_have_the_gradient_of_finite_differences(build: Callable[[str], Any]) -> None:
    case = build("gpt2")
    model = case.model.double()

    def loss(values: torch.Tensor) -> torch.Tensor:
        with edit(model, [Edit(((1, 2), (1, 4)), Replace(values)), Edit(((1, 4),), Scale(0.5), positions=[11])]):
            return model(**case.inputs).logits[0, -1].log_softmax(-1)[:3]

    values = torch.randn(1, 6, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(loss, values.requires_grad_())


def test_the_mean_of_the_rows_own_tokens(llama: Any, watch: Callable[..., Any]) -> None:
    _, seen = watch(llama.model, llama.inputs, [Edit(((0, 2), (0, 3)), MeanSelf())])
    one = seen[0]
    for row, first in enumerate([0, 3]):  # row 1 begins with three tokens of padding
        wanted = one.plain[row, 2:4, first + 1 :].double().mean(1, keepdim=True)
        # A float32 sum of at most 11 terms, and a division: 12 roundings of values below 10.
        assert (one.edited[row, 2:4].double() - wanted).abs().max() < 12 * 6e-8 * 10
    assert one.plain.abs().max() < 10
    everything = one.plain[1, 2:4].mean(1, keepdim=True)
    assert (one.edited[1, 2:4] - everything).abs().max() > 1e-2


def test_the_mean_of_one_token_or_past_a_cache_is_refused(llama: Any) -> None:
    ids = llama.inputs["input_ids"][:1]
    with pytest.raises(HookError, match="fewer than two tokens"), edit(llama.model, [Edit(((0, 0),), MeanSelf())]):
        llama.model(ids[:, :1])
    cache = llama.model(ids[:, :4], use_cache=True).past_key_values
    with pytest.raises(HookError, match="past a cache"), edit(llama.model, [Edit(((0, 0),), MeanSelf())]):
        llama.model(ids[:, 4:], past_key_values=cache)


def test_every_site_is_of_the_main_stack(case: Any) -> None:
    main = {site for site, _, _ in head_sites(case.model).values()}
    assert main <= set(sites(case.model))
    assert len({(site.stack, site.kind) for site in main}) == 1
