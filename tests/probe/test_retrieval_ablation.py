"""The causal test: which heads are drawn, what is put in their place, and what the planted model says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.analyses.needles import make_trials, word_needles
from probe.analyses.retrieval_ablation import AblationPlan, Arm, ablate, make_arms, matched_draw
from probe.errors import TokensError
from probe.hooks.attention import instrument, sites
from probe.planted.models import planted_llama
from probe.planted.prompts import planted_text
from probe.planted.words import NEEDLE_WORDS, planted_tokenizer, planted_words

HEADS = [(layer, head) for layer in range(3) for head in range(4)]
INDUCTION, BACKUP = (1, 0), (2, 0)


@settings(max_examples=100, deadline=None)
@given(top=st.lists(st.sampled_from(HEADS), min_size=1, max_size=6, unique=True), seed=st.integers(0, 99))
def test_draw_matches_layers_outside_the_top(top, seed):
    drawn = matched_draw(top, HEADS, np.random.default_rng(seed))
    assert len(set(drawn)) == len(drawn) == len(top)
    assert not set(drawn) & set(top)
    wanted, got = Counter(layer for layer, _ in top), Counter(layer for layer, _ in drawn)
    for layer in wanted:
        free = 4 - wanted[layer]
        assert got[layer] >= min(wanted[layer], free)


def test_draw_goes_to_the_nearest_layer_when_one_runs_out():
    top = [(1, 0), (1, 1), (1, 2)]
    drawn = matched_draw(top, HEADS, np.random.default_rng(0))
    # One head is left in layer 1; of its equally near neighbours the lower gives the others.
    assert Counter(layer for layer, _ in drawn) == {1: 1, 0: 2}


def test_draw_of_more_than_half_is_refused():
    with pytest.raises(TokensError, match="7 of 12 heads"):
        matched_draw(HEADS[:7], HEADS, np.random.default_rng(0))


def test_arms_hold_every_k_and_draw():
    ranked = HEADS[:5]
    arms = make_arms(ranked, HEADS, AblationPlan(ks=(1, 3, 10, 20), draws=5), seed=0)
    assert [(arm.k, arm.name, arm.draw) for arm in arms] == [
        (k, *arm) for k in (1, 3, 5) for arm in (("top", 0), *(("random", draw) for draw in range(5)))
    ]
    assert all(arm.heads == tuple(ranked[: arm.k]) for arm in arms if arm.name == "top")
    assert arms == make_arms(ranked, HEADS, AblationPlan(ks=(1, 3, 10, 20), draws=5), seed=0)
    assert make_arms([], HEADS, AblationPlan(), seed=0) == []


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (AblationPlan(mode="noise"), "wanted mean_all or zero"),
        (AblationPlan(draws=0), "at least 1 of each"),
        (AblationPlan(ks=(0,)), "at least 1 of each"),
        (AblationPlan(trials=1), "wants at least 2"),
    ],
)
def test_bad_plans_are_refused(plan, message):
    with pytest.raises(TokensError, match=message):
        plan.check()


@pytest.fixture(scope="module")
def planted():
    return planted_llama(max_length=512)


@pytest.fixture(scope="module")
def trials():
    words = planted_words()
    needles = word_needles([words[token] for token in NEEDLE_WORDS], 4)
    return make_trials(
        planted_tokenizer(),
        planted_text(1_000),
        needles,
        lengths=(96,),
        depths=(0, 50, 90),
        trials=1,
        seed=0,
        bos=True,
    )


def recalls(table):
    return table.groupby(["arm", "draw"])["recall"].mean().to_dict()


def test_without_induction_and_its_backup_recall_dies(planted, trials):
    every = [(layer, head) for layer in range(3) for head in range(8)]
    # Heads that recall needs by construction are no controls: induction reads what L0H0 writes.
    needed = {INDUCTION, BACKUP, (0, 0)}
    others = [head for head in every if head not in needed]
    draws = [
        Arm(2, "random", draw, matched_draw([INDUCTION, BACKUP], [INDUCTION, BACKUP, *others], rng))
        for draw, rng in enumerate(np.random.default_rng(draw) for draw in range(5))
    ]
    arms = [Arm(2, "top", 0, (INDUCTION, BACKUP)), Arm(1, "alone", 0, (INDUCTION,)), *draws]
    for mode in ("zero", "mean_all"):
        found = recalls(ablate(planted, sites(planted), trials, arms, mode=mode))
        assert found[("clean", 0)] == 1
        assert found[("top", 0)] == 0
        assert found[("alone", 0)] == 1, "the backup steps in"
        assert [found[("random", draw)] for draw in range(5)] == [1] * 5


def test_clean_comes_first_and_every_arm_meets_every_trial(planted, trials):
    seen = []
    arms = [Arm(1, "top", 0, (INDUCTION,)), Arm(1, "random", 0, ((1, 5),))]

    def progress(done, total, what):
        seen.append((done, total, what))

    table = ablate(planted, sites(planted), trials, arms, progress=progress)
    assert list(table.columns) == ["k", "arm", "draw", "trial", "recall"]
    assert table["arm"].tolist()[:3] == ["clean"] * 3
    assert len(table) == 3 * 3
    done = [done for done, _, _ in seen]
    assert done == sorted(done)
    assert seen[-1] == (3 * 3 * 96, 3 * 3 * 96, "ablation")


def test_batching_does_not_mix_arms(planted, trials, monkeypatch):
    arms = [Arm(2, "top", 0, (INDUCTION, BACKUP)), *(Arm(1, "random", d, ((1, 4 + d),)) for d in range(3))]
    together = ablate(planted, sites(planted), trials, arms, mode="zero")
    monkeypatch.setattr("probe.analyses.retrieval_ablation.BATCH_TOKENS", 1)
    alone = ablate(planted, sites(planted), trials, arms, mode="zero")
    assert together.equals(alone)


def test_mean_all_is_the_mean_over_the_other_prompts(planted, trials):
    """Checked from outside: the heads' z noted by hand, and what then reaches the output projection."""
    site = sites(planted)[1]
    noted = {}

    def note(call):
        z = call.attend()
        noted.setdefault(call.site.layer, []).append(z)
        return z

    with instrument(planted, note), torch.no_grad():
        for trial in trials:
            planted(torch.tensor([[*trial.prompt_ids, *trial.answer_ids[:-1]]]))
    head = (site.layer, 0)
    others = torch.cat([noted[site.layer][number][0, 0, 1:] for number in (1, 2)]).double().mean(0)

    projection = planted.get_submodule(site.name).o_proj
    got = []

    def keep(module, inputs):
        got.append(inputs[0][0, :, :128].clone())

    hook = projection.register_forward_pre_hook(keep)
    try:
        ablate(planted, sites(planted), trials, [Arm(1, "top", 0, (head,))], mode="mean_all")
    finally:
        hook.remove()
    # Three clean forwards, then one per trial: the fourth is trial 0 with head 0 replaced at every position.
    torch.testing.assert_close(got[3].double(), others.expand_as(got[3]), atol=1e-6, rtol=1e-6)
