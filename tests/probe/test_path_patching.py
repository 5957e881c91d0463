"""Path patching against the naive version: three steps, prompt by prompt, sender by sender, with torch hooks only."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from probe.analyses import path_patching as module
from probe.analyses.path_patching import path_patch
from probe.errors import ResultsError, TokensError
from probe.hooks.errors import HookError
from probe.models import load
from probe.planted.circuits import planted_task, planted_truth
from probe.tasks.build import build
from probe.tasks.metrics import measure

HEADS = ("a0.h0", "a0.h3", "a1.h1", "a1.h2")
PLACE = 4
EDGE = 0.4
"""Share of the difference between twins that a planted edge carries at least: the negative head's strength."""


class Naive:
    """One Llama of `conftest.small_llama`, run by whole forwards; everything by module name."""

    def __init__(self, model, prompt, metric):
        self.model, self.prompt, self.metric = model, prompt, metric
        self.layers = model.model.layers

    def run(self, ids, *, z=None, mlp=None, ports=None, places=slice(None), held=slice(None)):
        """(metric, what z, MLPs and q, k, v projections gave). z: {(layer, head): [T, 8]} and mlp: {layer: [T, d]} put
        in at `held`, ports: {(layer, head, letter): [T, 8]}; a head of z in `places_of` only where it says."""
        seen, handles = {}, []
        for number, layer in enumerate(self.layers):

            def heads(_m, args, number=number):
                value = args[0].clone().view(1, -1, 4, 8)
                seen["live", number] = value[0].clone()
                for (at, head), new in (z or {}).items():
                    if at == number:
                        value[0, held, head] = new[held]
                seen["z", number] = value[0].clone()
                return (value.flatten(2),)

            def feed(_m, _a, out, number=number):
                seen["m", number] = out[0].clone()
                if mlp is None:
                    return None
                new = out.clone()
                new[0, held] = mlp[number][held]
                return new

            handles.append(layer.self_attn.o_proj.register_forward_pre_hook(heads))
            handles.append(layer.mlp.register_forward_hook(feed))
            for letter in "qkv":

                def keep(_m, _a, out, key=(letter, number)):
                    seen[key] = out[0].clone()

                handles.append(getattr(layer.self_attn, f"{letter}_proj").register_forward_hook(keep))
        logits = self.model(torch.tensor([ids]), use_cache=False).logits[:, list(self.prompt.metric_positions)]
        for handle in handles:
            handle.remove()
        return float(measure(logits, [self.prompt], self.metric)[0]), seen

    def head(self, layer, head, q, k, v, ids):
        """z [T, 8] of a head from projected q, k, v of its own [T, 8]: rotary embedding and softmax written out."""
        place = torch.arange(len(ids), dtype=torch.float64)
        angle = place[:, None] * 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
        angle = torch.cat([angle, angle], -1)

        def turn(x):
            return x * angle.cos() + torch.cat([-x[:, 4:], x[:, :4]], -1) * angle.sin()

        score = turn(q) @ turn(k).T / 8**0.5
        score = score.masked_fill(place[None] > place[:, None], -torch.inf)
        return score.softmax(-1) @ v


def letters(name):
    return "qkv" if not name.endswith(">") else name[-2]


def naive(model, task, receivers, senders, position, hold, mlps):
    """Steps 1 to 3; receivers in ports are recomputed from projections, with rotary embedding by hand."""
    result = np.zeros((len(senders), len(task.prompts)))
    for column, prompt in enumerate(task.prompts):
        one = Naive(model, prompt, task.metric)
        ids, twin = prompt.clean_ids, prompt.corrupted_ids
        clean, before = one.run(ids)
        _, other = one.run(twin)
        places = slice(None) if position is None else [position]
        held = {"everywhere": slice(None), "position": places, "nothing": []}[hold]
        depth = len(one.layers)
        for row, name in enumerate(senders):
            everyone = {(n, h): before["z", n][:, h] for n in range(depth) for h in range(4)}
            mlp = {n: before["m", n] for n in range(depth)} if mlps == "frozen" else None
            given = ids
            if name == "input":
                start = 0
                given = [t if position in (None, at) else c for at, (c, t) in enumerate(zip(ids, twin, strict=True))]
                sender = None
            else:
                start, head = int(name[1]), int(name[-1])
                patched = before["z", start][:, head].clone()
                patched[places] = other["z", start][places, head]
                sender = ((start, head), patched)
            value, seen = sent(one, given, everyone, mlp, sender, places, held)
            if receivers != "logits":
                above = [r for r in receivers if name == "input" or int(r[1]) > start]
                value = received(one, ids, above, seen) if above else clean
            result[row, column] = value
    return result


def sent(one, ids, everyone, mlp, sender, places, held):
    """Step 2: all heads at their clean z where held, the sender at its twin's."""
    handles = []
    if sender is not None:
        (number, head), value = sender

        def put(_m, args):
            z = args[0].clone().view(1, -1, 4, 8)
            z[0, places, head] = value[places]
            return (z.flatten(2),)

        # `run` registers its hooks later, so that they would overwrite; the sender is left out of what they hold.
        everyone = {key: z for key, z in everyone.items() if key != (number, head)}
        handles.append(one.layers[number].self_attn.o_proj.register_forward_pre_hook(put))
        # Where the sender is not patched, it too keeps its clean z: nothing below it has changed.
    found = one.run(ids, z=everyone, mlp=mlp, held=held)
    for handle in handles:
        handle.remove()
    return found


def received(one, ids, receivers, seen):
    """Step 3: heads whose ports read what was recorded, layer by layer; other ports read the run itself."""
    asked = {}
    for name in receivers:
        key = (int(name[1]), int(name[4]))
        asked[key] = asked.get(key, "") + letters(name)
    replaced = {}
    for (layer, head), ports in sorted(asked.items()):
        _, live = one.run(ids, z=replaced)
        parts = []
        for letter in "qkv":
            source = seen if letter in ports else live
            own = head if letter == "q" else head // 2
            parts.append(source[letter, layer][:, 8 * own : 8 * own + 8])
        replaced[layer, head] = one.head(layer, head, *parts, ids)
    return one.run(ids, z=replaced)[0]


@pytest.fixture
def model(make_llama):
    return make_llama()


@pytest.mark.parametrize("mlps", ["live", "frozen"])
@pytest.mark.parametrize("hold", ["everywhere", "position"])
@pytest.mark.parametrize("position", [None, PLACE])
@pytest.mark.parametrize("receivers", ["logits", ("a2.h1<q>",), ("a1.h0<k>", "a2.h3<v>", "a2.h3<q>"), ("a2.h2",)])
def test_equals_the_naive_version(model, make_task, receivers, position, hold, mlps):
    task = make_task(2)
    senders = (*HEADS, "input")
    found = path_patch(load(model), task, receivers, senders=senders, position=position, hold=hold, mlps=mlps)
    wanted = naive(model, task, receivers, senders, position, hold, mlps)
    # float64; transformers computes rotary tables in float32, so that angles up to 8 are off by 5e-7, scores of size 20
    # by 1e-5, and a logit difference of weights below 1 by less than ten times that.
    np.testing.assert_allclose(found.patched, wanted, rtol=0, atol=1e-12 if receivers == "logits" else 1e-4)
    # What is written at one place, and held to it, reaches no later place but by a key or value.
    silent = position == PLACE and hold == "everywhere" and receivers in ("logits", ("a2.h1<q>",))
    assert (np.abs(found.effect).max() > 1e-2) == (not silent), "something is patched, so the comparison can fail"
    assert found.receivers == (("logits",) if receivers == "logits" else receivers)


def test_held_at_the_position_lets_later_places_pass(model, make_task):
    """At the position alone, heads after it carry the change on: not the direct path, and so it is named."""
    task, loaded = make_task(2), load(model)
    one, two = (path_patch(loaded, task, senders=HEADS, position=PLACE, hold=h) for h in ("everywhere", "position"))
    # Judged at positions 7 and 8: nothing written at 4 reaches them but through heads that read it there.
    assert np.abs(one.effect).max() < 1e-12
    assert np.abs(two.effect).max() > 1e-2
    last = [path_patch(loaded, task, senders=HEADS, position=8, hold=h).patched for h in ("everywhere", "position")]
    np.testing.assert_allclose(last[0], last[1], rtol=0, atol=1e-12)


def test_the_embedding_with_nothing_held_is_the_twin(model, make_task):
    found = path_patch(load(model), make_task(3), senders=("input",), hold="nothing")
    np.testing.assert_allclose(found.patched[0], found.corrupted, rtol=0, atol=1e-12)
    assert found.normalised == pytest.approx([1.0])
    assert found.published == pytest.approx([-100.0])


def test_equal_twins_in_the_sender_and_senders_above_do_nothing(model, make_task):
    task, loaded = make_task(2), load(model)
    found = path_patch(loaded, task, ("a1.h2<k>",), senders=("a0.h1", "a1.h1", "a1.h3", "a2.h0"))
    assert np.array_equal(found.effect[1:], np.zeros((3, 2)))
    assert np.abs(found.effect[0]).max() > 1e-3
    # Twins differ at position 1 at the earliest: at 0 both runs are one.
    for receivers in ("logits", ("a2.h0<q>", "a2.h1")):
        same = path_patch(loaded, task, receivers, senders=(*HEADS, "input"), position=0)
        assert np.abs(same.effect).max() < 1e-12


def test_batches_whole_runs_and_rows_do_not_matter(model, make_task, monkeypatch):
    task, loaded = make_task(3), load(model)
    ask = {"receivers": ("a1.h0<v>", "a2.h1<q>"), "senders": HEADS, "position": PLACE, "hold": "position"}
    whole = path_patch(loaded, task, **ask)
    some = path_patch(loaded, task, rows=slice(1, 2), **ask)
    np.testing.assert_allclose(some.patched, whole.patched[:, 1:2], rtol=0, atol=1e-12)
    monkeypatch.setattr(module, "BATCH_TOKENS", 1)
    np.testing.assert_allclose(path_patch(loaded, task, **ask).patched, whole.patched, rtol=0, atol=1e-12)
    monkeypatch.setattr("probe.analyses.path_runs.same_start", lambda *_: False)
    unshared = path_patch(loaded, task, **ask)
    np.testing.assert_allclose(unshared.patched, whole.patched, rtol=0, atol=1e-12)
    assert unshared.layer_forwards > whole.layer_forwards


def test_order_of_senders_and_the_cost(model, make_task):
    task, loaded = make_task(2), load(model)
    one = path_patch(loaded, task, senders=("a2.h1", "input", "a0.h2"))
    two = path_patch(loaded, task, senders=("a0.h2", "a2.h1", "input"))
    np.testing.assert_allclose(one.patched, two.patched[[1, 2, 0]], rtol=0, atol=1e-12)
    assert one.layer_forwards == 6 + 1 + 3 + 3  # clean and twin, then from layers 2, 0 and 0 to the logits
    assert path_patch(loaded, task, ("a1.h0",), senders=("a0.h2", "a1.h1")).layer_forwards == 6 + 2 + 2


def test_a_bridge_is_patched_as_its_model_is(make_task):
    sources = pytest.importorskip("transformer_lens.model_bridge.sources._bridge_builder")
    config = LlamaConfig(vocab_size=31, hidden_size=24, intermediate_size=32, num_hidden_layers=2, head_dim=8,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    own, inner = LlamaForCausalLM(config).eval().requires_grad_(False), LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in own.parameters():
        parameter.data = 0.25 * torch.randn(parameter.shape, generator=generator) + (1 if parameter.ndim == 1 else 0)
    inner.load_state_dict(own.state_dict())
    inner.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bridge's own remarks about models made in memory
        bridged = load(sources.build_bridge_from_module(inner, "LlamaForCausalLM", hf_config=config))
    for receivers in ("logits", ("a1.h2<k>", "a1.h0<q>")):
        found, wanted = (path_patch(one, make_task(3), receivers) for one in (bridged, load(own)))
        # float32: some hundred roundings of numbers of size 10.
        np.testing.assert_allclose(found.patched, wanted.patched, rtol=0, atol=1e-4)
        assert np.abs(found.effect).max() > 0.01
    with pytest.raises(HookError, match="TransformerLens"):
        path_patch(bridged, make_task(3), mlps="frozen")


@pytest.mark.parametrize("mlps", ["live", "frozen"])
def test_gpt2_head_by_head(make_gpt2, make_task, mlps):
    """With everything else held the stream at the end is the clean one plus the sender's change (and its MLPs')."""
    model, task = make_gpt2(), make_task(2)
    found = path_patch(load(model), task, mlps=mlps)
    held = {}
    for which in ("clean_ids", "corrupted_ids"):
        handles = [
            block.attn.c_proj.register_forward_pre_hook(lambda _m, a, key=(which, n): held.update({key: a[0]}))
            for n, block in enumerate(model.transformer.h)
        ]
        handles.append(model.transformer.ln_f.register_forward_pre_hook(lambda _m, a, w=which: held.update({w: a[0]})))
        model(torch.tensor([getattr(prompt, which) for prompt in task.prompts]))
        for handle in handles:
            handle.remove()
    close = []
    for row, name in enumerate(found.senders):
        layer, head = int(name[1]), int(name[-1])
        change = held["corrupted_ids", layer] - held["clean_ids", layer]
        weight = model.transformer.h[layer].attn.c_proj.weight.view(4, 8, 32)
        write = change.view(2, -1, 4, 8)[:, :, head] @ weight[head]
        logits = model.lm_head(model.transformer.ln_f(held["clean_ids"] + write))[:, [7, 8]]
        wanted = measure(logits, list(task.prompts), task.metric).numpy()
        close.append(np.abs(found.patched[row] - wanted).max() < 1e-12)
    # Frozen MLPs: so for every head. Live: for none, as the block's own MLP reads the change.
    assert close == [mlps == "frozen"] * 8


@pytest.mark.parametrize(
    ("receivers", "position", "sender"),
    [
        ("logits", None, "a2.h2"),
        (("a2.h2<q>",), "END", "a1.h2"),
        (("a1.h2<k>",), "S2", "a0.h3"),
        (("a2.h2<k>",), None, None),
        (("a1.h2<q>",), None, None),
    ],
)
def test_only_planted_edges_carry(receivers, position, sender):
    loaded = load("planted")
    found = path_patch(loaded, build("names", loaded, prompts=4, corruption="abc"), receivers, position=position)
    share = dict(zip(found.senders, found.normalised, strict=True))
    if sender is not None:
        assert share.pop(sender) > 0.9
    # Saturated heads: others change a score of some tens by the rounding of the stream, and the norm by a percent.
    assert max(map(abs, share.values())) < 0.02


def test_planted_circuits_show_their_edges_and_no_others():
    """Every edge from head to head or logits, with grouped keys and values: planted ones carry, others do not."""
    loaded, task, truth = load("planted-circuits"), planted_task("recall", prompts=4), planted_truth("recall")
    edges = {edge: sign for edge, sign in truth.edges.items() if edge[0] != "input" and edge[0][0] != "m"}
    for receiver in sorted({target for _, target in edges}):
        found = path_patch(loaded, task, receiver)
        share = dict(zip(found.senders, found.normalised, strict=True))
        for (source, target), sign in edges.items():
            if target == receiver:
                assert sign * share.pop(source) > EDGE, (source, target)
        # Others: what the norms' scale and a sleeping backup move.
        assert max(map(abs, share.values())) < 0.01, (receiver, share)


@pytest.mark.real
def test_on_a_real_model_inhibition_reaches_the_movers_through_their_queries():
    loaded = load("smollm2-135m")
    task = build("ioi", loaded, prompts=3)
    movers = [f"a23.h{head}<q>" for head in (0, 3, 7)]
    found = path_patch(loaded, task, movers, senders=("a20.h0", "a20.h3", "a19.h2", "a22.h0"), position="END")
    share = dict(zip(found.senders, found.normalised, strict=True))
    assert share["a20.h0"] > 0.1
    assert max(abs(share[name]) for name in ("a20.h3", "a22.h0")) < 0.02
    direct = path_patch(loaded, task, senders=("a20.h0", "a23.h3", "a24.h4"), position="END").normalised
    assert abs(direct[0]) < 0.05
    assert direct[1] > 0.3
    assert direct[2] < -0.1


def test_bad_requests_are_refused(model, make_task):
    task, loaded = make_task(2), load(model)
    with pytest.raises(ResultsError, match=r"no target 'a9\.h0<q>'"):
        path_patch(loaded, task, ("a9.h0<q>",))
    with pytest.raises(ResultsError, match=r"no source 'a0\.h7'"):
        path_patch(loaded, task, senders=("a0.h7",))
    with pytest.raises(TokensError, match="logits alone"):
        path_patch(loaded, task, ("logits", "a1.h0<q>"))
    with pytest.raises(TokensError, match="receiver m1"):
        path_patch(loaded, task, ("m1",))
    with pytest.raises(TokensError, match="sender m1"):
        path_patch(loaded, task, senders=("m1",))
    with pytest.raises(TokensError, match="no sender"):
        path_patch(loaded, task, senders=())
    with pytest.raises(TokensError, match="hold 'some'"):
        path_patch(loaded, task, hold="some")
    with pytest.raises(TokensError, match="mlps 'cold'"):
        path_patch(loaded, task, mlps="cold")
    with pytest.raises(TokensError, match="mlps live with hold nothing"):
        path_patch(loaded, task, mlps="frozen", hold="nothing")
    with pytest.raises(TokensError, match="no position 'END'"):
        path_patch(loaded, task, position="END")
    with pytest.raises(TokensError, match="position 9"):
        path_patch(loaded, task, position=9)
    with pytest.raises(TokensError, match="corrupted twins"):
        path_patch(loaded, make_task(2, twins=False))
    with pytest.raises(TokensError, match="neg_kl"):
        path_patch(loaded, make_task(2, metric="neg_kl"))
    same = replace(task, prompts=tuple(replace(p, corrupted_ids=p.clean_ids) for p in task.prompts))
    with pytest.raises(TokensError, match="are the same"):
        path_patch(loaded, same, senders=HEADS)
