"""Faithfulness of head circuits: its definition, its fixed points, and a planted circuit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from probe.analyses.faithfulness import carried, faithfulness
from probe.analyses.head_faithfulness import head_curve, random_circuits
from probe.analyses.head_runs import HeadRuns
from probe.errors import TokensError
from probe.models import load
from probe.tasks.build import build


def helped_by_heads(loaded, task):
    """The task with right and wrong exchanged where the heads speak for the wrong one."""
    runs = HeadRuns(loaded, task)
    turned = [
        prompt if helps else replace(prompt, answer_ids=prompt.wrong_ids, wrong_ids=prompt.answer_ids)
        for prompt, helps in zip(task.prompts, runs.clean > runs.empty, strict=True)
    ]
    return replace(task, prompts=tuple(turned))


@pytest.fixture
def runs(make_llama, make_task):
    loaded = load(make_llama())
    return HeadRuns(loaded, helped_by_heads(loaded, make_task(5)))


def test_faithfulness_is_a_ratio_of_means(runs):
    circuits = [runs.heads[3:8], [(1, 2)], runs.heads, ()]
    found = faithfulness(runs, circuits)
    m = runs.kept(circuits).mean(axis=1)
    # A handful of float64 roundings of numbers below 100.
    np.testing.assert_allclose(found.mean, (m - runs.empty.mean()) / (runs.clean - runs.empty).mean(), atol=1e-13)
    assert found.mean[2:].tolist() == [1, 0]
    assert found.low[2:].tolist() == found.high[2:].tolist() == [1, 0]
    assert (found.low[:2] < found.mean[:2]).all()
    assert (found.mean[:2] < found.high[:2]).all()
    ratios = (runs.kept(circuits)[0] - runs.empty) / (runs.clean - runs.empty)
    assert abs(ratios.mean() - found.mean[0]) > 1e-3, "no mean of ratios"


def test_a_curve_of_heads_and_random_ones(runs):
    order = list(runs.heads[::-1])
    points = head_curve(runs.loaded, runs.task, order, sizes=(1, 3, 50), random_draws=4, seed=1, runs=runs)
    assert [(point.arm, point.count) for point in points] == [
        ("heads", 1), ("heads", 3), ("heads", 12), ("random_heads", 1), ("random_heads", 3),
    ]  # fmt: skip
    assert points[1].faithfulness == faithfulness(runs, [order[:3]]).mean[0]
    assert points[2].faithfulness == points[2].low == points[2].high == 1
    values = faithfulness(runs, random_circuits(runs, order[:3], 4, seed=1)).mean
    assert (points[4].low, points[4].high) == (values.min(), values.max())
    assert points[4].faithfulness == pytest.approx(values.mean(), abs=1e-12)
    again = HeadRuns(runs.loaded, runs.task)
    assert head_curve(runs.loaded, runs.task, order, sizes=(1, 3), random_draws=4, seed=1, runs=again) == points


def test_random_circuits_have_the_layers_of_the_circuit(runs):
    circuit = [(0, 1), (0, 2), (0, 3), (2, 0)]
    drawn = set(random_circuits(runs, circuit, 200))
    assert all(Counter(layer for layer, _ in one) == {0: 3, 2: 1} for one in drawn)
    # 4 ways to leave one of four out, 4 heads of layer 2: each of 16 is missed by 200 draws once in 400,000.
    assert len(drawn) == 16
    assert tuple(circuit) in drawn
    assert random_circuits(runs, circuit, 3, seed=1) != random_circuits(runs, circuit, 3, seed=2)


def test_what_has_nothing_to_be_faithful_to_is_refused(runs):
    backwards = replace(runs.task, prompts=tuple(
        replace(prompt, answer_ids=prompt.wrong_ids, wrong_ids=prompt.answer_ids) for prompt in runs.task.prompts
    ))  # fmt: skip
    with pytest.raises(TokensError, match="wanted it clearly lower there"):
        carried(runs.on(backwards))
    same = replace(runs.task, prompts=tuple(replace(p, corrupted_ids=p.clean_ids) for p in runs.task.prompts))
    with pytest.raises(TokensError, match="its corrupted twins are the prompts themselves"):
        carried(runs.on(same))
    with pytest.raises(TokensError, match="an order of 2 heads; wanted each of 12 once"):
        head_curve(runs.loaded, runs.task, runs.heads[:2])
    with pytest.raises(TokensError, match="wanted 1 or more each"):
        head_curve(runs.loaded, runs.task, runs.heads, sizes=(0, 2))


@pytest.mark.real
def test_a_few_heads_of_smollm2_do_ioi_and_random_ones_do_not():
    loaded = load("smollm2-135m")
    runs = HeadRuns(loaded, build("ioi", loaded, prompts=8))
    # Those whose single removal costs most, as `ablate` finds them.
    known = [(23, 3), (20, 0), (29, 1), (17, 4), (19, 2)]
    order = [*known, *(head for head in runs.heads if head not in known)]
    ranked, everything, random = head_curve(loaded, runs.task, order, sizes=(5,), random_draws=5, runs=runs)
    assert everything.faithfulness == 1
    assert ranked.low > random.high
    assert ranked.low > 0.5
