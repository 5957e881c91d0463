"""What is one token and where it stands is what the tokenizer says, BOS and unknown words included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from probe.errors import TokensError
from probe.models import Loaded
from probe.planted.words import planted_tokenizer
from probe.tasks.ask import Ask
from probe.tasks.wording import Worded, Wording, automatic_bos, same_length

MakeAsk = Callable[..., Ask]
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


@pytest.fixture
def wording(make_ask: MakeAsk, make_tokenizer: MakeTokenizer) -> Wording:
    return Wording(make_ask(make_tokenizer()))


def test_no_tokenizer_no_words(make_ask: MakeAsk):
    with pytest.raises(TokensError, match="it is asked in words, and the model has no tokenizer"):
        Wording(make_ask(None))


def test_bos_only_where_the_tokenizer_adds_it(make_ask: MakeAsk, make_tokenizer: MakeTokenizer):
    adding, plain = make_tokenizer(bos=True), make_tokenizer()
    assert (automatic_bos(adding), automatic_bos(plain)) == (1, None)
    assert Wording(make_ask(adding)).ids("The war")[0] == 1
    assert Wording(make_ask(adding)).notes == ("BOS 1 first, as the tokenizer adds it",)
    assert 1 not in Wording(make_ask(plain)).ids("The war")
    assert Wording(make_ask(plain)).notes == ("no BOS: the tokenizer adds none by itself",)


def test_planted_models_rest_on_their_bos(make_ask: MakeAsk):
    wording = Wording(make_ask(planted_tokenizer()))
    assert wording.ids("Ada")[0] == 0
    assert "planted models want" in wording.notes[0]


def test_next_token(wording: Wording):
    tokenizer: Any = wording.tokenizer
    assert wording.next_token("The", " war") == tokenizer.convert_tokens_to_ids(" war")
    assert wording.next_token("The", "war") is None, "it would change the word before"
    assert wording.next_token("The", " war plan") is None
    assert wording.next_token("The", " qwerty") is None
    with pytest.raises(TokensError, match="the answer ' war plan' is not one token after 'The'"):
        wording.answer("The", " war plan")


def test_single_keeps_order_and_says_how_many(wording: Wording):
    assert wording.single("words", ["war", "qwerty", "plan"], 2) == ["war", "plan"]
    with pytest.raises(TokensError, match="2 of 3 words are one token of this tokenizer; wanted 3"):
        wording.single("words", ["war", "qwerty", "plan"], 3)
    assert wording.left_out("words", ["war", "qwerty", "plan"], ["war", "plan"]) == (
        "1 of 3 words left out: not one token of this tokenizer",
    )
    assert wording.left_out("words", ["war"], ["war"]) == ()


def test_slots_are_located(wording: Wording):
    made = wording.fill("The {noun} of {owner}: {what}", noun="war", owner="Mary", what="plan")
    assert made.text == "The war of Mary: plan"
    assert made.at == {"noun": 1, "owner": 3, "what": 5}
    again = wording.fill("The {noun} of {owner}: {what}", noun="plan", owner="John", what="war")
    assert again.at == made.at
    assert again.ids == wording.ids("The plan of John: war")


def test_a_slot_of_several_tokens_moves_the_others(wording: Wording):
    template = "The {noun} of {owner}"
    assert wording.fill(template, noun="war", owner="Mary").at["owner"] == 3
    longer = wording.fill(template, noun="war plan", owner="Mary")
    assert longer.at == {"noun": 1, "owner": 4}
    assert wording.fill(template, noun="war", owner="Mary").at["owner"] == 3


def test_tokens_across_borders_are_refused(make_ask: MakeAsk, make_tokenizer: MakeTokenizer):
    pairs = Wording(make_ask(make_tokenizer(digits="pairs")))
    assert pairs.fill("The 17{year} war", year="43").at == {"year": 2}
    with pytest.raises(TokensError, match="tokens run across the borders of '743'"):
        pairs.fill("The 1{year}", year="743")


def test_unknown_words_are_refused(wording: Wording):
    with pytest.raises(TokensError, match="does not know the words of 'The qwerty'"):
        wording.fill("The {noun}", noun="qwerty")


def test_the_most_common_length_is_kept(make_ask: MakeAsk):
    lengths = {"a": 5, "b": 4, "c": 5, "d": 4, "e": 6}
    worded = {name: Worded(name, (0,) * length, {}) for name, length in lengths.items()}
    kept, notes = same_length(make_ask(), worded)
    assert kept == ["b", "d"]
    assert notes == ("3 of 5 templates left out: another length than 4 tokens in this tokenizer",)
    assert same_length(make_ask(), {"a": worded["a"]}) == (["a"], ())


@pytest.mark.real
def test_the_real_tokenizers_spaces(real: Loaded, make_ask: MakeAsk):
    wording = Wording(make_ask(real.tokenizer))
    assert wording.bos is None
    assert wording.text(wording.ids(" Mary")) == " Mary"
    assert wording.next_token("When", " Mary") == wording.ids(" Mary")[0] != wording.ids("Mary")[0]
    assert wording.next_token("in the year", " 47") is None
    assert wording.fill("in the year {year}", year="47").at == {"year": 3}
