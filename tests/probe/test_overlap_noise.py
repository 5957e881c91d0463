"""Circuits found again from resampled prompts: against a plain loop, and on planted sets."""

from __future__ import annotations

import numpy as np
import pytest

from probe.analyses.overlap_noise import noise
from probe.circuits.circuit import PromptScores
from probe.circuits.graph import head_of
from probe.errors import ResultsError
from probe.statistics import resample_counts

A, B = [(0, 1), (1, 0), (2, 3)], [(0, 1), (1, 2), (2, 2), (2, 3)]


def planted_scores(circuit, size: float, seed: int, prompts: int = 40) -> PromptScores:
    """Members score `size` on average, all with a prompt-to-prompt deviation of 1; other parts at random."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(circuit.graph.sources), prompts))
    for row, name in enumerate(circuit.graph.sources):
        values[row] += size * (head_of(name) in circuit.heads)
    return PromptScores(values)


@pytest.fixture
def pair(make_small_circuit):
    return (
        make_small_circuit(A, prompts=40),
        make_small_circuit(B, prompts=40, task="greater_than", prompts_sha256="1" * 64),
    )


def picked(circuit, scores: PromptScores, counts: np.ndarray) -> set[str]:
    """The heads of the largest weighted sum by size, one resample."""
    total = {name: (scores.values[circuit.graph.source(name)] * counts).sum() for name in circuit.graph.heads}
    return set(sorted(total, key=lambda name: -abs(total[name]))[: len(circuit.heads)])


@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_is_that_of_a_plain_loop(pair, grouped):
    a, b = pair
    labels = tuple(f"g{number // 3}" for number in range(40)) if grouped else None
    one, other = (PromptScores(planted_scores(c, 0.3, seed).values, labels) for seed, c in enumerate(pair))
    found = noise(a, b, one, other, resamples=200, seed=3)
    draws = [resample_counts(40, groups=labels, resamples=200, seed=seed) for seed in (6, 7)]
    shared = [len(picked(a, one, draws[0][row]) & picked(b, other, draws[1][row])) for row in range(200)]
    assert found.mean == np.mean(shared)
    assert (found.low, found.high) == tuple(np.quantile(shared, [0.025, 0.975]))
    assert len(set(shared)) > 1, "scores this weak are picked otherwise now and then"
    mine = [picked(a, one, draws[0][row]) for row in range(200)]
    assert found.self_a == np.mean([len(mine[row] & mine[row - 1]) for row in range(200)])
    everyone = np.ones(40)
    again = picked(a, one, everyone), picked(b, other, everyone)
    assert found.again == len(again[0] & again[1])
    assert found.kept_a == len(again[0] & {"a0.h1", "a1.h0", "a2.h3"})
    assert found.bias == found.mean - found.again


def test_plain_circuits_keep_their_true_overlap(pair):
    a, b = pair
    # Members stand three deviations above the rest: a mean of 40 prompts puts 13 standard errors between them.
    found = noise(a, b, planted_scores(a, 3, 0), planted_scores(b, 3, 1), resamples=500, seed=0)
    assert (found.low, found.high, found.again, found.kept_a, found.kept_b) == (2, 2, 2, 3, 4)
    assert (found.self_a, found.self_b) == (3, 4)


def test_noise_widens_the_interval(pair):
    a, b = pair
    widths = []
    for size in (3, 0.5, 0.2):
        found = noise(a, b, planted_scores(a, size, 0), planted_scores(b, size, 1), resamples=500, seed=0)
        widths.append(found.high - found.low)
    assert widths == sorted(widths)
    assert widths[0] == 0 < widths[2]


def test_resampling_takes_from_what_is_shared(make_small_circuit):
    # The same true circuit twice, weakly seen on other prompts: resampled circuits are noisier than those from all
    # prompts, so they share less; the bias says so.
    heads = [(layer, head) for layer in range(10) for head in (0, 1)]
    a = make_small_circuit(heads, n_layers=10, prompts=40)
    b = make_small_circuit(heads, n_layers=10, prompts=40, prompts_sha256="1" * 64)
    found = [
        noise(a, b, planted_scores(a, 0.5, 2 * seed), planted_scores(b, 0.5, 2 * seed + 1), resamples=300, seed=0)
        for seed in range(8)
    ]
    assert np.mean([one.bias for one in found]) < -0.5
    # Two resamples of one circuit share less than two sets of prompts, which share less than all 20.
    assert np.mean([one.self_a for one in found]) < np.mean([one.again for one in found]) < 20


def test_the_same_prompts_are_drawn_together(make_small_circuit):
    a = make_small_circuit(A, prompts=40)
    b = make_small_circuit(A, prompts=40, method="exact")
    scores = planted_scores(a, 0.2, 0)
    together = noise(a, b, scores, scores, resamples=200, seed=0)
    assert (together.low, together.high, together.bias) == (3, 3, 0)
    other = make_small_circuit(A, prompts=40, prompts_sha256="1" * 64)
    assert noise(a, other, scores, scores, resamples=200, seed=0).bias < 0


def test_heads_that_hurt_are_found_again_by_the_size_of_their_score(make_small_circuit):
    weight = np.zeros(12)
    weight[[1, 4, 11]] = 2, -3, 1
    a = make_small_circuit(A, prompts=40, scores=weight)
    values = np.zeros((16, 40))
    for name, value in zip(a.graph.heads, weight, strict=True):
        values[a.graph.source(name)] = value
    found = noise(a, a, PromptScores(values), PromptScores(values), resamples=20, seed=0)
    assert (found.kept_a, found.again) == (3, 3)


def test_scores_of_another_shape_are_refused(pair):
    a, b = pair
    with pytest.raises(ResultsError, match=r"scores of greater_than have shape \[16, 39\]; wanted \[16, 40\]"):
        noise(a, b, planted_scores(a, 1, 0), planted_scores(b, 1, 1, prompts=39), resamples=9, seed=0)
