"""Needle prompts: the answer's place is known exactly, the grid is kept, bad requests are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.analyses.needles import (
    NEEDLES,
    Needle,
    encode_haystack,
    encode_needle,
    make_trials,
    word_needles,
)
from probe.errors import TokensError
from probe.planted.words import BOS, NEEDLE_WORDS, WORDS, planted_tokenizer, planted_words

TOKENIZER = planted_tokenizer()
VOCABULARY = planted_words()
HAY = " ".join(VOCABULARY[i] for i in np.random.default_rng(0).choice(WORDS, 600))
OWN = word_needles([VOCABULARY[i] for i in NEEDLE_WORDS], 12)


def trials(**changes):
    asked = {"lengths": (64, 128), "depths": (0, 50, 100), "trials": 2, "seed": 0, "bos": True, **changes}
    return make_trials(
        TOKENIZER, asked.pop("haystack", HAY), asked.pop("needles", OWN), **asked
    )


def test_grid_is_complete_and_lengths_are_exact():
    made = trials()
    assert [(trial.length, trial.depth) for trial in made] == [
        (length, depth) for length in (64, 128) for depth in (0, 50, 100) for _ in range(2)
    ]
    assert all(len(trial.prompt_ids) == trial.length for trial in made)
    assert [trial.index for trial in made] == list(range(12))


def test_spans_hold_needle_and_answer():
    encoded = [encode_needle(TOKENIZER, needle) for needle in OWN]
    for trial in trials():
        needle = encoded[trial.group]
        assert trial.prompt_ids[slice(*trial.needle)] == needle.ids
        assert trial.answer_ids == needle.ids[slice(*needle.answer)]
        assert trial.prompt_ids[-len(needle.question) :] == needle.question
        assert trial.needle[0] <= trial.answer[0] < trial.answer[1] <= trial.needle[1]


def test_depths_without_sentence_ends_are_exact():
    made = trials(depths=(0, 25, 100), trials=1, lengths=(128,))
    room = 128 - 1 - 7 - 2
    assert [trial.needle[0] - 1 for trial in made] == [0, round(room * 0.25), room]


def test_needle_follows_a_sentence_end():
    hay = " ".join(f"{word}." if number % 9 == 8 else word for number, word in enumerate(HAY.split()))
    ends = encode_haystack(TOKENIZER, hay).ends
    # The planted tokenizer's tokens are whole words, so token i follows a full stop where i % 9 == 0.
    assert np.flatnonzero(ends).tolist() == list(range(9, 600, 9))


def test_bos_only_where_asked():
    assert all(trial.prompt_ids[0] == BOS for trial in trials(bos=True))
    assert all(BOS not in trial.prompt_ids for trial in trials(bos=False))


def test_same_seed_same_trials_other_seed_others():
    assert trials() == trials()
    assert trials(seed=1) != trials()


def test_every_trial_cuts_its_own_stretch_and_needles_take_turns():
    made = trials()
    assert sorted(trial.group for trial in made) == list(range(12))
    stretches = [tuple(trial.prompt_ids[trial.needle[1] : trial.needle[1] + 20]) for trial in made]
    at_end = [trial.depth == 100 for trial in made]
    inside = [stretch for stretch, last in zip(stretches, at_end, strict=True) if not last]
    assert len(set(inside)) == len(inside)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(24, 200), depth=st.integers(0, 100), seed=st.integers(0, 2**31))
def test_control_lies_whole_in_the_haystack(length, depth, seed):
    (trial,) = trials(lengths=(length,), depths=(depth,), trials=1, seed=seed)
    first, last = trial.control
    assert last - first == trial.answer[1] - trial.answer[0]
    hay = set(range(1, length - 2)) - set(range(*trial.needle))
    assert set(range(first, last)) <= hay
    assert last <= trial.needle[0] or first >= trial.needle[1]


def test_control_is_drawn_uniformly():
    # 21 haystack tokens, cut 10 | 11 by the needle, hold 7 + 8 stretches of 4; 100 draws each are expected.
    # The 0.999 quantile of chi-square with 14 degrees of freedom is 36.1.
    made = trials(lengths=(1 + 7 + 2 + 21,), depths=(50,), trials=1_500, seed=3, bos=True)
    starts, counts = np.unique([trial.control[0] for trial in made], return_counts=True)
    assert len(starts) == 15
    assert ((counts - 100) ** 2 / 100).sum() < 36.1


def test_word_needles_share_no_word():
    words = [word for needle in OWN for word in (needle.before + needle.answer + needle.after).split()]
    assert len(words) == len(set(words)) == 7 * 12
    with pytest.raises(TokensError, match="20 words for 3 needles"):
        word_needles(["w"] * 20, 3)


def test_own_needles_are_different_facts():
    assert len(NEEDLES) >= 30
    assert len({needle.answer for needle in NEEDLES}) == len(NEEDLES)
    assert len({needle.before for needle in NEEDLES}) == len(NEEDLES)
    assert all(needle.question.strip() == needle.before.strip() for needle in NEEDLES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": ()}, "no lengths given"),
        ({"depths": ()}, "no depths given"),
        ({"needles": ()}, "no needles given"),
        ({"trials": 0}, "0 trials"),
        ({"depths": (101,)}, "depth 101; wanted 0 to 100"),
        ({"haystack": " \n"}, "haystack is empty"),
        ({"lengths": (12,)}, "leaves 2 for the haystack"),
        ({"lengths": (2_000,)}, "haystack has 600 tokens"),
        ({"needles": NEEDLES}, "words unknown to the tokenizer"),
    ],
)
def test_bad_grids_are_refused_in_one_line(changes, message):
    with pytest.raises(TokensError, match=message) as caught:
        trials(**changes)
    assert "\n" not in str(caught.value)


def test_answer_that_shares_a_token_with_its_neighbour_is_refused():
    glued = replace(OWN[0], answer=OWN[0].answer.strip())
    with pytest.raises(TokensError, match="run across the borders"):
        encode_needle(TOKENIZER, glued)


def test_answer_spelt_otherwise_after_the_question_is_refused():
    word = OWN[0].before.split()[0]
    bent = Needle(OWN[0].before, OWN[0].answer, "", f"{word}-")
    with pytest.raises(TokensError, match=r"other tokens after the question|unknown"):
        encode_needle(TOKENIZER, bent)


def test_no_bos_to_add_is_refused():
    tokenizer = planted_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(TokensError, match="no token to begin a text with"):
        make_trials(tokenizer, HAY, OWN, lengths=(64,), depths=(0,), trials=1, seed=0, bos=True)


def test_record_has_the_columns_of_trials_jsonl():
    record = trials()[0].record()
    wanted = {"index", "length", "depth", "prompt_ids", "needle", "answer", "answer_ids", "seed"}
    assert wanted <= set(record)
