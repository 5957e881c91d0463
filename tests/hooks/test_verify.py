"""Verification proves what is right and refuses, by name, what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probe.hooks.errors import HookError
from probe.hooks.sites import sites
from probe.hooks.verify import verify


def test_every_family_is_proved(case: Any) -> None:
    proved = verify(case.model)
    assert list(proved.sites) == [site.name for site in sites(case.model)]
    assert proved.error <= 1
    start = "gated heads through W_O" if case.family.gated else "float64 attention through W_O"
    assert all(how.startswith(start) for how in proved.sites.values())
    assert proved.model == type(case.model).__name__


def test_half_precision_is_proved_within_its_own_bound(build: Callable[[str], Any]) -> None:
    for name in ("llama", "gemma2", "gpt_oss"):
        assert verify(build(name).model.bfloat16()).error <= 1


def test_only_what_was_chosen(llama: Any) -> None:
    assert list(verify(llama.model, layers=[1]).sites) == ["model.layers.1.self_attn"]


def test_a_projection_outside_the_module_is_said(build: Callable[[str], Any]) -> None:
    assert set(verify(build("bert").model).sites.values()) == {
        "float64 attention through W_O, which stands outside the module"
    }


class Shuffled(nn.Linear):
    """A projection that mixes heads before its own weight."""

    def forward(self, heads: Tensor) -> Tensor:
        return super().forward(heads.roll(8, -1))


def test_heads_in_another_order_are_refused(llama: Any) -> None:
    attention = llama.model.model.layers[1].self_attn
    shuffled = Shuffled(48, 48, bias=False)
    shuffled.weight = attention.o_proj.weight
    attention.o_proj = shuffled
    with pytest.raises(
        HookError, match=r"1 of 2 .* model\.layers\.1\.self_attn \(the projection does not give the sum"
    ):
        verify(llama.model)


def test_something_between_z_and_the_projection_is_refused(llama: Any) -> None:
    projection = llama.model.model.layers[0].self_attn.o_proj
    handle = projection.register_forward_pre_hook(lambda module, args: (args[0].roll(8, -1),))
    with pytest.raises(HookError, match=r"layers\.0\.self_attn \(recomputed attention is off by"):
        verify(llama.model)
    handle.remove()
    verify(llama.model)


def test_heads_that_move_nothing_are_refused(llama: Any) -> None:
    with torch.no_grad():
        llama.model.model.layers[1].self_attn.o_proj.weight.zero_()
    with pytest.raises(HookError, match=r"layers\.1\.self_attn \(zeroing heads did not move the output\)"):
        verify(llama.model)


def test_a_wrong_count_of_heads_is_refused(llama: Any) -> None:
    llama.model.config.num_attention_heads = 3
    with pytest.raises(HookError, match="6 heads of 8 at the call, 3 stated"):
        verify(llama.model)


def test_a_site_that_never_fires_is_refused(build: Callable[[str], Any]) -> None:
    model = build("clip").model
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(HookError, match=r"never fired"):
        verify(_OnlyText(model), inputs={"input_ids": torch.tensor([[5, 6, 2]]), "pixel_values": pixels})


def _OnlyText(model: Any) -> Any:
    model.forward = lambda input_ids, pixel_values: model.text_model(input_ids)
    return model


def test_training_mode_is_refused(llama: Any) -> None:
    with pytest.raises(HookError, match="training mode"):
        verify(llama.model.train())


def test_the_model_is_left_as_it_was(llama: Any) -> None:
    before = llama.model.config._attn_implementation
    state = {name: tensor.clone() for name, tensor in llama.model.state_dict().items()}
    verify(llama.model)
    assert llama.model.config._attn_implementation == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in llama.model.state_dict().items())
    assert not any(module._forward_hooks for module in llama.model.model.layers[0].self_attn.modules())


def test_families_outside_the_interface_are_refused(outside: dict[str, Callable[[], Any]]) -> None:
    for name, make in outside.items():
        with pytest.raises(HookError, match=name):
            verify(make().eval())
