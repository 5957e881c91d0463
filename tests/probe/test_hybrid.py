"""The race on invented effects whose truth is known: how often its certain answer is right, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest

from probe.analyses.gradient import gradient
from probe.analyses.hybrid import hybrid
from probe.analyses.workbench import Workbench
from probe.errors import TokensError
from probe.models import load
from probe.tasks.build import build

LAYERS, HEADS, PROMPTS = 30, 4, 64
COSTS = np.repeat(np.arange(LAYERS, 0, -1.0), HEADS)


def world(seed, *, noise="normal", wrong=True):
    """Estimates and exact effects [120, 64]: a few strong units, many weak ones, errors that grow with both.

    noise: of effects and errors over prompts, "normal" or "heavy" (Student's t, 3 degrees). wrong: one strong
    unit's estimates say that it does nothing.
    """
    rng = np.random.default_rng(seed)
    units = len(COSTS)

    def draw(*shape):
        return rng.normal(size=shape) if noise == "normal" else rng.standard_t(3, size=shape)

    mean = 0.03 * rng.standard_t(1.5, size=units)
    mean = np.clip(mean, -2, 2)
    estimates = mean[:, None] + (0.5 * np.abs(mean) + 0.02)[:, None] * draw(units, PROMPTS)
    size = np.sqrt(np.square(estimates).mean(1))
    bias = 0.3 * size * rng.standard_t(3, size=units)
    spread = 0.2 * size * np.exp(rng.normal(0, 0.7, units)) * np.sqrt(COSTS / LAYERS)
    effects = estimates + bias[:, None] + spread[:, None] * draw(units, PROMPTS)
    if wrong:
        unit = int(rng.integers(units // 2))
        effects[unit] = 1.0 + 0.8 * draw(PROMPTS)
        estimates[unit] = -0.05 + 0.05 * draw(PROMPTS)
    return estimates, effects


def strongest(effects, top=10):
    return set(np.argsort(-np.abs(effects.mean(1)), kind="stable")[:top].tolist())


def measuring(effects, asked=None):
    """The callback, noting what it is asked in `asked`."""

    def measure(units, prompts):
        if asked is not None:
            asked.append((list(units), prompts))
        return effects[units][:, prompts]

    return measure


def run(estimates, effects, **options):
    return hybrid(estimates, measuring(effects), costs=COSTS, **options)


@pytest.mark.parametrize("noise", ["normal", "heavy"])
def test_certain_answers_are_right_as_often_as_they_say(noise):
    right, missed, cost = [], [], []
    for seed in range(25):
        estimates, effects = world(seed, noise=noise)
        found = run(estimates, effects, seed=seed)
        assert found.certain
        right.append(set(found.top) == strongest(effects))
        missed.append(strongest(estimates) != strongest(effects))
        cost.append(found.layer_forwards)
    # A right answer is wrong in at most 1 of 20: 5 or more of 25 have a probability of 0.7 %.
    assert sum(right) >= 21
    # The question is not empty: the estimates alone have the wrong top ten nearly always.
    assert sum(missed) >= 20
    assert np.mean(cost) < COSTS.sum() / 4


@pytest.mark.full
@pytest.mark.parametrize("noise", ["normal", "heavy"])
def test_certain_answers_are_right_as_often_as_they_say_in_many_worlds(noise):
    right = []
    for seed in range(300):
        estimates, effects = world(1_000 + seed, noise=noise)
        right.append(set(run(estimates, effects, seed=seed).top) == strongest(effects))
    # 95 % of 300, less three binomial standard errors of 1.26 %.
    assert np.mean(right) > 0.95 - 3 * 0.0126


def test_a_unit_whose_estimate_is_wrong_is_found():
    """Its estimates put it among the weakest; two prompts of everything show that it is not."""
    for seed in range(10):
        estimates, effects = world(seed)
        quiet = np.abs(estimates.mean(1) - effects.mean(1)).argmax()
        assert quiet not in strongest(estimates)
        assert quiet in run(estimates, effects, seed=seed).top


def test_what_it_reports_is_what_it_measured():
    estimates, effects = world(3)
    asked = []
    found = hybrid(estimates, measuring(effects, asked), costs=COSTS, seed=5)
    measured = np.zeros(effects.shape, dtype=int)
    for units, prompts in asked:
        measured[np.array(units)[:, None], np.arange(PROMPTS)[prompts]] += 1
    assert measured.max() == 1, "nothing is measured twice"
    assert np.array_equal(~np.isnan(found.effects), measured == 1)
    assert np.array_equal(found.effects[measured == 1], effects[measured == 1])
    assert found.layer_forwards == pytest.approx((measured.sum(1) * COSTS).sum() / PROMPTS)
    assert (measured.sum(1) >= 2).all()
    top = list(found.top)
    assert (measured[top] == 1).all()
    assert np.array_equal(found.mean[top], effects[top].mean(1))
    assert np.array_equal(found.low[top], found.high[top])
    assert sorted(top, key=lambda unit: -abs(effects[unit].mean())) == top
    others = [unit for unit in range(len(COSTS)) if measured[unit].sum() < PROMPTS]
    assert (found.low[others] < found.high[others]).all()


def test_equal_inputs_give_equal_results():
    estimates, effects = world(4)
    one, two, other = (run(estimates, effects, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.effects, two.effects, equal_nan=True)
    assert (one.top, one.doubt, one.layer_forwards) == (two.top, two.doubt, two.layer_forwards)
    assert not np.array_equal(one.effects, other.effects, equal_nan=True)


def test_right_estimates_cost_little_more_than_the_screening():
    _, effects = world(5, wrong=False)
    found = run(effects, effects)
    assert found.certain
    top = COSTS[list(found.top)].sum()
    # Two prompts of all, the top on all; errors of exactly 0 leave no doubt.
    assert found.layer_forwards <= COSTS.sum() * 2 / PROMPTS + top
    assert found.rounds == 2


def test_useless_estimates_cost_at_most_the_sweep_and_are_still_right():
    estimates, effects = world(6)
    found = run(np.random.default_rng(0).permutation(estimates), effects)
    assert found.certain
    assert set(found.top) == strongest(effects)
    assert found.layer_forwards <= COSTS.sum()


def test_more_screening_finds_what_matters_on_few_prompts():
    """A unit that does something on a quarter of the prompts, of which its estimates say nothing.

    None of them is among 2 screened prompts with probability 0.75² = 56 %, among 16 with 1 %.
    """
    found = {2: 0, 16: 0}
    for seed in range(10):
        estimates, effects = world(seed, wrong=False)
        rng = np.random.default_rng(seed)
        effects[7] = np.where(np.arange(PROMPTS) % 4 == 0, 4.0, 0.0) + 0.01 * rng.normal(size=PROMPTS)
        estimates[7] = 0.01 * rng.normal(size=PROMPTS)
        for screening in found:
            found[screening] += 7 in run(estimates, effects, seed=seed, screening=screening).top
    assert found[16] >= 9
    assert found[2] < found[16], "the limit that the docstring states"


def test_indistinguishable_units_are_measured_out():
    """Units 9 and 10 differ by little on every prompt: only all prompts tell."""
    estimates, effects = world(7, wrong=False)
    order = np.argsort(-np.abs(effects.mean(1)))
    tenth, next_one = order[9], order[10]
    effects[next_one] = effects[tenth] * (1 - 1e-9)
    found = run(estimates, effects)
    assert found.certain
    assert tenth in found.top
    assert next_one not in found.top
    assert not np.isnan(found.effects[[tenth, next_one]]).any()


def test_a_budget_is_kept_and_the_doubt_said():
    estimates, effects = world(8)
    screening = COSTS.sum() * 2 / PROMPTS
    found = run(estimates, effects, budget=screening + 5)
    assert not found.certain
    assert found.doubt > 0.05
    assert found.layer_forwards <= screening + 5
    assert run(estimates, effects, budget=1e9).certain


def test_few_prompts_are_all_measured():
    estimates, effects = world(9)
    found = run(estimates[:, :2], effects[:, :2])
    assert found.certain
    assert set(found.top) == strongest(effects[:, :2])
    assert found.layer_forwards == COSTS.sum()
    assert found.doubt == 0


def test_ties_go_to_the_first_unit():
    """Twelve units of exactly one effect: the first ten, as in a stable sort of the full sweep."""
    effects = np.zeros((len(COSTS), PROMPTS))
    effects[20:32] = np.random.default_rng(0).normal(1, 0.1, PROMPTS)
    found = run(effects + np.random.default_rng(1).normal(0, 0.01, effects.shape), effects)
    assert found.certain
    assert set(found.top) == set(range(20, 30))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top": 120}, "the 120 strongest of 120 units"),
        ({"top": 0}, "the 0 strongest"),
        ({"confidence": 1.0}, "confidence 1.0"),
        ({"screening": 1}, "1 of them at first"),
        ({"costs": np.ones(3)}, "costs of shape"),
        ({"costs": np.zeros(120)}, "positive"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    estimates, effects = world(0)
    with pytest.raises(TokensError, match=message):
        hybrid(estimates, measuring(effects), **{"costs": COSTS, **change})


def test_values_that_are_not_finite_are_refused():
    estimates, effects = world(0)
    broken = estimates.copy()
    broken[3, 3] = np.nan
    with pytest.raises(TokensError, match="estimates that are not finite"):
        run(broken, effects)
    effects[5] = np.inf
    with pytest.raises(TokensError, match="unit 5 has an effect that is not finite"):
        run(estimates, effects)
    with pytest.raises(TokensError, match="1 prompts"):
        run(estimates[:, :1], effects[:, :1])


@pytest.mark.real
@pytest.mark.full
def test_on_a_real_model_it_is_the_sweep_for_a_tenth():
    """SmolLM2, IOI, 64 prompts, mean ablation, 270 heads: the same ten, the gradient's own cost counted."""
    loaded = load("smollm2-135m")
    task = build("ioi", loaded, prompts=64)
    bench = Workbench(loaded, task)
    made, every = bench.replacement("mean"), slice(0, 64)
    clean = bench.sweep.clean(every)
    exact = clean - bench.sweep.ablated(bench.units, made, every)
    estimated = gradient(loaded.model, task, every, lambda layer: made.rule(layer, every))
    costs = np.array([bench.sweep.cost(unit) for unit in bench.units])

    def measure(units, prompts):
        removed = bench.sweep.ablated([bench.units[unit] for unit in units], made, prompts)
        return clean[None, prompts] - removed

    found = hybrid(estimated.z.reshape(270, 64), measure, costs=costs)
    assert found.certain
    assert set(found.top) == strongest(exact)
    assert costs.sum() / (found.layer_forwards + estimated.layer_forwards) >= 10
    # Batches of another size round differently: float32, effects of the order of 1.
    assert np.abs(found.effects - exact)[~np.isnan(found.effects)].max() < 1e-3
