"""The whole study: planted circuits are found, the shuffled twin shows nothing, the real model is sensible."""

from __future__ import annotations

import numpy as np
import pytest

from probe.analyses.ablation import ablate
from probe.analyses.methods import clean_scores, effects, removed
from probe.analyses.removal import RemovalPlan
from probe.analyses.units import set_unit
from probe.analyses.workbench import Workbench, here
from probe.errors import TokensError
from probe.models import load
from probe.tasks.build import build
from probe.tasks.task import Prompt, Task

PREVIOUS, INDUCTION, NEGATIVE, BACKUP = (0, 0), (1, 0), (1, 1), (2, 0)
DUPLICATE, INHIBITION, MOVER = (0, 3), (1, 2), (2, 2)


@pytest.fixture(scope="module")
def planted():
    return load("planted")


def mean_effect(found, head):
    units = [unit.heads[0] for unit in found.effects.units]
    return float(found.effects.effect[units.index(head)].mean())


@pytest.fixture(scope="module")
def first_pass(planted):
    return ablate(planted, "induction", metric="logit_diff", mode="zero", prompts=10,
                  curve=RemovalPlan(ks=(1, 2, 4), draws=4, prompts=6))  # fmt: skip


def test_the_carriers_come_first_and_the_negative_head_has_the_other_sign(first_pass):
    top = first_pass.top(3)
    assert list(top["name"]) == ["L0H0", "L1H0", "L1H1"]
    assert list(top["effect"] > 0) == [True, True, False]
    assert (top["effect_q"] < 0.05).all()
    assert (top["effect_low"] * top["effect_high"] > 0).all()


def test_the_backup_makes_good_half_and_shows_in_a_second_pass_only(planted, first_pass):
    second = ablate(planted, "induction", metric="logit_diff", mode="zero", method="exact", prompts=10,
                    given=[INDUCTION], curve=None)  # fmt: skip
    assert second.top(1)["name"][0] == "L2H0"
    # Strength 1 of the induction head, 0.5 of the backup, −0.3 of the negative head (planted_heads): without the
    # induction head half of its 1 comes back; the codes' gain changes by some 2 % with the stream's norm.
    assert mean_effect(first_pass, INDUCTION) == pytest.approx(mean_effect(second, BACKUP), rel=0.05)
    assert abs(mean_effect(first_pass, BACKUP)) < 0.01 * mean_effect(first_pass, INDUCTION)


def test_a_mean_keeps_the_backup_asleep(planted):
    found = ablate(planted, "induction", metric="logit_diff", mode=("mean", "zero"), method="exact", prompts=8,
                   curve=None)  # fmt: skip
    by_mean, by_zero = (one.effect.mean(1) for one in found.study.effects)
    index = [unit.heads[0] for unit in found.effects.units].index(INDUCTION)
    # The mean keeps the flag that tells the backup to rest: the whole loss, not half of it (PLANTED, pitfall 1).
    assert by_mean[index] == pytest.approx(2 * by_zero[index], rel=0.05)


def test_names_need_their_three_heads_and_nobody_else(planted):
    found = ablate(planted, "names", mode="mean", method=("exact", "gradient"), prompts=10, curve=None)
    assert set(found.top(3)["name"]) == {"L0H3", "L1H2", "L2H2"}
    clean = found.effects.clean.mean()
    rest = [mean_effect(found, unit.heads[0]) for unit in found.effects.units
            if unit.heads[0] not in (DUPLICATE, INHIBITION, MOVER)]  # fmt: skip
    assert max(map(abs, rest)) < 0.05 * clean
    # The mover writes the answer itself: its effect is linear, and the gradient is right.
    exact, estimate = (one.effect.mean(1) for one in found.study.effects)
    index = [unit.heads[0] for unit in found.effects.units].index(MOVER)
    assert estimate[index] == pytest.approx(exact[index], rel=0.02)


def even_handed(task: Task) -> Task:
    """Induction asked in the middle of the second copy, where the right and the wrong token each came once.

    At the end of the copy the wrong one has come twice, and even attention that copies whatever it sees favours it.
    """
    prompts = []
    for prompt in task.prompts:
        begin = prompt.positions["SECOND"]
        copy = prompt.clean_ids[begin:]
        middle = len(copy) // 2
        ids = prompt.clean_ids[: begin + middle]
        prompts.append(Prompt(ids, (copy[middle],), (copy[middle + 5],), (len(ids) - 1,), clean=prompt.clean))
    return Task("induction", "logit_diff", tuple(prompts), chance=0.5)


def test_the_shuffled_twin_shows_nothing_beyond_its_interval(planted):
    twin = load("planted-shuffled")
    task = even_handed(build("induction", twin, prompts=24))
    found = ablate(twin, task, mode="zero", method="exact", curve=None, anyway=True)
    numbers = found.study.numbers[0]
    assert not (numbers["effect_q"] < 0.05).any(), "24 heads that do nothing for the task"
    # The same question finds the carriers where they are.
    asked = even_handed(build("induction", planted, prompts=24))
    there = ablate(planted, asked, mode="zero", method="exact", curve=None)
    assert set(there.top(2)["name"]) == {"L0H0", "L1H0"}
    assert (there.top(2)["effect_q"] < 0.05).all()


def test_removal_of_the_ranked_heads_costs_more_than_of_others(first_pass):
    area = first_pass.study.curve.area().set_index("order")["area"]
    assert area["ranked"] < 0.5 * area["random"]
    assert area["reversed"] >= area["random"] - 1e-6


def test_the_table_has_the_columns_of_metrics(first_pass):
    frame = first_pass.table.frame
    for name in ("ablation_induction", "attribution_induction"):
        for end in ("", "_low", "_high", "_p", "_q"):
            assert frame[name + end].notna().all()
    assert first_pass.table.metadata["prefix"] == "shared"
    assert first_pass.table.metadata["tasks"]["induction"]["prompts"] == 10
    row = frame.query("layer == 1 and head == 0").iloc[0]
    assert row["ablation_induction"] == pytest.approx(mean_effect(first_pass, INDUCTION), rel=1e-12)


def test_criteria_stand_beside_and_in_the_curve(planted):
    found = ablate(planted, "names", prompts=6, method="exact", criteria=("write_norm", "michel_example"),
                   curve=RemovalPlan(ks=(1,), draws=2, prompts=4))  # fmt: skip
    assert {"importance_write_norm", "importance_michel_example_high"} <= set(found.table.frame)
    assert set(found.study.curve.frame["criterion"]) == {"effect", "write_norm", "michel_example"}


def test_equal_studies_are_equal(planted):
    one, two = (ablate(planted, "names", prompts=5, curve=None) for _ in range(2))
    assert one.table.frame.equals(two.table.frame)
    assert np.array_equal(one.effects.ablated, two.effects.ablated)


def test_what_the_model_cannot_do_is_said_before_any_work():
    twin = load("planted-shuffled")
    with pytest.raises(TokensError, match=r"cannot do induction: .*; choose another task, or go on"):
        ablate(twin, "induction", prompts=8)


def test_slips_are_told_by_name(planted):
    for words, ask in (
        ("method 'magic'", {"method": "magic"}),
        ("criterion 'magic'", {"criteria": ["magic"]}),
        ("ablation mode 'magic'", {"mode": "magic", "prompts": 8}),
        ("unit 'magic'", {"unit": "magic"}),
        ("no head L9H0", {"given": [(9, 0)]}),
        ("no position 'MAGIC'", {"positions": "MAGIC"}),
    ):
        with pytest.raises(TokensError, match=words):
            ablate(planted, "names", **{"prompts": 4, "curve": None, **ask})


@pytest.mark.real
def test_on_the_real_model_a_batch_a_layer_equals_a_plain_loop_and_gradient_agrees():
    loaded = load("smollm2-135m")
    task = build("ioi", loaded, prompts=8)
    bench = Workbench(loaded, task)
    clean, _ = clean_scores(bench, "mean", here(bench))
    assert clean.mean() > 2, "the model solves it"
    last = [unit for unit in bench.units if unit.layer in (20, 29)]
    found, _ = removed(bench, "mean", last, here(bench))
    plain = Workbench(loaded, task, share_prefix=False)
    one_by_one = np.concatenate([removed(plain, "mean", [unit], here(plain))[0] for unit in last[::4]])
    # "The same numbers to 1e-4": both are float32 logits of size 20.
    np.testing.assert_allclose(found[::4], one_by_one, rtol=0, atol=1e-4)
    gradient = effects(bench, "mean", "gradient", here(bench)).effect.mean(1)
    exact = (clean - found).mean(1)
    estimate = np.array([gradient[bench.units.index(unit)] for unit in last])
    strongest = int(np.argmax(np.abs(exact)))
    assert int(np.argmax(np.abs(estimate))) == strongest
    everything, _ = removed(bench, "mean", [set_unit("all", bench.heads)], here(bench))
    assert (clean - everything).mean() > np.abs(exact).max()
