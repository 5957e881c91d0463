"""Patching against a plain loop over prompts, heads and places; both directions; what planted heads do where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from probe.analyses.activation_patching import activation_patch
from probe.errors import TokensError
from probe.hooks.spec import output_projection
from probe.models import load
from probe.running import Running
from probe.tasks.build import build
from probe.tasks.metrics import measure


def run(running, ids, prompt, metric, patch=None):
    """One prompt, one forward; patch: (layer, head, places, z of every layer [T, H, Dv]); also returns z."""
    held, handles = {}, []
    for site in running.sites:
        projection, weight = output_projection(running.model, site)

        def put(_module, inputs, layer=site.layer, shape=weight.shape[:2]):
            z = inputs[0].clone().unflatten(-1, shape)
            held[layer] = z[0].clone()
            if patch is not None and patch[0] == layer:
                z[0, patch[2], patch[1]] = patch[3][layer][patch[2], patch[1]]
            return (z.flatten(2),)

        handles.append(projection.register_forward_pre_hook(put))
    logits = running.model(torch.tensor([ids]), use_cache=False).logits[:, list(prompt.metric_positions)]
    for handle in handles:
        handle.remove()
    return float(measure(logits, [prompt], metric)[0]), held


def loop(running, task, heads, places, direction):
    result = np.zeros((len(heads), len(places), len(task.prompts)))
    for index, prompt in enumerate(task.prompts):
        base, other = prompt.clean_ids, prompt.corrupted_ids
        if direction == "denoising":
            base, other = other, base
        _, z = run(running, other, prompt, task.metric)
        for h, (layer, head) in enumerate(heads):
            for p, place in enumerate(places):
                result[h, p, index] = run(running, base, prompt, task.metric, (layer, head, place(prompt), z))[0]
    return result


@pytest.fixture(params=["llama", "gpt2"])
def model(request, make_llama, make_gpt2):
    return make_llama() if request.param == "llama" else make_gpt2()


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_equals_a_plain_loop(model, make_task, direction):
    task = make_task(3)
    named = [replace(p, positions={"A": 1 + n, "END": 8}) for n, p in enumerate(task.prompts)]
    task = replace(task, prompts=tuple(named))
    heads = [(0, 1), (1, 0), (1, 3)]
    found = activation_patch(load(model), task, heads=heads, positions=["A", 4, None, "END"], direction=direction)
    places = [lambda p: [p.positions["A"]], lambda _: [4], lambda _: list(range(9)), lambda _: [8]]
    wanted = loop(Running(model), task, heads, places, direction)
    # float64: a loop and a batch differ by some hundred roundings of numbers of size 10.
    np.testing.assert_allclose(found.patched, wanted, rtol=0, atol=1e-12)
    clean = [run(Running(model), p.clean_ids, p, task.metric)[0] for p in task.prompts]
    corrupted = [run(Running(model), p.corrupted_ids, p, task.metric)[0] for p in task.prompts]
    np.testing.assert_allclose(found.clean, clean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.corrupted, corrupted, rtol=0, atol=1e-12)
    sign = 1 if direction == "noising" else -1
    base = found.clean if direction == "noising" else found.corrupted
    np.testing.assert_allclose(found.effect, sign * (base - wanted), rtol=0, atol=1e-12)
    share = (wanted.mean(-1) - np.mean(corrupted)) / (np.mean(clean) - np.mean(corrupted))
    np.testing.assert_allclose(found.normalised, share, rtol=1e-9, atol=1e-11)
    assert np.ptp(wanted) > 0.1, "patching does something, so the comparison can fail"


def test_every_position_and_those_where_nothing_differs(model, make_task):
    task = make_task(3)  # twins differ at positions 1, 4 and 7 only
    found = activation_patch(load(model), task, heads=[(0, 0), (1, 2)], positions="every")
    assert found.places == tuple(range(9))
    first = min(a for p in task.prompts for a in range(9) if p.clean_ids[a] != p.corrupted_ids[a])
    assert np.array_equal(found.effect[:, :first], np.zeros((2, first, 3)))
    assert (np.abs(found.effect[0, first:]).max(-1) > 0).any()
    everything = loop(Running(model), task, [(0, 0), (1, 2)], [lambda _, a=a: [a] for a in range(9)], "noising")
    np.testing.assert_allclose(found.patched, everything, rtol=0, atol=1e-12)


def test_planted_carriers_act_where_they_were_planted():
    loaded = load("planted")
    task = build("names", loaded, prompts=3, corruption="abc")
    # The duplicate head marks S2; inhibition and mover read and write at END. Each is needed, so that taking one away
    # breaks the chain; among the twin's three different names none of the chain but its last link is of any use.
    chain = {((0, 3), "S2"), ((1, 2), "END"), ((2, 2), "END")}
    for direction, wanted in (("noising", chain), ("denoising", {((2, 2), "END")})):
        found = activation_patch(loaded, task, direction=direction)
        effect = found.effect.mean(-1)
        scale = found.clean.mean() - found.corrupted.mean()
        acting = {(found.heads[h], found.places[p]) for h, p in zip(*np.nonzero(effect > 0.5 * scale), strict=True)}
        assert acting == wanted
        others = [
            effect[h, p] for h, head in enumerate(found.heads) for p, place in enumerate(found.places)
            if (head, place) not in chain
        ]  # fmt: skip
        # The induction head finds the second copy at S2 too; what it writes moves the norms' scale by a few percent.
        assert max(map(abs, others)) < 0.05 * scale
        end = found.normalised[found.heads.index((2, 2)), found.places.index("END")]
        assert end == pytest.approx(0 if direction == "noising" else 1, abs=0.02)


def test_bad_requests_are_refused(model, make_task):
    loaded, task = load(model), make_task(2)
    with pytest.raises(TokensError, match="direction 'up'"):
        activation_patch(loaded, task, positions=[1], direction="up")
    with pytest.raises(TokensError, match="name no position in common"):
        activation_patch(loaded, task)
    with pytest.raises(TokensError, match="no position 'S2'"):
        activation_patch(loaded, task, positions=["S2"])
    with pytest.raises(TokensError, match="position 9; wanted 0 to 8"):
        activation_patch(loaded, task, positions=[9])
    with pytest.raises(TokensError, match="positions 'S2'; wanted a list"):
        activation_patch(loaded, task, positions="S2")
    with pytest.raises(TokensError, match="no unit 'L9H0'"):
        activation_patch(loaded, task, heads=[(9, 0)], positions=[1])
    with pytest.raises(TokensError, match="corrupted twins"):
        activation_patch(loaded, make_task(2, twins=False), positions=[1])
    with pytest.raises(TokensError, match="neg_kl"):
        activation_patch(loaded, make_task(2, metric="neg_kl"), positions=[1])
    same = replace(task, prompts=tuple(replace(p, corrupted_ids=p.clean_ids) for p in task.prompts))
    with pytest.raises(TokensError, match="are the same"):
        activation_patch(loaded, same, positions=[1])


@pytest.mark.real
def test_on_a_real_model_induction_acts_at_s2_and_inhibition_at_the_end():
    loaded = load("smollm2-135m")
    task = build("ioi", loaded, prompts=3)
    found = activation_patch(loaded, task, heads=[(17, 4), (20, 0), (20, 3)])
    share = dict(zip(found.places, found.normalised.T, strict=True))
    # 1: nothing taken away. Before S2 the twins are one.
    assert all(share[place] == pytest.approx(1) for place in ("IO", "S1", "S1+1"))
    assert share["S2"][0] < 0.8
    assert share["END"][1] < 0.8
    assert abs(1 - np.array([share["END"][0], share["S2"][1], share["S2"][2], share["END"][2]])).max() < 0.05
