"""Edits reach the heads, rows, positions and calls that they name, nothing else, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from probe.hooks import attention
from probe.hooks.bounds import z_bound
from probe.hooks.call import AttentionCall, Site
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
    _Plan,
    all_heads,
    edit,
    kv_group,
    whole_layer,
)
from probe.hooks.errors import HookError

# Two float32 evaluations of models whose outputs are of order 1. On the way to a logit stand sums of, a layer,
# 48 + 8 + 12 + 12 + 48 + 48 + 32 terms (q·k, softmax, values, output, both of the MLP), twice, and 48 at the end:
# 464 roundings of 2^-24 a run at worst, two runs. An edit that went elsewhere moves them by some 1e-2.
CLOSE = 2 * 464 * 2**-24
WINDOWED = ["llama", "gpt2", "mistral", "gemma2", "gemma3", "gpt_oss"]


def rules(call: AttentionCall, dtype: torch.dtype = torch.float32) -> list[Rule]:
    """One of each, that fits one row of the call, given the same bfloat16 numbers in any dtype."""
    generator = torch.Generator().manual_seed(0)
    shapes = [t.shape[1:] for t in (call.q, call.k, call.v)] + [(*call.q.shape[1:3], call.v.shape[-1])]
    q, k, v, values = (torch.randn(1, *shape, generator=generator).bfloat16().to(dtype) for shape in shapes)
    return [
        Zero(),
        Replace(values),
        Scale(-2.0),
        MeanSelf(),
        Identity(0.5),
        SelfOnly(),
        Uniform(),
        ByDistance(torch.tensor([0.5, 1.0, 0.25])),
        FrozenPattern(q, k),
        FrozenValues(v),
        KnockOut(None, [0, 4, 5]),
        SinkScale(0.2, 2),
        SinkValueZero(2),
    ]


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma2", "gpt_oss", "deepseek_v3"])
def test_what_is_not_named_keeps_its_z_to_the_bit(
    name: str, build: Callable[[str], Any], watch: Callable[..., Any]
) -> None:
    """Query head 4 shares keys and values with 3 and 5 where heads come in groups; both keep theirs."""
    case = build(name)
    with torch.no_grad():
        _, plain = watch(case.model, case.inputs, [])
        for rule in rules(plain[1].call):
            asked = Edit(((1, 1), (1, 4)), rule, positions=[5, 6, 9], rows=slice(1, 2))
            _, seen = watch(case.model, case.inputs, [asked])
            assert torch.equal(seen[0].edited, plain[0].edited)
            changed = seen[1].edited != plain[1].edited
            there = torch.zeros_like(changed)
            for head in (1, 4):
                there[1, head, [5, 6, 9]] = True
            assert not bool((changed & ~there).any()), rule
            # Rules such as a knock-out of what a window hides may leave a query as it was.
            assert bool(changed[there].float().mean() > 0.3), rule


def test_an_empty_list_leaves_the_model_alone(case: Any) -> None:
    before = case.model.config._attn_implementation
    with torch.no_grad():
        plain = case.model(**case.inputs)
        with edit(case.model, []), edit(case.model, [Edit((), Zero())]):
            assert case.model.config._attn_implementation == before
            given = case.model(**case.inputs)
    key = "logits_per_image" if case.name == "clip" else "logits"
    assert torch.equal(given[key], plain[key])


@pytest.mark.parametrize("name", ["llama", "gpt2", "clip"])
def test_everything_is_undone_after_an_error(name: str, build: Callable[[str], Any]) -> None:
    case = build(name)
    key = "logits_per_image" if name == "clip" else "logits"
    case.model.set_attn_implementation("sdpa")

    def fail(part: Part) -> Tensor:
        raise ZeroDivisionError

    with torch.no_grad():
        plain = case.model(**case.inputs)[key]
        with pytest.raises(ZeroDivisionError), edit(case.model, [Edit(whole_layer(case.model, 1), fail)]):
            case.model(**case.inputs)
        assert case.model.config._attn_implementation == "sdpa"
        assert torch.equal(case.model(**case.inputs)[key], plain)


def test_positions_and_rows(llama: Any, watch: Callable[..., Any]) -> None:
    values = torch.arange(1.0, 13.0)[None, None, :, None].expand(2, 6, 12, 8)
    positions = torch.tensor([[0, 3], [5, 5]])
    _, seen = watch(llama.model, llama.inputs, [Edit(((0, 2),), Replace(values), positions=positions)])
    edited = (seen[0].edited == values)[:, 2].all(-1)
    assert edited.nonzero().tolist() == [[0, 0], [0, 3], [1, 5]]
    only = Edit(((0, 2),), Replace(values[:1]), positions=torch.tensor([[7]]), rows=slice(-1, None))
    _, seen = watch(llama.model, llama.inputs, [only])
    assert (seen[0].edited == values)[:, 2].all(-1).nonzero().tolist() == [[1, 7]]


def test_one_row_a_head_equals_one_run_a_head(llama: Any) -> None:
    """A batch whose rows each have another head edited: what a sweep of a layer runs."""
    ids = llama.inputs["input_ids"][:1]
    z = torch.randn(1, 6, 12, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for rule in (Zero(), Replace(z), Uniform(), SinkScale(0.0)):
            edits = [Edit(((1, head),), rule, rows=slice(head, head + 1)) for head in range(6)]
            with edit(llama.model, edits):
                swept = llama.model(ids.expand(6, -1)).logits
            for head in range(6):
                with edit(llama.model, [Edit(((1, head),), rule)]):
                    alone = llama.model(ids.expand(6, -1)).logits[head]
                assert torch.equal(swept[head], alone)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "deepseek_v3"])
def test_every_rule_in_bfloat16(name: str, part_of: Callable[..., Part]) -> None:
    """Against the same rule on the same numbers in float64, which the tests of the rules prove."""
    wide = part_of(name, rows=slice(0, 1), wide=False)
    names = [n for n in ("q", "k", "v", "sinks") if getattr(wide.whole, n) is not None]
    with torch.no_grad():
        call = replace(wide.whole, **{n: getattr(wide.whole, n).bfloat16() for n in names})
        half = replace(wide, whole=call, current=wide.current.bfloat16())
        exact = replace(call, **{n: getattr(call, n).double() for n in names})
        part = replace(wide, whole=exact, current=half.current.double())
        for narrow, rule in zip(rules(call, torch.bfloat16), rules(call, torch.float64), strict=True):
            given, wanted = narrow(half), rule(part)
            assert given.dtype == torch.bfloat16
            used = call
            if isinstance(narrow, FrozenPattern):
                used = replace(call, q=narrow.q, k=narrow.k)
            if isinstance(narrow, FrozenValues):
                used = replace(call, v=narrow.v)
            # Twice, since SinkScale adds two parts, each with weights of its own.
            assert (given - wanted).abs().max() <= 2 * z_bound(used), rule
            if isinstance(rule, Replace | FrozenPattern | FrozenValues):
                with pytest.raises(HookError, match=r"are torch\.float64; the model computes in torch\.bfloat16"):
                    rule(half)


@dataclass
class Spy:
    """Hands over to a rule and keeps the part it was given."""

    rule: Rule
    parts: list[Part] = field(default_factory=list)

    def __call__(self, part: Part) -> Tensor:
        self.parts.append(part)
        return self.rule(part)


def test_replacing_a_head_cuts_nothing_out_of_the_call(llama: Any) -> None:
    ids = llama.inputs["input_ids"][:1].expand(6, -1)
    values = torch.zeros(1, 6, 1, 8)
    spies = [Spy(Zero() if head % 2 else Replace(values)) for head in range(6)]
    edits = [Edit(((1, head),), spy, rows=slice(head, head + 1)) for head, spy in enumerate(spies)]
    reading = Spy(Identity(0.5))
    with torch.no_grad(), edit(llama.model, [*edits, Edit(((1, 5),), reading)]):
        llama.model(ids)
    for spy in spies:
        assert not {"call", "z"} & set(vars(spy.parts[0]))
    assert {"call", "z"} & set(vars(reading.parts[0])) == {"z"}
    assert len({part.current.data_ptr() for spy in spies for part in spy.parts}) == 1


def test_edits_go_in_the_order_given(llama: Any, watch: Callable[..., Any]) -> None:
    values = torch.full((1, 6, 1, 8), 3.0)
    replaced = Edit(((0, 1), (0, 2)), Replace(values), positions=[4, 5])
    doubled = Edit(((0, 2), (0, 3)), Scale(2.0), positions=[5, 6])
    _, seen = watch(llama.model, llama.inputs, [replaced, doubled])
    plain, first = seen[0].plain, seen[0].edited
    assert bool((first[:, 1, 4:6] == 3).all() and (first[:, 2, 4] == 3).all() and (first[:, 2, 5] == 6).all())
    assert torch.equal(first[:, 2, 6], 2 * plain[:, 2, 6])
    assert torch.equal(first[:, 3, 5:7], 2 * plain[:, 3, 5:7])
    _, seen = watch(llama.model, llama.inputs, [doubled, replaced])
    assert bool((seen[0].edited[:, 2, 4:6] == 3).all())


HEADS = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)
PLACES = st.none() | st.lists(st.integers(0, 11), min_size=1, max_size=4)
ROWS = st.sampled_from([None, slice(0, 1), slice(1, 2), slice(0, 2, 2), slice(-1, None)])


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(asked=st.lists(st.tuples(HEADS, st.sampled_from("0x+"), PLACES, ROWS), min_size=1, max_size=5))
def test_any_list_of_edits_is_what_loops_over_it_give(asked: list[tuple[list[int], str, Any, Any]]) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 6, 12, 8, generator=generator).unbind(0)
    call = AttentionCall(Site("a", "decoder", "self", 3), torch.nn.Identity(), q, k[:, :2], v[:, :2], None, True, 0.3)
    values = torch.randn(1, 6, 12, 8, generator=generator)
    known: dict[str, Rule] = {"0": Zero(), "x": Scale(-3.0), "+": Replace(values)}
    given = call.attend()
    wanted = given.clone()
    for heads, name, places, rows in asked:
        one = Edit(tuple((3, head) for head in heads), known[name], positions=places, rows=rows)
        _Plan(one, 3, torch.tensor(sorted(heads))).apply(call, given)
        for row in range(2)[rows or slice(None)]:
            for head in heads:
                for t in set(places if places is not None else range(12)):
                    old = wanted[row, head, t].clone()
                    wanted[row, head, t] = {"0": old * 0, "x": old * -3.0, "+": values[0, head, t]}[name]
    assert torch.equal(given, wanted)


def test_contexts_nest_the_outer_first(llama: Any, watch: Callable[..., Any]) -> None:
    values = torch.full((1, 6, 1, 8), 3.0)
    with edit(llama.model, [Edit(((0, 2),), Replace(values))]):
        _, seen = watch(llama.model, llama.inputs, [Edit(((0, 2),), Scale(2.0))])
    assert bool((seen[0].edited[:, 2] == 6).all())


def test_an_edit_leaves_what_an_enclosing_handler_kept(llama: Any) -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(call: AttentionCall) -> Tensor:
        z = call.attend()
        kept.append((z, z.clone()))
        return z

    with torch.no_grad(), attention.instrument(llama.model, keep), edit(llama.model, [Edit(((0, 2),), Zero())]):
        llama.model(**llama.inputs)
    assert all(torch.equal(z, then) for z, then in kept)


def test_groups_and_layers(llama: Any) -> None:
    with torch.no_grad():
        for together, singly in (
            (kv_group(llama.model, 1, 1), ((1, 3), (1, 4), (1, 5))),
            (whole_layer(llama.model, 0), tuple((0, head) for head in range(6))),
            (all_heads(llama.model), tuple((layer, head) for layer in (0, 1) for head in range(6))),
        ):
            with edit(llama.model, [Edit(together, Zero())]):
                given = llama.model(**llama.inputs).logits
            with edit(llama.model, [Edit((one,), Zero()) for one in singly]):
                assert torch.equal(llama.model(**llama.inputs).logits, given)


@pytest.mark.parametrize("name", WINDOWED)
def test_prefill_and_decoding_with_a_cache(name: str, build: Callable[[str], Any]) -> None:
    """As the same edits at the same positions in one forward without a cache."""
    case = build(name)
    ids, prompt = case.inputs["input_ids"][:1], 7
    values = torch.randn(1, 6, 12, 8, generator=torch.Generator().manual_seed(0))
    spans = {"prefill": range(prompt), "decode": range(prompt, 12), "both": range(12)}
    heads = ((0, 1), (0, 2), (1, 4))
    every: list[Rule] = [
        Zero(),
        Scale(0.5),
        SelfOnly(),
        Uniform(),
        ByDistance(torch.tensor([0.5, 1.0, 0.25])),
        KnockOut(None, [0, 5, 8]),
        KnockOut([6, 9], [0, 5, 8]),
        SinkScale(0.2, 2),
        SinkValueZero(2),
    ]
    with torch.no_grad():
        plain = case.model(ids).logits
        for rule in every:
            for phase, span in spans.items():
                with edit(case.model, [Edit(heads, rule, positions=list(span))]):
                    wanted = case.model(ids).logits
                with edit(case.model, [Edit(heads, rule, phase=phase)]):
                    given = cached(case.model, ids, prompt)
                assert (given - wanted).abs().max() < CLOSE * max(1, float(wanted.abs().max())), (rule, phase)
                # What is past a window is not there to be taken away.
                far = isinstance(rule, KnockOut) or (name == "mistral" and isinstance(rule, SinkScale | SinkValueZero))
                assert (given - plain).abs().max() > 1e-3 or far
        with edit(case.model, [Edit(heads, Replace(values))]):
            wanted = case.model(ids).logits
        parts = [
            Edit(heads, Replace(values[:, :, :prompt]), phase="prefill"),
            Edit(heads, Replace(values[:, :, prompt:], first=prompt), phase="decode"),
        ]
        with edit(case.model, parts):
            given = cached(case.model, ids, prompt)
        assert (given - wanted).abs().max() < CLOSE * max(1, float(wanted.abs().max()))


def cached(model: Any, ids: Tensor, prompt: int) -> Tensor:
    """Logits of a prompt, then two tokens at once where the family can, then one at a time."""
    given = model(ids[:, :prompt], use_cache=True)
    logits, cache = [given.logits], given.past_key_values
    for first, stop in ((prompt, prompt + 2), *((t, t + 1) for t in range(prompt + 2, ids.shape[1]))):
        given = model(ids[:, first:stop], past_key_values=cache, use_cache=True)
        logits.append(given.logits)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_under_an_edit(cache: str, llama: Any) -> None:
    ids = llama.inputs["input_ids"][:1, :6]
    one = Edit(whole_layer(llama.model, 0), SinkScale(0.0), phase="decode")
    settings = {"max_new_tokens": 5, "do_sample": False, "cache_implementation": cache}
    with torch.no_grad():
        plain = llama.model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        with edit(llama.model, [one]):
            given = llama.model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        wanted = ids
        for _ in range(5):
            late = list(range(6, wanted.shape[1]))
            edits = [Edit(one.heads, one.rule, positions=late)] if late else []
            with edit(llama.model, edits):
                wanted = torch.cat([wanted, llama.model(wanted).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(given, wanted)
    assert not torch.equal(given, plain)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([Edit(((2, 0),), Zero())], r"no attention in layer 2; the model has it in \[0, 1\]"),
        ([Edit(((0, 6),), Zero())], "layer 0 has no head 6; wanted 0 to 5"),
        ([Edit(((0, -1),), Zero())], "layer 0 has no head -1"),
        ([Edit(((0, 1), (0, 1)), Zero())], "head 1 of layer 0 is named twice"),
        ([Edit(((0, 1),), Zero(), rows=slice(1, 3))], r"rows slice\(1, 3, None\) in a batch of 2"),
        ([Edit(((0, 1),), Zero(), rows=slice(2, None))], "in a batch of 2"),
        ([Edit(((0, 1),), Zero(), positions=torch.zeros(3, 1).long())], "positions for 3 rows in an edit of 2"),
        ([Edit(((0, 1),), Zero(), positions=[12], phase="prefill")], "position 12 in a prompt of 12 tokens"),
        ([Edit(((0, 1),), Zero(), positions=[3, 12])], "position 12 is named, and no prompt was longer than 12"),
        ([Edit(((0, 1),), KnockOut([3], [12]))], "position 12 is named, and no prompt was longer than 12"),
        ([Edit(((0, 1),), lambda part: part.z[:, :, 1:])], r"function returned \(2, 1, 11, 8\) torch.float32; wanted"),
        ([Edit(((0, 1),), lambda part: part.z.double())], r"returned \(2, 1, 12, 8\) torch.float64; wanted"),
        ([Edit(((0, 1),), lambda part: None)], "returned NoneType; wanted"),  # type: ignore[arg-type,return-value]
    ],
)
def test_what_does_not_exist_or_fit_is_refused(edits: list[Edit], message: str, llama: Any) -> None:
    with torch.no_grad(), pytest.raises(HookError, match=message), edit(llama.model, edits):
        llama.model(**llama.inputs)
    assert llama.model.config._attn_implementation != attention.NAME


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phase": "decoding"}, "phase 'decoding'; wanted one of prefill, decode, both"),
        ({"positions": [-1]}, "wanted one or more integers from 0"),
        ({"positions": []}, "wanted one or more integers from 0"),
        ({"positions": [0.5]}, "wanted one or more integers from 0"),
        ({"positions": torch.zeros(1, 1, 1).long()}, "wanted one or more integers from 0"),
        ({"rows": slice(None, None, -1)}, "wanted a slice with a positive step"),
    ],
)
def test_edits_that_no_model_could_serve(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HookError, match=message):
        Edit(((0, 0),), Zero(), **changes)


def test_a_layer_that_never_ran_is_told(llama: Any) -> None:
    one = Edit(((1, 0),), Zero())
    with pytest.raises(HookError, match=r"layers\.1\.self_attn: never ran"), edit(llama.model, [one]):
        pass


def test_positions_past_the_prompt_wait_for_decoding(llama: Any) -> None:
    ids = llama.inputs["input_ids"][:1]
    with torch.no_grad():
        with edit(llama.model, [Edit(((1, 1),), Zero(), positions=[9, 40])]):
            given = cached(llama.model, ids, 7)
        with edit(llama.model, [Edit(((1, 1),), Zero(), positions=[9])]):
            wanted = llama.model(ids).logits
    assert (given - wanted).abs().max() < CLOSE * max(1, float(wanted.abs().max()))


@pytest.mark.real
def test_the_real_models_own_z_changes_no_bit() -> None:
    """SmolLM2, all 270 heads at once; a neighbour's z is another thing."""
    import probe

    model = probe.load("smollm2-135m").model
    ids = torch.randint(1000, 40000, (1, 24), generator=torch.Generator().manual_seed(0))
    kept: dict[int, Tensor] = {}

    def keep(call: AttentionCall) -> Tensor:
        kept[call.site.layer] = call.attend()
        return kept[call.site.layer]

    with torch.no_grad():
        with attention.instrument(model, keep):
            plain = model(ids).logits
        own = [Edit(whole_layer(model, layer), Replace(z)) for layer, z in kept.items()]
        with edit(model, own):
            assert torch.equal(model(ids).logits, plain)
        with edit(model, [Edit(((5, 1),), Replace(kept[5].roll(1, 1)))]):
            assert not torch.equal(model(ids).logits, plain)
