"""TransformerLens models by the same protocol, and the hook points that are refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from probe.hooks import attention, lens
from probe.hooks.call import AttentionCall
from probe.hooks.errors import HookError
from probe.hooks.mask import MaskRule

SERVED = ["llama", "qwen3", "mistral", "gemma2", "gemma3", "gpt_oss", "gpt2"]
DEAD = {
    "gpt_neox": r"blocks\.0\.attn\.hook_rot_k, blocks\.0\.attn\.hook_rot_q never fired",
    "phi3": r"hook_rot_q never fired",
    "deepseek_v3": "wanted one z per head",
    "bert": r"hook_attn_scores never fired",
}


def bridge(case: Any) -> Any:
    sources = pytest.importorskip("transformer_lens.model_bridge.sources._bridge_builder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bridge's own remarks about models made in memory
        return sources.build_bridge_from_module(
            case.model, type(case.model).__name__, hf_config=case.model.config
        )


def words(rule: MaskRule) -> tuple[bool, int | None, int, bool]:
    return rule.causal, rule.window, rule.query_offset, rule.allowed is None


@pytest.mark.parametrize("name", SERVED)
def test_a_bridge_shows_and_takes_what_the_model_does(name: str, build: Callable[[str], Any]) -> None:
    case = build(name)
    calls: list[AttentionCall] = []
    ids = case.inputs["input_ids"][:1]

    def edit(call: AttentionCall) -> torch.Tensor:
        calls.append(call)
        z = call.attend()
        z[:, 1] = 0
        return z

    with torch.no_grad():
        plain = case.model(ids).logits
        with attention.instrument(case.model, edit):
            wanted = case.model(ids).logits
        bridged = bridge(case)
        with lens.instrument(bridged, edit) as studied:
            given = bridged(ids)
        after = bridged(ids)
    assert [site.layer for site in studied] == [0, 1]
    assert (given - wanted).abs().max() < 1e-6
    assert (after - plain).abs().max() < 1e-6
    assert (given - plain).abs().max() > 1e-2
    for ours, theirs in zip(calls[:2], calls[2:], strict=True):
        for tensor in ("q", "k", "v"):
            assert (getattr(ours, tensor) - getattr(theirs, tensor)).abs().max() < 1e-5
        assert (ours.scale, ours.softcap) == (theirs.scale, theirs.softcap)
        assert words(ours.rule()) == words(theirs.rule())
        assert (ours.pattern() - theirs.pattern()).abs().max() < 1e-6


@pytest.mark.parametrize(
    "settings",
    [
        {"positional_embedding_type": "rotary", "rotary_dim": 8, "n_key_value_heads": 2},
        {"use_local_attn": True, "attn_types": ["global", "local"], "window_size": 4},
        {"attn_scores_soft_cap": 5.0},
        {"use_attn_scale": False},
    ],
)
def test_a_hooked_transformer_is_served_too(settings: dict[str, Any]) -> None:
    """The class of transformer-lens 3; gone from 4, where this says so."""
    library = pytest.importorskip("transformer_lens")
    if not library.__dict__.get("HookedTransformer"):
        pytest.skip("not checked: transformer-lens 4 has no HookedTransformer")
    sizes = {"n_layers": 2, "d_model": 48, "n_ctx": 64, "d_head": 8, "n_heads": 6, "d_vocab": 53, "seed": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its deprecation
        config = library.HookedTransformerConfig(**sizes, act_fn="gelu", normalization_type="LN", **settings)
        model = library.HookedTransformer(config)
    ids = torch.randint(53, (1, 12), generator=torch.Generator().manual_seed(0))
    head = torch.tensor([1])
    own = [(f"blocks.{layer}.attn.hook_z", lambda z, hook: z.index_fill(2, head, 0)) for layer in (0, 1)]

    def edit(call: AttentionCall) -> torch.Tensor:
        assert (call.k.shape[1], call.softcap) == (
            settings.get("n_key_value_heads", 6),
            settings.get("attn_scores_soft_cap"),
        )
        assert call.rule().window == (4 if "window_size" in settings and call.site.layer == 1 else None)
        return call.attend().index_fill(1, head, 0)

    with torch.no_grad():
        wanted = model.run_with_hooks(ids, fwd_hooks=own)
        with lens.instrument(model, edit):
            given = model(ids)
    assert torch.equal(given, wanted)


@pytest.mark.parametrize("name", DEAD)
def test_dead_hook_points_are_refused_by_name(name: str, build: Callable[[str], Any]) -> None:
    bridged = bridge(build(name))
    with pytest.raises(HookError, match=DEAD[name]), lens.instrument(bridged, lambda call: call.attend()):
        pass


def test_a_hook_point_that_does_not_add_up_is_refused(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bridged = bridge(llama)
    monkeypatch.setattr(llama.model.model.layers[1].self_attn.original_component, "scaling", 0.2)
    wrong = bridged.blocks[1].attn.hook_rot_q.add_hook
    wrong(lambda tensor, hook: tensor)  # a hook of the user's own stays in place and harmless
    with pytest.raises(HookError, match="hook_z is not softmax"):
        lens._probe(_Misstated(bridged), [attention.Site("blocks.1.attn", "decoder", "self", 1)])


class _Misstated:
    """A bridge whose stated scale is not the one it uses."""

    def __init__(self, bridged: Any) -> None:
        self._bridged = bridged
        self.blocks = [_Block(), _Block()]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bridged, name)

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self._bridged(*args, **keywords)


class _Block:
    class attn:
        class original_component:
            scaling = 0.31


def test_padding_is_seen(llama: Any) -> None:
    bridged = bridge(llama)
    rules: list[MaskRule] = []

    def note(call: AttentionCall) -> torch.Tensor:
        rules.append(call.rule())
        assert call.pattern()[1, :, 3:, :3].abs().max() == 0
        return call.attend()

    with torch.no_grad(), lens.instrument(bridged, note):
        bridged(llama.inputs["input_ids"], attention_mask=llama.inputs["attention_mask"])
    assert all(rule.allowed is not None for rule in rules)


@pytest.mark.parametrize("result", [torch.zeros(1, 6, 12, 7), (torch.zeros(1, 6, 12, 8), None)])
def test_wrong_results_are_refused(result: Any, llama: Any) -> None:
    bridged = bridge(llama)
    with (
        pytest.raises(HookError, match=r"handler returned|return z alone"),
        lens.instrument(bridged, lambda call: result),
    ):
        bridged(llama.inputs["input_ids"][:1])


def test_choosing_layers(llama: Any) -> None:
    bridged = bridge(llama)
    with (
        pytest.raises(HookError, match=r"no attention in layers \[9\]"),
        lens.instrument(bridged, lens, layers=[9]),
    ):
        pass
    with (
        pytest.raises(HookError, match="no attention site"),
        lens.instrument(bridged, lens, sites=lambda s: False),
    ):
        pass


def test_models_are_told_apart(llama: Any) -> None:
    assert not lens.is_lens_model(llama.model)
    with pytest.raises(HookError, match="is not a TransformerLens model"), lens.instrument(llama.model, lens):
        pass
    bridged = bridge(llama)
    assert lens.is_lens_model(bridged)
    with pytest.raises(HookError, match=r"use probe\.hooks\.lens"):
        attention.sites(bridged)


def test_a_model_is_tried_once_and_again_when_it_changed(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bridged = bridge(llama)
    tried: list[int] = []
    probe = lens._probe

    def counted(model: Any, studied: list[attention.Site]) -> None:
        tried.append(len(studied))
        probe(model, studied)

    monkeypatch.setattr(lens, "_probe", counted)
    for layers in ([1], [0], [0, 1]):
        with lens.instrument(bridged, lambda call: call.attend(), layers=layers):
            pass
    assert tried == [2]
    monkeypatch.setattr(bridged.blocks[1].attn.original_component, "scaling", 0.2)
    with lens.instrument(bridged, lambda call: call.attend()):
        pass
    assert tried == [2, 2]
    assert lens._proved[bridged][1] == frozenset(lens.lens_sites(bridged))


def test_a_failing_layer_that_nobody_asked_for_does_not_matter(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bridged = bridge(llama)
    probe = lens._probe

    def fails_in_layer_0(model: Any, studied: list[attention.Site]) -> None:
        if any(site.layer == 0 for site in studied):
            raise HookError("layer 0 is dead")
        probe(model, studied)

    monkeypatch.setattr(lens, "_probe", fails_in_layer_0)
    with lens.instrument(bridged, lambda call: call.attend(), layers=[1]):
        pass
    with pytest.raises(HookError, match="layer 0 is dead"), lens.instrument(bridged, lambda call: call.attend()):
        pass
