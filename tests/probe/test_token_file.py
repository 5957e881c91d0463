"""tokens.json: what it keeps, byte for byte, and what it refuses."""

from __future__ import annotations

import json

import pytest

from probe.errors import ResultsError
from probe.planted.words import planted_tokenizer
from probe.token_file import TOKENS_FILE, TokenTexts, load_tokens, save_tokens, token_texts

HOSTILE = "</script><img src=x onerror=alert(1)>\ud83d"


def test_texts_come_back_as_they_were(tmp_path):
    texts = TokenTexts(((1, 2), (3,)), (("␣a", HOSTILE), ("↵",)), {7: "x", 5: HOSTILE})
    first = save_tokens(tmp_path, texts).read_bytes()
    assert load_tokens(tmp_path) == texts
    save_tokens(tmp_path, TokenTexts(texts.ids, texts.tokens, {5: HOSTILE, 7: "x"}))
    assert (tmp_path / TOKENS_FILE).read_bytes() == first
    first.decode("ascii")


def test_texts_of_ids_and_of_those_that_a_table_names():
    tokenizer = planted_tokenizer()
    texts = token_texts(tokenizer, [[0, 5]], also=[5, -1, 9, 5])
    assert texts.ids == ((0, 5),)
    assert texts.strings == {5: texts.tokens[0][1], 9: token_texts(tokenizer, [[9]]).tokens[0][0]}
    assert token_texts(None, [[3]]).tokens == (("#3",),)


def test_a_folder_without_them_has_none(tmp_path):
    assert load_tokens(tmp_path) is None


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "not a JSON file"),
        ("[" * 200_000, "not a JSON file"),
        ('{"sequences": [], "sequences": [], "strings": {}}', "is there twice"),
        ("[]", "wanted one object"),
        ("{}", "not token texts"),
        ('{"sequences": [{"ids": [1.5], "tokens": ["a"]}], "strings": {}}', "no list of whole numbers"),
        ('{"sequences": [{"ids": [true], "tokens": ["a"]}], "strings": {}}', "no list of whole numbers"),
        ('{"sequences": [{"ids": [1], "tokens": [2]}], "strings": {}}', "no list of texts"),
        ('{"sequences": [{"ids": [1], "tokens": "a"}], "strings": {}}', "no list of texts"),
        ('{"sequences": [], "strings": {"x": "a"}}', "not token texts"),
        ('{"sequences": [], "strings": {"1": 2}}', "no list of texts"),
        (json.dumps({"sequences": [{"ids": [1, 2], "tokens": ["a"]}], "strings": {}}), "more ids than texts"),
    ],
)
def test_anything_else_is_refused(document, said, tmp_path):
    (tmp_path / TOKENS_FILE).write_text(document)
    with pytest.raises(ResultsError, match=said):
        load_tokens(tmp_path)
