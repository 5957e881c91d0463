"""Completeness and minimality: definitions on a random model; a planted circuit with and without its backup."""

from __future__ import annotations

from dataclasses import replace

import pytest

from probe.analyses.circuit_tests import completeness, minimality
from probe.analyses.head_runs import HeadRuns, halves
from probe.errors import TokensError
from probe.models import load
from probe.planted.circuits import planted_circuits, planted_task, planted_truth
from probe.tasks.build import build

CLOSE = 1e-12
"""float64 models of width 24: sums and batches differ by some hundred roundings of numbers of size 10."""
CIRCUIT = ((0, 1), (0, 2), (1, 3), (2, 0))


@pytest.fixture
def small(make_llama, make_task):
    """A random model and a task turned so that its heads speak for the right answer."""
    loaded, task = load(make_llama()), make_task(8)
    runs = HeadRuns(loaded, task)
    turned = [
        prompt if helps else replace(prompt, answer_ids=prompt.wrong_ids, wrong_ids=prompt.answer_ids)
        for prompt, helps in zip(task.prompts, runs.clean > runs.empty, strict=True)
    ]
    return runs.on(replace(task, prompts=tuple(turned)))


@pytest.fixture(scope="module")
def planted():
    truth = planted_truth("recall", shared=0)
    return HeadRuns(load(planted_circuits(0)), planted_task("recall", prompts=12)), truth


def without(members, removed):
    return [head for head in members if head not in removed]


def test_completeness_by_its_definition(small):
    groups = {"low": [(0, 1), (0, 3)], "elsewhere": [(1, 0)]}
    found = completeness(small, CIRCUIT, groups, draws=3, steps=2, seed=4)
    second = small.on(halves(small.task)[1])
    assert [(one.kind, one.name) for one in found][:5] == [
        ("none", ""), ("group", "low"), ("random", "0"), ("random", "1"), ("random", "2"),
    ]  # fmt: skip
    assert found[1].removed == ((0, 1),), "what is not in the circuit is left out"
    for one in found:
        alone = second.kept([without(CIRCUIT, one.removed)])[0]
        model = second.replaced([one.removed])[0]
        assert one.circuit == pytest.approx(alone.mean(), abs=CLOSE)
        assert one.model == pytest.approx(model.mean(), abs=CLOSE)
        assert one.difference.mean == pytest.approx((alone - model).mean(), abs=CLOSE)
        assert one.difference.share == pytest.approx((alone - model).mean() / (second.clean - second.empty).mean())
        assert one.difference.low <= one.difference.mean <= one.difference.high
    assert len({one.removed for one in found if one.kind == "random"}) > 1
    assert completeness(small, CIRCUIT, groups, draws=3, steps=2, seed=4) == found


def test_greedy_sets_widen_the_gap_on_the_other_half(small):
    found = [one for one in completeness(small, CIRCUIT, {}, draws=1, steps=3) if one.kind == "greedy"]
    first = small.on(halves(small.task)[0])

    def gap(removed):
        alone, model = first.kept([without(CIRCUIT, removed)]), first.replaced([removed])
        return abs(float((alone - model).mean()))

    path, widest = [], gap([])
    while len(path) < 3:
        gaps = {head: gap([*path, head]) for head in without(CIRCUIT, path)}
        best = max(gaps, key=lambda head: gaps[head])
        if gaps[best] <= widest:
            break
        path, widest = [*path, best], gaps[best]
    assert [one.removed for one in found] == [tuple(sorted(path[: step + 1])) for step in range(len(path))]


def test_minimality_by_its_definition(small):
    groups = {"low": [(0, 1), (0, 2)], "two": [(0, 2), (1, 3)]}
    found = minimality(small, CIRCUIT, groups, draws=0)
    first, second = (small.on(part) for part in halves(small.task))
    assert [one.head for one in found] == sorted(CIRCUIT)

    def loss(runs, head, removed):
        before, after = without(CIRCUIT, removed), without(CIRCUIT, [head, *removed])
        return (runs.kept([before]) - runs.kept([after]))[0]

    for one in found:
        options = {"none": ()} | {
            name: tuple(without(group, [one.head])) for name, group in groups.items() if one.head in group
        }
        sizes = {name: abs(loss(first, one.head, removed).mean()) for name, removed in options.items()}
        assert one.group == max(sizes, key=lambda name: sizes[name])
        assert one.removed == options[one.group]
        values = loss(second, one.head, one.removed)
        assert one.loss.mean == pytest.approx(values.mean(), abs=CLOSE)
        assert one.loss.low <= one.loss.mean <= one.loss.high
    assert len({one.group for one in found}) > 1


def test_a_circuit_without_its_backup_is_incomplete_where_the_mover_goes(planted):
    runs, truth = planted
    heads, (backup,) = tuple(truth.heads), truth.backups
    mover = truth.backups[backup]
    found = completeness(runs, heads, {"mover": [mover]}, draws=2, steps=1)
    by_kind = {one.kind: one for one in found}
    # Faithful to 2 %: bystanders' junk moves the norms' scale.
    assert abs(by_kind["none"].difference.share) < 0.02
    # The mover gives the model 1.4 of what it does, and the backup makes good half of that.
    assert by_kind["group"].difference.share == pytest.approx(-0.7, abs=0.05)
    assert by_kind["group"].difference.high < 0
    assert by_kind["greedy"].removed == (mover,), "the search finds what is missing"
    whole = completeness(runs, (*heads, backup), {"mover": [mover]}, draws=4, steps=2)
    assert max(abs(one.difference.share) for one in whole) < 0.02


def test_an_idle_head_is_worth_nothing_and_a_backup_only_beside_its_principal(planted):
    runs, truth = planted
    (backup,) = truth.backups
    mover, idle = truth.backups[backup], (0, 5)
    circuit = (*truth.heads, backup, idle)
    alone = {one.head: one for one in minimality(runs, circuit, {}, draws=0)}
    assert abs(alone[idle].loss.share) < 0.02
    assert abs(alone[backup].loss.share) < 0.02
    assert all(alone[head].loss.low > 0 for head in truth.carriers)
    assert all(alone[head].loss.high < 0 for head in truth.negatives)
    grouped = {one.head: one for one in minimality(runs, circuit, {"movers": [mover, backup]}, draws=2)}
    assert grouped[backup].removed == (mover,)
    assert grouped[backup].group == "movers"
    assert grouped[backup].loss.low > 0
    assert abs(grouped[idle].loss.share) < 0.02


def test_no_circuit_and_unknown_heads_are_refused(small):
    for test in (completeness, minimality):
        with pytest.raises(TokensError, match="a circuit with no head"):
            test(small, (), {})
        with pytest.raises(TokensError, match=r"a circuit with head \(9, 0\), which the model lacks"):
            test(small, [(9, 0)], {})
    with pytest.raises(TokensError, match="wanted two or more"):
        completeness(small.on(replace(small.task, prompts=small.task.prompts[:1])), CIRCUIT, {})


@pytest.mark.real
def test_of_the_strongest_ioi_heads_of_smollm2_alone_one_carries_most():
    """L23H3 speaks against S2 by itself; L19H2 and L20H0 feed heads that such a small circuit has not."""
    loaded = load("smollm2-135m")
    runs = HeadRuns(loaded, build("ioi", loaded, prompts=8))
    found = {one.head: one.loss for one in minimality(runs, [(23, 3), (20, 0), (29, 1), (19, 2)], {}, draws=1)}
    assert found[23, 3].low > 0
    assert found[23, 3].share > 0.3
    assert max(found, key=lambda head: found[head].share) == (23, 3)
