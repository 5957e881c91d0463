"""Text and ids to sequences: exact cuts, and one clear line for everything that is not scanned as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from probe import tokens
from probe.errors import TokensError
from probe.planted.prompts import planted_text
from probe.planted.words import BOS, END, VOCABULARY, planted_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return planted_tokenizer()


@pytest.fixture(scope="module")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, as in byte-level vocabularies without merges; no BOS."""
    alphabet = sorted(ByteLevel.alphabet())
    made = Tokenizer(BPE({character: i for i, character in enumerate(alphabet)}, []))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.decoder = ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def test_pieces_are_disjoint_and_in_order(tokenizer: PreTrainedTokenizerFast) -> None:
    text = planted_text(100)
    whole = tokens.tokenise(tokenizer, text)
    found = tokens.cut_pieces(tokenizer, text, length=16, sequences=6)
    assert found.bos is None
    assert [len(piece) for piece in found.ids] == [16] * 6
    assert [token for piece in found.ids for token in piece] == whole[:96]


def test_bos_is_added_once_and_recorded(tokenizer: PreTrainedTokenizerFast) -> None:
    text = planted_text(100)
    whole = tokens.tokenise(tokenizer, text)
    found = tokens.cut_pieces(tokenizer, text, length=16, sequences=6, bos=True, limit=16)
    assert found.bos == BOS
    assert [piece[0] for piece in found.ids] == [BOS] * 6
    assert [len(piece) for piece in found.ids] == [16] * 6
    assert [token for piece in found.ids for token in piece[1:]] == whole[:90]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "found no words"),
        (" \n\t", {}, "found no words"),
        ("baba bebe", {}, "found 2 tokens, wanted 32"),
        (
            "baba " * 100,
            {"length": 65, "limit": 64},
            "found 65 tokens, wanted at most the 64 that the model reads",
        ),
        ("baba " * 100, {"length": 1}, "found 1 tokens, wanted 2 or more"),
        ("baba " * 100, {"length": -5}, "found -5 tokens"),
        ("baba " * 100, {"sequences": 0}, "found 0, wanted 1 or more"),
        ("baba " * 100 + "\ud800", {}, "half a surrogate pair at character 500"),
        ("the quick brown fox " * 50, {}, "found 200 of 200 tokens unknown"),
    ],
)
def test_text_that_cannot_be_cut(
    tokenizer: PreTrainedTokenizerFast, text: str, options: dict[str, int], message: str
) -> None:
    wanted: dict[str, Any] = {"length": 16, "sequences": 2, **options}
    with pytest.raises(TokensError, match=message) as caught:
        tokens.cut_pieces(tokenizer, text, **wanted)
    assert "\n" not in str(caught.value)


def test_no_bos_to_add(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TokensError, match="has none to add"):
        tokens.cut_pieces(byte_tokenizer, "a" * 100, length=8, sequences=2, bos=True)


@pytest.mark.parametrize("text", ["a\u0000b", "אבג דה", "👩‍👩‍👧 é", "e\u0301", "aaaaaaaa", "x" * 100_000])
def test_strange_text_keeps_every_byte(byte_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokens.tokenise(byte_tokenizer, text)
    assert len(ids) == len(text.encode())
    assert byte_tokenizer.decode(ids) == text


def test_natural_text_is_long_and_the_same_every_time(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = tokens.natural_text()
    assert text == tokens.natural_text()
    # 8 × 4,096 tokens of about 4 characters, and as much again for a haystack.
    assert len(text) > 2 * 8 * 4096 * 4
    assert text.isprintable() or "\n" in text


@pytest.mark.real
def test_natural_text_suffices_for_the_report() -> None:
    from probe.models import load

    own = load("smollm2-135m").tokenizer
    assert own is not None
    ids = tokens.tokenise(own, tokens.natural_text())
    assert len(ids) > 8 * 4096 + 4096
    assert ids[0] != own.bos_token_id
    assert own.decode(ids[:4000]) == tokens.natural_text()[: len(own.decode(ids[:4000]))]


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second", encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.md").write_text("first é", encoding="utf-8")
    (tmp_path / ".hidden").write_bytes(b"\xff\xfe")
    assert tokens.read_text(tmp_path) == "first é\n\nsecond"
    assert tokens.read_text(tmp_path / "b.txt") == "second"
    (tmp_path / "c.bin").write_bytes(b"ab\xff")
    with pytest.raises(TokensError, match=r"c\.bin' is not UTF-8 at byte 2"):
        tokens.read_text(tmp_path)
    with pytest.raises(TokensError, match="no file or folder"):
        tokens.read_text(tmp_path / "absent")
    (tmp_path / "empty").write_text("\n ")
    with pytest.raises(TokensError, match="found no text"):
        tokens.read_text(tmp_path / "empty")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(tokens.MAX_BYTES + 1)
    with pytest.raises(TokensError, match="wanted at most 268,435,456"):
        tokens.read_text(tmp_path / "huge")


def test_ids_are_read_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "ids.json"
    file.write_text("[[1, 2, 3], [4, 5]]")
    found = tokens.read_ids(file, vocabulary=6)
    assert found.ids == [[1, 2, 3], [4, 5]]
    assert found.bos is None
    assert found.sha256 == tokens.tokens_hash([np.array([1, 2, 3]), [4, 5]])
    assert found.sha256 != tokens.tokens_hash([[1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not readable JSON"),
        ("[[1, 2", "not readable JSON"),
        ("[" * 100_000, "nested too deeply|not readable"),
        ('{"a": [1, 2]}', "wanted a list of lists"),
        ("[1, 2, 3]", "wanted a list of lists"),
        ("null", "wanted a list of lists"),
        ("[]", "found no sequence"),
        ("[[]]", "sequence 0: found 0 tokens"),
        ("[[1]]", "sequence 0: found 1 tokens"),
        ("[[1, NaN]]", "found NaN"),
        ("[[1, Infinity]]", "found Infinity"),
        ("[[1, true]]", "position 1: found True, wanted a whole number"),
        ("[[1, 2.0]]", "found 2.0, wanted a whole number"),
        ('[[1, "2"]]', "found '2', wanted a whole number"),
        ("[[1, null]]", "found None, wanted a whole number"),
        ("[[1, [2]]]", "wanted a whole number"),
        ("[[1, -1]]", "found -1, wanted 0 to 99"),
        ("[[1, 100]]", "found 100, wanted 0 to 99"),
        (f"[[1, {10**300}]]", "found a number of 997 bits"),
        (f"[[1, {'9' * 10_000}]]", "not readable JSON"),
        ("[[1, 2], [3, 4], [1, 2]]", "sequences 0 and 2 are alike"),
        ("[[1, 2, 3, 4, 5, 6, 7, 8, 9]]", "found 9 tokens, wanted at most the 8"),
        ("\ufeff[[1, 2]]", "not readable JSON"),
    ],
)
def test_ids_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "ids.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(TokensError, match=message) as caught:
        tokens.read_ids(file, vocabulary=100, limit=8)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4),
)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_bytes(content)
    message, found = "", []
    try:
        found = tokens.read_ids(file, vocabulary=100).ids
    except TokensError as error:
        message = str(error)
    assert bool(found) != bool(message)
    assert "\n" not in message
    assert all(0 <= token < 100 for sequence in found for token in sequence)


def test_ids_from_a_tensor_or_arrays() -> None:
    assert tokens.check_ids(torch.tensor([[1, 2], [3, 4]]), vocabulary=5) == [[1, 2], [3, 4]]
    found = tokens.check_ids([np.array([1, 2])], vocabulary=5)
    assert found == [[1, 2]]
    assert type(found[0][0]) is int
    with pytest.raises(TokensError, match="whole number"):
        tokens.check_ids(torch.tensor([[0.5, 1.0]]), vocabulary=5)
    with pytest.raises(TokensError, match="is a int, wanted a list"):
        tokens.check_ids(torch.tensor([1, 2]), vocabulary=5)


def test_random_repeats() -> None:
    found = tokens.random_repeats(vocabulary=1000, bos=7, special={3, 4}, sequences=8, seed=1)
    assert len(found.ids) == 8
    for sequence in found.ids:
        assert sequence[0] == 7
        assert sequence[1:257] == sequence[257:]
        assert len(set(sequence[1:257])) == 256
        assert not {3, 4, 7} & set(sequence[1:])
    assert found.ids == tokens.random_repeats(vocabulary=1000, bos=7, special={3, 4}, seed=1).ids
    assert found.ids != tokens.random_repeats(vocabulary=1000, bos=7, special={3, 4}, seed=2).ids
    assert found.ids[0] != found.ids[1]
    assert len(tokens.random_repeats(vocabulary=1000, bos=None, distinct=10).ids[0]) == 20
    with pytest.raises(TokensError, match="found 255 ordinary ids, wanted 256"):
        tokens.random_repeats(vocabulary=256, bos=0)
    with pytest.raises(TokensError, match="found 513 tokens, wanted at most the 512"):
        tokens.random_repeats(vocabulary=1000, bos=0, limit=512)


def test_special_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokens.special_ids(tokenizer) == frozenset(range(END + 1))


def test_token_strings_show_what_cannot_be_seen(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = byte_tokenizer("a \n\t\x1b", add_special_tokens=False)["input_ids"]
    assert tokens.token_strings(byte_tokenizer, ids) == ["a", "␣", "↵", "⇥", "\\u001b"]
    half = byte_tokenizer("é", add_special_tokens=False)["input_ids"]
    assert tokens.token_strings(byte_tokenizer, half) == ["Ã", "©"]
    assert tokens.token_strings(None, [5, 6]) == ["#5", "#6"]
    assert tokens.token_strings(byte_tokenizer, [100_000]) == ["#100000"]


def test_token_strings_of_the_planted_words(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokens.token_strings(tokenizer, [0, 2, 4, VOCABULARY - 1])[:3] == ["<bos>", "<sep>", "Ada"]
