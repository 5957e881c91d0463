"""The instrument in place changes nothing, sees everything, and leaves no trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from probe.hooks.attention import NAME, AttentionCall, HookError, instrument, sites
from probe.hooks.spec import output_projection

# Two float32 evaluations of models whose outputs are of order 1, through two layers of width 48: each differs
# from the exact one by a few hundred roundings of 6e-8 at worst, and by far less when they average out.
CLOSE = 1e-6


def shown(call: AttentionCall) -> tuple[Tensor, Tensor]:
    return call.attend(), call.pattern()


def plain(call: AttentionCall) -> Tensor:
    return call.attend()


def unpadded(case: Any, tensor: Tensor, queries: int) -> Tensor:
    """The part of [B, ..., queries, ...] that belongs to tokens and not to padding."""
    if case.family.inputs == "text" and tensor.shape[queries] == case.kept.shape[1]:
        rows = [tensor[b : b + 1].index_select(queries, case.kept[b].nonzero()[:, 0]) for b in range(2)]
        return torch.cat([row.flatten() for row in rows])
    return tensor.flatten()


def test_outputs_and_patterns_equal_eager(case: Any) -> None:
    with torch.no_grad():
        case.model.set_attn_implementation("eager")
        eager = case.model(**case.inputs, output_attentions=True)
        with instrument(case.model, shown) as studied:
            ours = case.model(**case.inputs, output_attentions=True)
    assert len(studied) == case.family.sites
    compared = 0
    for name, wanted in eager.items():
        if isinstance(wanted, Tensor) and wanted.is_floating_point() and name != "encoder_last_hidden_state":
            given, wanted = (
                unpadded(case, t, 1) if t.ndim > 2 else t.flatten() for t in (ours[name], wanted)
            )
            assert (given - wanted).abs().max() < CLOSE * max(1, wanted.abs().max())
            compared += 1
        if name.endswith("attentions"):
            for given, pattern in zip(ours[name], wanted, strict=True):
                kind = 1 if name == "encoder_attentions" and case.family.inputs == "pair" else 0
                rows = slice(0, 1) if kind else slice(None)  # the encoder's padded queries are not tokens
                difference = unpadded(case, given[rows] - pattern[rows], 2)
                assert difference.abs().max() < CLOSE
                compared += 1
    assert compared


def test_the_comparison_would_see_a_lost_mask(llama: Any) -> None:
    def careless(call: AttentionCall) -> Tensor:
        call.mask, call.causal = None, True
        return call.attend()

    with torch.no_grad():
        eager = llama.model(**llama.inputs).logits
        with instrument(llama.model, careless):
            ours = llama.model(**llama.inputs).logits
    assert (ours - eager)[1, 3:].abs().max() > 1e-2


def test_generates_what_the_plain_model_generates(case: Any) -> None:
    if not case.family.decodes:
        assert not case.model.can_generate()
        return
    kept = {name: tensor for name, tensor in case.inputs.items() if name != "decoder_input_ids"}

    def ruled(call: AttentionCall) -> Tensor:
        call.rule()
        return call.attend()

    settings = {"max_new_tokens": 6, "do_sample": False}
    case.model.set_attn_implementation("eager")
    wanted = case.model.generate(**kept, **settings)
    with instrument(case.model, ruled):
        given = case.model.generate(**kept, **settings)
    assert torch.equal(given, wanted)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss"])
def test_generates_with_a_static_cache(name: str, build: Callable[[str], Any]) -> None:
    case = build(name)
    settings = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static"}
    case.model.set_attn_implementation("eager")
    wanted = case.model.generate(**case.inputs, **settings)
    with instrument(case.model, shown):
        given = case.model.generate(**case.inputs, **settings)
    assert torch.equal(given, wanted)


def test_the_rule_of_every_call_gives_its_pattern(case: Any) -> None:
    from probe.hooks.verify import rule_block

    def compared(call: AttentionCall) -> Tensor:
        seen = call.pattern() > 0
        rule = rule_block(call.rule(), call.q.shape[2], call.k.shape[2], call.q.device)
        hidden = ~rule.any(-1, keepdim=True)  # padded queries, which the rule leaves out
        assert bool(((seen <= rule) | hidden).all())
        # A softmax weight in float32 is 0 only where hidden, at scores of order 10.
        assert bool((seen | ~rule).all())
        return call.attend()

    with torch.no_grad(), instrument(case.model, compared):
        case.model(**case.inputs)


def test_packed_sequences_do_not_see_each_other(llama: Any) -> None:
    ids = llama.inputs["input_ids"][:1]
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    patterns = []

    def keep(call: AttentionCall) -> Tensor:
        assert call.rule().allowed is not None
        patterns.append(call.pattern())
        return call.attend()

    with torch.no_grad():
        llama.model.set_attn_implementation("eager")
        wanted = llama.model(ids, position_ids=positions, use_cache=False).logits
        with instrument(llama.model, keep):
            given = llama.model(ids, position_ids=positions, use_cache=False).logits
    assert (given - wanted).abs().max() < CLOSE * max(1, wanted.abs().max())
    assert all(pattern[:, :, 5:, :5].abs().max() == 0 for pattern in patterns)


@pytest.mark.parametrize("kind", ["bool", "float", "bias"])
def test_masks_that_the_caller_prepared(kind: str, llama: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    visible = (torch.rand(2, 1, 12, 12, generator=generator) < 0.6).tril() | torch.eye(12, dtype=torch.bool)
    floor = torch.finfo(torch.float32).min
    mask = {
        "bool": visible,
        "float": torch.where(visible, 0.0, floor),
        "bias": torch.where(visible, torch.randn(2, 1, 12, 12, generator=generator), floor),
    }[kind]
    with torch.no_grad():
        llama.model.set_attn_implementation("sdpa")
        wanted = llama.model(llama.inputs["input_ids"], attention_mask=mask, output_attentions=False)
        with instrument(llama.model, shown):
            given = llama.model(llama.inputs["input_ids"], attention_mask=mask, output_attentions=True)
    assert torch.equal(given.logits, wanted.logits)
    assert all(pattern[~visible.expand_as(pattern)].abs().max() == 0 for pattern in given.attentions)


def test_what_is_not_studied_is_sdpa_to_the_bit(build: Callable[[str], Any]) -> None:
    for name in ("llama", "qwen2", "bart", "t5", "deepseek_v3"):
        case = build(name)
        with torch.no_grad():
            case.model.set_attn_implementation("sdpa")
            wanted = case.model(**case.inputs).logits
            with instrument(case.model, plain, layers=[0]):
                given = case.model(**case.inputs).logits
        assert torch.equal(given, wanted), name


def test_a_plain_causal_forward_asks_for_no_mask(llama: Any) -> None:
    def check(call: AttentionCall) -> Tensor:
        assert call.mask is not None
        assert call.mask.sdpa() is None
        return call.attend()

    with torch.no_grad(), instrument(llama.model, check):
        llama.model(llama.inputs["input_ids"])


def test_zeroing_a_head_equals_zeroing_its_output_weights(case: Any) -> None:
    head = 4

    def edit(call: AttentionCall) -> Tensor:
        z = call.attend()
        z[:, head] = 0
        return z

    key = "logits_per_image" if case.name == "clip" else "logits"
    with torch.no_grad():
        before = case.model(**case.inputs)[key]
        with instrument(case.model, edit):
            given = case.model(**case.inputs)[key]
        for site in sites(case.model):
            output_projection(case.model, site)[1][head] = 0
        wanted = case.model(**case.inputs)[key]
    difference = (given - wanted).abs()
    difference = difference[case.kept] if case.family.inputs == "text" else difference
    assert difference.max() < CLOSE * max(1, float(wanted.abs().max()))
    assert (before - wanted).abs().max() > 1e-3


def test_gradients_flow_as_in_eager(case: Any) -> None:
    key = "logits_per_image" if case.name == "clip" else "logits"
    kept = case.kept if case.family.inputs == "text" else slice(None)

    def gradients() -> list[Tensor]:
        case.model.zero_grad()
        case.model(**case.inputs)[key][kept].square().mean().backward()
        return [p.grad.clone() for p in case.model.parameters() if p.grad is not None]

    case.model.set_attn_implementation("eager")
    wanted = gradients()
    with instrument(case.model, plain):
        given = gradients()
    assert len(given) == len(wanted)
    for ours, eager in zip(given, wanted, strict=True):
        # Sums over the batch and the positions of products that each agree to CLOSE.
        assert (ours - eager).abs().max() <= 1e-5 * max(1.0, float(eager.abs().max()))


def test_an_edit_in_place_keeps_gradients(llama: Any) -> None:
    def edit(call: AttentionCall) -> Tensor:
        z = call.attend()
        z[:, 0] = 0
        return z

    with instrument(llama.model, edit):
        llama.model(**llama.inputs).logits.square().mean().backward()
    weight = llama.model.model.layers[0].self_attn.o_proj.weight.grad
    assert weight is not None
    assert weight[:, :8].abs().max() == 0
    assert weight[:, 8:].abs().max() > 0


def test_inner_instruments_see_what_outer_ones_return(llama: Any) -> None:
    seen: list[Tensor] = []

    def outer(call: AttentionCall) -> Tensor:
        z = call.attend()
        z[:, 2] = 0
        return z

    def inner(call: AttentionCall) -> Tensor:
        z = call.attend()
        seen.append(z)
        return z

    with torch.no_grad(), instrument(llama.model, outer), instrument(llama.model, inner, layers=[1]):
        llama.model(**llama.inputs)
    assert len(seen) == 1
    assert seen[0][:, 2].abs().max() == 0
    assert seen[0][:, 3].abs().max() > 0


def test_an_inner_handler_cannot_drop_the_outer_one(llama: Any) -> None:
    def deaf(call: AttentionCall) -> Tensor:
        return torch.zeros_like(call.q)

    with (
        pytest.raises(HookError, match="did not call attend"),
        instrument(llama.model, plain),
        instrument(llama.model, deaf),
    ):
        llama.model(**llama.inputs)


def test_everything_is_restored_after_an_error(build: Callable[[str], Any]) -> None:
    model = build("clip").model
    configs = [model.config, model.config.text_config, model.config.vision_config]
    model.set_attn_implementation({"": "sdpa", "text_config": "eager", "vision_config": "sdpa"})
    before = [config._attn_implementation for config in configs]
    during: list[set[str]] = []

    def fail(call: AttentionCall) -> Tensor:
        during.append({config._attn_implementation for config in configs})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), instrument(model, fail):
        model.text_model(torch.tensor([[5, 6, 2]]))
    assert during == [{NAME}]
    assert [config._attn_implementation for config in configs] == before == ["sdpa", "eager", "sdpa"]


def test_a_model_that_shares_the_config_runs_plainly(llama: Any) -> None:
    twin = type(llama.model)(llama.model.config).eval()
    with torch.no_grad():
        wanted = twin(**llama.inputs).logits
        calls: list[AttentionCall] = []
        with instrument(llama.model, lambda call: (calls.append(call), call.attend())[1]):
            given = twin(**llama.inputs).logits
    assert torch.equal(given, wanted)
    assert not calls


def test_models_outside_the_interface_are_refused_by_name(outside: dict[str, Callable[[], Any]]) -> None:
    for name, make in outside.items():
        with pytest.raises(HookError, match=name), instrument(make(), plain):
            pass


@pytest.mark.parametrize("keyword", ["indices", "block_indices", "cu_seq_lens_q", "something_new"])
def test_keywords_that_nobody_knows_raise(keyword: str, llama: Any) -> None:
    with (
        torch.no_grad(),
        pytest.raises(HookError, match=rf"layers\.0\.self_attn \(LlamaAttention\) passes {keyword} "),
        instrument(llama.model, plain),
    ):
        llama.model(**llama.inputs, **{keyword: torch.zeros(1)})


@pytest.mark.parametrize("z", [None, torch.zeros(2, 6, 12, 7), torch.zeros(2, 6, 12, 8, dtype=torch.float64)])
def test_a_wrong_z_raises(z: Any, llama: Any) -> None:
    with pytest.raises(HookError, match="the handler returned"), instrument(llama.model, lambda call: z):
        llama.model(**llama.inputs)


def test_layers_and_sites_that_do_not_exist_raise(llama: Any) -> None:
    with (
        pytest.raises(HookError, match=r"no attention in layers \[7\]"),
        instrument(llama.model, plain, layers=[0, 7]),
    ):
        pass
    with (
        pytest.raises(HookError, match="no attention site"),
        instrument(llama.model, plain, sites=lambda s: False),
    ):
        pass


def test_sites_can_be_chosen(build: Callable[[str], Any]) -> None:
    case = build("t5")
    names: list[str] = []

    def note(call: AttentionCall) -> Tensor:
        names.append(call.site.name)
        return call.attend()

    with torch.no_grad(), instrument(case.model, note, sites=lambda s: s.kind == "cross") as studied:
        case.model(**case.inputs)
    assert names == [site.name for site in studied]
    assert names == [f"decoder.block.{layer}.layer.1.EncDecAttention" for layer in (0, 1)]


def test_nothing_is_patched_at_import() -> None:
    script = (
        "import probe.hooks.attention, probe.hooks.capture, probe.hooks.verify, probe.hooks.lens, sys\n"
        "assert not {'transformers', 'transformer_lens'} & set(sys.modules)\n"
        "from transformers.modeling_utils import AttentionInterface\n"
        "from transformers.masking_utils import AttentionMaskInterface\n"
        "names = {*AttentionInterface._global_mapping, *AttentionMaskInterface._global_mapping}\n"
        "assert probe.hooks.attention.NAME not in names\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
