"""Retrieval heads end to end: the planted movers are found, their twin has none, the real model's are few."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import T5Config, T5ForConditionalGeneration

from probe.analyses.needles import NEEDLES, word_needles
from probe.analyses.retrieval import cost, retrieval
from probe.analyses.retrieval_ablation import AblationPlan
from probe.errors import ModelError, TokensError
from probe.models import Loaded, load
from probe.planted.models import PLANTED_ROLES, planted_llama
from probe.planted.prompts import planted_text
from probe.planted.words import NEEDLE_WORDS, planted_tokenizer, planted_words
from probe.statistics import bootstrap

WORDS = planted_words()
OWN = word_needles([WORDS[token] for token in NEEDLE_WORDS], 24)
HAY = planted_text(1_500)
GRID = {"lengths": (64, 96), "depths": (0, 50, 100), "trials": 2}
FORMS = ("retrieval", "retrieval_paper", "retrieval_forced", "retrieval_control")


def planted(shuffled=False):
    model = planted_llama(max_length=256, shuffled=shuffled)
    return Loaded(model, planted_tokenizer(), "planted", "planted", "0" * 64)


def run(loaded, **changes):
    asked = {**GRID, "bos": True, "needles": OWN, "ablation": None, **changes}
    return retrieval(loaded, asked.pop("haystack", HAY), **asked)


@pytest.fixture(scope="module")
def found():
    return run(planted(), ablation=AblationPlan(ks=(1,), draws=5, trials=2))


def test_movers_score_one_and_all_others_nothing(found):
    heads = found.heads.set_index(["layer", "head"])
    movers = {head for head, role in PLANTED_ROLES.items() if "induction" in role and "backup" not in role}
    for head in PLANTED_ROLES:
        wanted = 1.0 if head in movers else 0.0
        assert heads.loc[head, "retrieval"] == wanted, head
        assert heads.loc[head, "retrieval_forced"] == wanted, head
    assert (heads["retrieval_paper"] >= heads["retrieval"]).all()


def test_control_finds_nothing(found):
    # A head that looks at one key of 60 or more at random hits a stretch of 4 in at most 4/60 of the steps.
    assert found.heads["retrieval_control"].max() <= 4 / 60


def test_model_recalls_every_needle(found):
    assert found.n_usable == 12
    assert found.recall()["recall"].tolist() == [1.0] * 6
    assert found.ranked() == [(1, 0), (1, 1), (1, 6)]


def test_shuffled_twin_has_no_retrieval_heads():
    twin = run(planted(shuffled=True))
    assert twin.n_usable == 0
    assert twin.ranked() == []
    assert twin.heads[["retrieval", "retrieval_low", "retrieval_paper"]].isna().all(axis=None)
    assert (twin.heads["n_retrieval"] == 0).all()
    assert twin.per_trial[["set", "paper"]].isna().all(axis=None)
    assert twin.heads["retrieval_forced"].notna().all()
    # Looking anywhere at random copies a token with chance 1/60: 5 or more of 48 in one head of 800.
    assert twin.heads["retrieval_forced"].max() < 0.1


def test_heads_are_the_bootstrap_of_the_trials(found):
    table = found.per_trial.pivot(index="trial", columns=["layer", "head"], values="control")
    groups = [trial["group"] for trial in found.trials]
    summary = bootstrap(table.to_numpy(), groups=groups, seed=0)
    assert found.heads["retrieval_control"].tolist() == summary.mean.tolist()
    assert found.heads["retrieval_control_low"].tolist() == summary.low.tolist()
    assert found.heads["retrieval_control_high"].tolist() == summary.high.tolist()


def test_trials_that_share_a_needle_are_resampled_together():
    loaded = planted()
    # One needle for all: no independent witness, so no interval.
    one = run(loaded, needles=OWN[:1], lengths=(64,), depths=(50,), trials=3)
    assert {trial["group"] for trial in one.trials} == {0}
    assert one.heads["retrieval_low"].isna().all()
    two = run(loaded, needles=OWN[:2], lengths=(64,), depths=(50,), trials=3)
    assert two.heads["retrieval_low"].notna().all()


def test_ablation_has_every_arm(found):
    about = found.metadata["ablation"]
    assert about["done"]
    assert about["mode"] == "mean_all"
    assert len(about["trials"]) == 2
    counts = found.ablation.groupby(["k", "arm"]).size().to_dict()
    assert counts == {(0, "clean"): 2, (1, "random"): 10, (1, "top"): 2}
    assert [entry["heads"] for entry in about["sets"] if entry["arm"] == "top"] == [[[1, 0]]]


def test_too_few_usable_trials_give_no_ranking_and_no_ablation():
    few = run(planted(), depths=(50,), trials=4, ablation=AblationPlan(ks=(1,), trials=2))
    assert few.n_usable == 8
    assert few.ranked() == []
    assert few.metadata["ablation"] == {"done": False, "reason": "8 usable trials, wanted at least 10"}
    assert few.ablation.empty
    assert list(few.ablation.columns) == ["k", "arm", "draw", "trial", "recall"]


def test_same_seed_same_result(found):
    again = run(planted(), ablation=AblationPlan(ks=(1,), draws=5, trials=2))
    assert again.heads.equals(found.heads)
    assert again.ablation.equals(found.ablation)
    assert again.trials == found.trials
    assert again.metadata == found.metadata


def test_metadata_says_how_it_was_made(found):
    wanted = {
        "model": "planted",
        "weight_hash": "0" * 64,
        "bos": "added",
        "dtype": "float32",
        "device": "cpu",
        "seed": 0,
        "n_trials": 12,
        "n_usable": 12,
        "parameters": {"lengths": [64, 96], "depths": [0, 50, 100], "trials": 2},
    }
    assert {name: found.metadata[name] for name in wanted} == wanted


def test_keys_name_key_value_heads(found):
    assert list(found.heads.columns[:5]) == ["stack", "kind", "layer", "head", "kv_head"]
    assert found.heads["kv_head"].tolist() == [head // 2 for _ in range(3) for head in range(8)]


def test_progress_only_grows_and_ends_full():
    seen = []

    def progress(done, total, what):
        seen.append((done, total, what))

    run(planted(), depths=(50,), trials=1, progress=progress)
    done = [step for step, _, _ in seen]
    assert done == sorted(done)
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1]
    assert {what for _, _, what in seen} == {"retrieval"}


def test_cost_counts_prefills_steps_and_ablation_forwards():
    plan = AblationPlan(ks=(1, 2), draws=5, trials=3)
    single = cost((100,), (0, 50), 2, None)
    assert single > 4 * 100
    assert cost((100,), (0, 50), 2, plan) - single == 3 * 100 * (1 + 2 * 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"haystack": " "}, "haystack is empty"),
        ({"lengths": (250,)}, "take 270 tokens; the model reads 256"),
        ({"needles": NEEDLES}, "words unknown to the tokenizer"),
        ({"ablation": AblationPlan(mode="noise")}, "wanted mean_all or zero"),
    ],
)
def test_bad_input_is_refused_before_the_model_runs(changes, message):
    with pytest.raises(TokensError, match=message):
        run(planted(), **changes)


def test_model_without_tokenizer_is_refused():
    bare = Loaded(planted_llama(max_length=256), None, "bare", "in memory", "0")
    with pytest.raises(ModelError, match="bare has no tokenizer"):
        run(bare)


def test_encoder_decoder_is_refused():
    config = T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    t5 = T5ForConditionalGeneration(config).eval().requires_grad_(False)
    with pytest.raises(ModelError, match="no decoder-only model"):
        run(Loaded(t5, planted_tokenizer(), "t5", "in memory", "0"))


@pytest.mark.real
def test_real_model_finds_needles_and_has_few_retrieval_heads():
    loaded = load("smollm2-135m")
    real = retrieval(loaded, lengths=(256,), depths=(0, 25, 50, 75, 100), trials=3, ablation=None)
    assert real.n_usable >= 10
    scores = real.heads["retrieval"]
    assert len(scores) == 270
    # The heavy tail of Wu et al.: most heads copy nothing, a few nearly all, and the control copies nothing.
    assert (scores == 0).mean() > 0.5
    assert scores.max() > 0.7
    strong = real.heads[scores > 0.5]
    assert (strong["retrieval_low"] > strong["retrieval_control_high"]).all()


@pytest.mark.real
@pytest.mark.full
def test_removing_real_retrieval_heads_ends_recall_and_random_heads_do_not():
    loaded = load("smollm2-135m")
    plan = AblationPlan(ks=(10,), draws=5, trials=4)
    real = retrieval(loaded, lengths=(256,), trials=3, ablation=plan)
    recall = real.ablation.groupby("arm")["recall"].mean()
    assert recall["top"] < recall["random"]
    assert recall["random"] > 0.5


def test_per_trial_has_one_row_a_trial_and_head(found):
    assert list(found.per_trial.columns) == ["trial", "layer", "head", "set", "paper", "forced", "control"]
    assert len(found.per_trial) == 12 * 24
    assert not found.per_trial.duplicated(["trial", "layer", "head"]).any()
    assert np.isfinite(found.per_trial["forced"]).all()
    assert all(name in found.heads for name in FORMS)
