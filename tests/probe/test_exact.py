"""The exact way against a plain loop that hooks one head at a time on whole forwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from probe.analyses import exact
from probe.analyses.exact import ExactSweep, Where
from probe.analyses.means import observe
from probe.analyses.replacement import replacement
from probe.analyses.units import set_unit, units_of
from probe.errors import TokensError
from probe.hooks.spec import output_projection
from probe.running import Running
from probe.tasks.metrics import measure
from probe.tasks.task import clean_ids, corrupted_ids

ALL = slice(None)


def plain_loop(running, task, heads, value=None, positions=None):
    """The metric with z of `heads` set to `value[layer]` [N, H, T, Dv] (0 without), prompt by prompt, hook by hook."""
    result = []
    for index, prompt in enumerate(task.prompts):
        handles = []
        for site in running.sites:
            chosen = [head for layer, head in heads if layer == site.layer]
            projection, weight = output_projection(running.model, site)
            width = weight.shape[1]

            def put(_module, inputs, chosen=chosen, width=width, layer=site.layer, index=index, prompt=prompt):
                changed = inputs[0].clone()
                places = slice(None) if positions is None else [prompt.positions[positions]]
                for head in chosen:
                    new = 0 if value is None else value[layer][index, head][places]
                    changed[0, places, head * width : (head + 1) * width] = new
                return (changed,)

            handles.append(projection.register_forward_pre_hook(put))
        with torch.no_grad():
            logits = running.model(clean_ids([prompt]), use_cache=False).logits[:, list(prompt.metric_positions)]
        for handle in handles:
            handle.remove()
        result.append(float(measure(logits, [prompt], task.metric)[0]))
    return np.array(result)


@pytest.fixture(params=["llama", "gpt2"])
def running(request, make_llama, make_gpt2):
    return Running(make_llama() if request.param == "llama" else make_gpt2())


# float64 models of width 24 to 32: a loop and a batch differ by some hundred roundings of numbers of size 10.
CLOSE = 1e-12


def test_zero_equals_the_plain_loop(running, make_task):
    task = make_task(4)
    sweep, units = ExactSweep(running, task), units_of(running)
    assert sweep.shares
    found = sweep.ablated(units, replacement(running, task, "zero"), ALL)
    wanted = np.stack([plain_loop(running, task, unit.heads) for unit in units])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(sweep.clean(ALL), plain_loop(running, task, []), rtol=0, atol=CLOSE)
    assert np.ptp(wanted) > 0.1, "removal does something, so the comparison can fail"


def test_resampling_groups_layers_and_sets(running, make_task):
    task = make_task(4)
    kept = {}
    observe(running, corrupted_ids(task.prompts), lambda call, z, _: kept.update({call.site.layer: z.clone()}))
    units = [*units_of(running, "kv_group"), *units_of(running, "layer"), set_unit("two", [(0, 1), (1, 3)])]
    found = ExactSweep(running, task).ablated(units, replacement(running, task, "resample"), ALL)
    wanted = np.stack([plain_loop(running, task, unit.heads, kept) for unit in units])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE)


def test_a_shared_prefix_changes_nothing_and_neither_do_batches(running, make_task, monkeypatch):
    task, units = make_task(5), units_of(running)
    made = replacement(running, task, "mean_all")
    shared = ExactSweep(running, task).ablated(units, made, ALL)
    whole = ExactSweep(running, task, share_prefix=False).ablated(units, made, ALL)
    # Not to the bit: BLAS sums a row in another order in a batch of another size.
    np.testing.assert_allclose(shared, whole, rtol=0, atol=CLOSE)
    # One unit and one prompt at a time.
    monkeypatch.setattr(exact, "BATCH_TOKENS", 1)
    single = ExactSweep(running, task).ablated(units, made, ALL)
    np.testing.assert_allclose(single, shared, rtol=0, atol=CLOSE)


def test_what_does_not_fit_is_computed_again_and_gives_the_same(running, make_task, monkeypatch):
    task, units = make_task(5), units_of(running)
    made = replacement(running, task, "zero")
    whole = ExactSweep(running, task).ablated(units, made, ALL)
    monkeypatch.setattr(exact, "PREFIX_BYTES", 1)
    monkeypatch.setattr(exact, "BATCH_TOKENS", 5 * task.length)
    np.testing.assert_allclose(ExactSweep(running, task).ablated(units, made, ALL), whole, rtol=0, atol=CLOSE)


def test_positions_by_name_are_resolved_for_every_prompt(running, make_task):
    task = make_task(4)
    named = tuple(replace(p, positions={"X": 2 + i}) for i, p in enumerate(task.prompts))
    task = replace(task, prompts=named)
    units = units_of(running)
    found = ExactSweep(running, task, Where("X")).ablated(units, replacement(running, task, "zero"), ALL)
    wanted = np.stack([plain_loop(running, task, unit.heads, positions="X") for unit in units])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE)
    with pytest.raises(TokensError, match=r"no position 'S2' .* it has: X"):
        ExactSweep(running, task, Where("S2")).ablated(units[:1], replacement(running, task, "zero"), ALL)


def test_a_stretch_of_prompts_is_that_part_of_the_whole(running, make_task):
    task, units = make_task(5), units_of(running)
    made = replacement(running, task, "resample")
    sweep = ExactSweep(running, task)
    whole = sweep.ablated(units, made, ALL)
    np.testing.assert_allclose(sweep.ablated(units[::-1], made, slice(2, 4)), whole[::-1, 2:4], rtol=0, atol=CLOSE)


def test_heads_given_are_gone_in_every_run(running, make_task):
    task = make_task(3)
    made, units = replacement(running, task, "zero"), units_of(running)
    sweep = ExactSweep(running, task, given=((0, 2),))
    np.testing.assert_allclose(sweep.clean(ALL, made), plain_loop(running, task, [(0, 2)]), rtol=0, atol=CLOSE)
    wanted = np.stack([plain_loop(running, task, {*unit.heads, (0, 2)}) for unit in units])
    np.testing.assert_allclose(sweep.ablated(units, made, ALL), wanted, rtol=0, atol=CLOSE)


def test_prefill_and_decoding_touch_what_comes_before_and_after_the_first_judged_token(make_llama, make_task):
    running, task = Running(make_llama()), make_task(3)
    units, first = units_of(running), task.prompts[0].metric_positions[0]
    made = replacement(running, task, "zero")
    by_phase = {phase: ExactSweep(running, task, Where(phase=phase)).ablated(units, made, ALL)
                for phase in ("prefill", "decode")}  # fmt: skip
    for phase, places in (("prefill", range(first)), ("decode", range(first, task.length))):
        whole = ExactSweep(running, task, Where(tuple(places))).ablated(units, made, ALL)
        np.testing.assert_allclose(by_phase[phase], whole, rtol=0, atol=CLOSE)
    assert np.abs(by_phase["prefill"] - by_phase["decode"]).max() > 0.1


def test_neg_kl_is_measured_from_the_clean_run(running, make_task):
    task = make_task(3, metric="neg_kl")
    sweep = ExactSweep(running, task)
    assert np.array_equal(sweep.clean(ALL), np.zeros(3))
    found = sweep.ablated(units_of(running), replacement(running, task, "zero"), ALL)
    assert (found < 0).all()


def test_cost_is_the_blocks_from_the_edited_one_up(running, make_task):
    sweep, units = ExactSweep(running, make_task(2)), units_of(running)
    depth = len(running.sites)
    assert sum(map(sweep.cost, units)) == running.n_heads * depth * (depth + 1) / 2
    assert ExactSweep(running, make_task(2), share_prefix=False).cost(units[-1]) == depth
