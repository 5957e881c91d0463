"""Random ids are ordinary, different, and begin with the model's BOS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from probe.errors import TokensError
from probe.planted.words import planted_tokenizer
from probe.tasks.ask import Ask
from probe.tasks.random_ids import RandomIds


def test_specials_and_bos_are_never_drawn(make_ask: Callable[..., Ask]):
    ids = RandomIds(make_ask(planted_tokenizer(), bos=0))
    assert (ids.bos, ids.first) == (0, (0,))
    assert set(ids.ordinary) == set(range(4, 4096)), "<bos>, <unk>, <sep> and <end> are special"
    drawn = ids.draw(np.random.default_rng(0), 4092)
    assert sorted(drawn) == list(range(4, 4096))


def test_without_a_tokenizer_and_bos(make_ask: Callable[..., Ask]):
    ids = RandomIds(make_ask(None, vocabulary=10))
    assert ids.first == ()
    assert ids.notes == ("no BOS: the model has none",)
    assert len(ids.ordinary) == 10
    assert ids.text([3, 4]) == "#3 #4"


def test_rows_that_the_tokenizer_lacks_are_never_drawn(make_ask: Callable[..., Ask]):
    ids = RandomIds(make_ask(planted_tokenizer(), vocabulary=5000))
    assert ids.ordinary.max() == 4095


def test_too_many(make_ask: Callable[..., Ask]):
    with pytest.raises(TokensError, match="11 different ids wanted, found 10"):
        RandomIds(make_ask(None, vocabulary=10)).draw(np.random.default_rng(0), 11)
