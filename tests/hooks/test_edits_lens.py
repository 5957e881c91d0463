"""The same edits on TransformerLens models: as its own hooks would do them, and as on the transformers model.

The classes of transformer-lens 3 and 4 go through the same tests; `hooked_transformer.py` beside this file runs
them where the former is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from probe.hooks import lens
from probe.hooks.attention import instrument
from probe.hooks.bounds import z_bound
from probe.hooks.call import AttentionCall
from probe.hooks.edits import (
    ByDistance,
    Edit,
    FrozenPattern,
    FrozenValues,
    Identity,
    KnockOut,
    MeanSelf,
    Part,
    Replace,
    Rule,
    Scale,
    SelfOnly,
    SinkScale,
    SinkValueZero,
    Uniform,
    Zero,
    all_heads,
    edit,
    kv_group,
)
from probe.hooks.errors import HookError

# Two float32 evaluations of models whose outputs are of order 1. On the way to a logit stand sums of, a layer,
# 48 + 8 + 12 + 12 + 48 + 48 + 32 terms (q·k, softmax, values, output, both of the MLP), twice, and 48 at the end:
# 464 roundings of 2^-24 a run at worst, two runs. An edit that went elsewhere moves them by some 1e-2.
CLOSE = 2 * 464 * 2**-24
LENGTH = 12
BRIDGED = ["llama", "gpt2", "mistral", "gemma2", "gpt_oss"]
HOOKED: dict[str, dict[str, Any]] = {
    "rotary, grouped": {"positional_embedding_type": "rotary", "rotary_dim": 8, "n_key_value_heads": 2},
    "window": {"use_local_attn": True, "attn_types": ["global", "local"], "window_size": 4},
    "soft cap": {"attn_scores_soft_cap": 5.0},
    "no scale": {"use_attn_scale": False},
}
IDS = torch.randint(3, 53, (1, LENGTH), generator=torch.Generator().manual_seed(1))


def bridge(case: Any) -> Any:
    sources = pytest.importorskip("transformer_lens.model_bridge.sources._bridge_builder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bridge's own remarks about models made in memory
        return sources.build_bridge_from_module(case.model, type(case.model).__name__, hf_config=case.model.config)


def hooked(settings: dict[str, Any]) -> Any:
    library = pytest.importorskip("transformer_lens")
    if not library.__dict__.get("HookedTransformer"):
        pytest.skip("not checked: transformer-lens 4 has no HookedTransformer")
    sizes = {"n_layers": 2, "d_model": 48, "n_ctx": 64, "d_head": 8, "n_heads": 6, "d_vocab": 53, "seed": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its deprecation
        config = library.HookedTransformerConfig(**sizes, act_fn="gelu", normalization_type="LN", **settings)
        return library.HookedTransformer(config)


@pytest.fixture(params=[*BRIDGED, *HOOKED])
def model(request: pytest.FixtureRequest, build: Callable[[str], Any]) -> Any:
    return hooked(HOOKED[request.param]) if request.param in HOOKED else bridge(build(request.param))


def calls_of(model: Any, ids: Tensor) -> list[AttentionCall]:
    """The attention calls of a plain run, each with its z in `inner`."""
    calls: list[AttentionCall] = []

    def keep(call: AttentionCall) -> Tensor:
        calls.append(call)
        z = call.attend().clone()
        call.inner = lambda: z
        return z

    with torch.no_grad(), lens.instrument(model, keep):
        model(ids)
    return calls


Change = Callable[[Tensor], Tensor]


def of_pattern(change: Change) -> tuple[str, Callable[[Tensor, int], Tensor]]:
    def hook(pattern: Tensor, head: int) -> Tensor:
        pattern = pattern.clone()
        pattern[:, head] = change(pattern[:, head])
        return pattern

    return "hook_pattern", hook


def of_z(change: Change) -> tuple[str, Callable[[Tensor, int], Tensor]]:
    def hook(z: Tensor, head: int) -> Tensor:
        z = z.clone()
        z[:, :, head] = change(z[:, :, head])
        return z

    return "hook_z", hook


def table(model: Any) -> list[tuple[Rule, str, Callable[[Tensor, int], Tensor]]]:
    """Rules, and what TransformerLens' own hooks would do: (rule, hook name, change of the hooked tensor)."""
    plain = calls_of(model, IDS)[1]
    other = calls_of(model, IDS.flip(1))[1]
    far = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    counts = torch.nn.functional.pad(torch.tensor([0.5, 1.0, 0.25]), (0, LENGTH))[far.clamp(min=0)]

    def uniform(p: Tensor) -> Tensor:
        return (p > 0).float() / (p > 0).sum(-1, keepdim=True)

    def by_distance(p: Tensor) -> Tensor:
        weights = counts * (p > 0)
        return weights / weights.sum(-1, keepdim=True)

    def knocked(p: Tensor) -> Tensor:
        lost = p[:, 5:9, 3:5].sum(-1, keepdim=True)
        p = p.clone()
        p[:, 5:9, 3:5] = 0
        p[:, 5:9] = p[:, 5:9] / (1 - lost)  # a learned sink takes its share
        return p

    def scaled(p: Tensor) -> Tensor:
        mass, rest = p[..., :1], p[..., 1:]
        others = (rest > 0).any(-1, keepdim=True)
        rest = rest * (1 + 0.7 * mass / (1 - mass).clamp(min=1e-9))
        alone = 0.3 * mass if plain.sinks is not None else mass
        return torch.cat([torch.where(others, 0.3 * mass, alone), rest], dim=-1)

    def without_first(p: Tensor) -> Tensor:
        return torch.cat([p[..., :1] * 0, p[..., 1:]], dim=-1)

    def frozen(head: int) -> Tensor:
        return other.pattern()[:, head]

    values = other.attend()
    rows: list[tuple[Rule, tuple[str, Callable[[Tensor, int], Tensor]]]] = [
        (Zero(), of_z(torch.zeros_like)),
        (Scale(0.5), of_z(lambda z: z / 2)),
        (MeanSelf(), of_z(lambda z: z[:, 1:].mean(1, keepdim=True))),
        (Uniform(), of_pattern(uniform)),
        (ByDistance(torch.tensor([0.5, 1.0, 0.25])), of_pattern(by_distance)),
        (SelfOnly(), of_pattern(lambda p: torch.eye(LENGTH)[None])),
        (Identity(0.3), of_pattern(lambda p: 0.7 * p + 0.3 * torch.eye(LENGTH))),
        (KnockOut(range(5, 9), [3, 4]), of_pattern(knocked)),
        (SinkScale(0.3), of_pattern(scaled)),
        (SinkValueZero(), of_pattern(without_first)),
    ]
    found = [(rule, *hook) for rule, hook in rows]
    found.append((FrozenPattern(other.q, other.k), "hook_pattern", lambda p, head: put(p, 1, head, frozen(head))))
    found.append((Replace(values), "hook_z", lambda z, head: put(z, 2, head, values[:, head])))
    return found


def put(tensor: Tensor, axis: int, index: int, value: Tensor) -> Tensor:
    return tensor.index_copy(axis, torch.tensor([index]), value.unsqueeze(axis))


def test_edits_are_what_the_librarys_own_hooks_do(model: Any) -> None:
    name = "blocks.1.attn."
    with torch.no_grad():
        plain = model(IDS)
        for rule, point, change in table(model):
            own = [(name + point, lambda tensor, hook, change=change: change(tensor, 4))]
            wanted = model.run_with_hooks(IDS, fwd_hooks=own)
            with edit(model, [Edit(((1, 4),), rule)]):
                given = model(IDS)
            assert (given - wanted).abs().max() < CLOSE * max(1, float(wanted.abs().max())), rule
            assert (given - plain).abs().max() > 1e-4, rule
            with edit(model, [Edit(((1, 3),), rule)]):  # the neighbour, in a group with it or not
                assert (model(IDS) - wanted).abs().max() > 1e-4, rule


def test_frozen_values_of_a_group(model: Any) -> None:
    """The library's hook_v changes a whole group of query heads at once; so does the edit of a group."""
    other = calls_of(model, IDS.flip(1))[1]

    def freeze(v: Tensor, hook: object) -> Tensor:
        return put(v, 2, 1, other.v[:, 1])

    with torch.no_grad():
        wanted = model.run_with_hooks(IDS, fwd_hooks=[("blocks.1.attn.hook_v", freeze)])
        with edit(model, [Edit(kv_group(model, 1, 1), FrozenValues(other.v))]):
            given = model(IDS)
    assert (given - wanted).abs().max() < CLOSE * max(1, float(wanted.abs().max()))


def test_own_z_and_no_edits_change_no_bit(model: Any) -> None:
    with torch.no_grad():
        plain = model(IDS)
        calls = calls_of(model, IDS)
        own = [Edit(((layer, 1), (layer, 4)), Replace(call.attend())) for layer, call in enumerate(calls)]
        for edits in ([], own):
            with edit(model, edits):
                assert torch.equal(model(IDS), plain)


def test_other_heads_rows_and_positions_keep_every_bit(model: Any) -> None:
    ids = IDS.expand(2, -1)
    kept: list[Tensor] = []
    keep = [("blocks.1.attn.hook_z", lambda z, hook: kept.append(z.clone()))]
    with torch.no_grad():
        model.run_with_hooks(ids, fwd_hooks=keep)
        for rule in (Zero(), Uniform(), SelfOnly(), Identity(0.5)):
            with edit(model, [Edit(((1, 4),), rule, positions=[5, 9], rows=slice(1, 2))]):
                model.run_with_hooks(ids, fwd_hooks=keep)
            changed = (kept[-1] != kept[0]).any(-1).nonzero().tolist()
            assert changed == [[1, 5, 4], [1, 9, 4]], rule


def test_everything_is_undone_after_an_error(model: Any) -> None:
    def fail(part: Part) -> Tensor:
        raise ZeroDivisionError

    def hooks() -> int:
        return sum(len(point.fwd_hooks) for point in model.hook_dict.values())

    with torch.no_grad():
        plain, before = model(IDS), hooks()
        during: list[int] = []
        counting = Edit(((0, 2),), lambda part: (during.append(hooks()), part.z)[1])
        with pytest.raises(ZeroDivisionError), edit(model, [counting, Edit(((1, 2),), fail)]):
            model(IDS)
        assert hooks() == before < during[0]
        assert torch.equal(model(IDS), plain)


def test_contexts_nest(model: Any) -> None:
    """Also where the model was not tried before: the outer edit must not meet the trial's tokens."""
    values = torch.full((1, 6, 1, 8), 3.0)
    z = calls_of(model, IDS)[0].attend()
    lens._proved.pop(model)
    outer = Edit(((0, 2),), Replace(values.to(z)), rows=slice(1, 2))
    with torch.no_grad():
        with edit(model, [outer]), edit(model, [Edit(((1, 2),), Zero()), Edit(((0, 2),), Scale(2.0))]):
            given = model(IDS.expand(2, -1))
        once = [Edit(((0, 2),), Replace(2 * values.to(z)), rows=slice(1, 2)), Edit(((1, 2),), Zero())]
        with edit(model, [*once, Edit(((0, 2),), Scale(2.0), rows=slice(0, 1))]):
            assert torch.equal(model(IDS.expand(2, -1)), given)


def test_heads_are_numbered_alike(model: Any) -> None:
    assert all_heads(model) == tuple((layer, head) for layer in (0, 1) for head in range(6))
    with pytest.raises(HookError, match=r"no attention in layer 7; the model has it in \[0, 1\]"):
        kv_group(model, 7, 0)
    with pytest.raises(HookError, match="layer 1 has no head 6"), edit(model, [Edit(((1, 6),), Zero())]):
        pass


@pytest.mark.parametrize("name", BRIDGED)
def test_the_same_numbers_through_either_library(name: str, build: Callable[[str], Any]) -> None:
    """Row 1 is padded on the left. z within twice the bound of a correct kernel, logits as close as two evaluations."""
    case = build(name)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 6, LENGTH, 8, generator=generator)
    q, v = (torch.randn(2, 6, LENGTH, 8, generator=generator) for _ in range(2))
    rules: list[Rule] = [
        Zero(),
        Replace(values),
        Scale(0.5),
        MeanSelf(),
        Identity(0.5),
        SelfOnly(),
        Uniform(),
        ByDistance(torch.tensor([0.5, 1.0, 0.25])),
        FrozenPattern(q, q),
        FrozenValues(v),
        KnockOut([6, 9], [3, 5, 6]),
        SinkScale(0.2),
        SinkValueZero(2),
    ]
    ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
    inputs = dict(case.inputs)
    if name == "gpt2":  # whose learned positions the bridge counts from the first token after the padding
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    heads = ((0, 1), (0, 4), (1, 2))
    positions = torch.tensor([[2, 6, 9, 11], [5, 6, 9, 10]])
    kept = case.kept

    def both(rule: Rule) -> list[Edit]:
        return [Edit(heads, rule, positions=positions)]


    seen: list[tuple[AttentionCall, Tensor]] = []

    def note(call: AttentionCall) -> Tensor:
        z = call.attend()
        seen.append((call, z.clone()))
        return z

    with torch.no_grad():
        plain = case.model(**inputs).logits
        wanted = []
        for rule in rules:
            with edit(case.model, both(rule)), instrument(case.model, note):
                wanted.append(case.model(**inputs).logits)
        through_transformers, seen = seen, []
        bridged = bridge(case)
        for index, rule in enumerate(rules):
            with edit(bridged, both(rule)), lens.instrument(bridged, note):
                given = bridged(ids, attention_mask=mask)
            limit = CLOSE * max(1, float(wanted[index].abs().max()))
            assert (given - wanted[index])[kept].abs().max() < limit, rule
            assert (given - plain)[kept].abs().max() > 1e-3, rule
    for (call, ours), (_, theirs) in zip(through_transformers[::2], seen[::2], strict=True):
        # Layer 0 reads the same embeddings; its q, k and v may differ by roundings, which z_bound counts too.
        difference = (ours - theirs).transpose(1, 2)[kept]
        with torch.no_grad():
            assert difference.abs().max() <= 2 * z_bound(call)


def test_generation_without_a_cache(build: Callable[[str], Any]) -> None:
    """Each step is a forward of the whole text, so that every call is a prefill."""
    case = build("llama")
    with torch.no_grad():
        wanted = IDS
        for _ in range(3):
            with edit(case.model, [Edit(((0, 1), (1, 1)), SelfOnly())]):
                wanted = torch.cat([wanted, case.model(wanted).logits[:, -1:].argmax(-1)], dim=1)
        bridged = bridge(case)
        settings = {"max_new_tokens": 3, "do_sample": False, "verbose": False, "stop_at_eos": False}
        with edit(bridged, [Edit(((0, 1), (1, 1)), SelfOnly(), phase="prefill")]):
            given = bridged.generate(IDS, use_past_kv_cache=False, return_type="tokens", **settings)
        assert torch.equal(given, wanted)
        with (
            pytest.raises(HookError, match="and no cache"),
            edit(bridged, [Edit(((0, 1), (1, 1)), SelfOnly())]),
        ):
            bridged.generate(IDS, use_past_kv_cache=True, return_type="tokens", **settings)
