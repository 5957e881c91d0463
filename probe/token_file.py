"""tokens.json: what a scan read, as ids and as text, so that a page can be made again without the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from probe.errors import ResultsError
from probe.store import write_file
from probe.strict import read_json
from probe.token_strings import token_strings

TOKENS_FILE = "tokens.json"


@dataclass(frozen=True)
class TokenTexts:
    """The sequences that were scanned, in order.

    ids: of every sequence. tokens: the same, as `token_strings` shows them. strings: id → text, of further ids that a
    table names (those that a head `writes`).
    """

    ids: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[str, ...], ...]
    strings: Mapping[int, str] = field(default_factory=dict)


def token_texts(
    tokenizer: PreTrainedTokenizerBase | None, ids: Sequence[Sequence[int]], also: Sequence[int] = ()
) -> TokenTexts:
    """The texts of scanned ids, and of the ids in `also` (negative ones stand for none and are left out)."""
    further = sorted({int(one) for one in also if one >= 0})
    return TokenTexts(
        tuple(tuple(map(int, sequence)) for sequence in ids),
        tuple(tuple(token_strings(tokenizer, sequence)) for sequence in ids),
        dict(zip(further, token_strings(tokenizer, further), strict=True)),
    )


def save_tokens(folder: str | Path, texts: TokenTexts) -> Path:
    """Write tokens.json into `folder`, whole or not at all, and return its path; equal texts give equal bytes."""
    document = {
        "sequences": [
            {"ids": list(ids), "tokens": list(tokens)} for ids, tokens in zip(texts.ids, texts.tokens, strict=True)
        ],
        "strings": {str(one): text for one, text in sorted(texts.strings.items())},
    }
    path = Path(folder) / TOKENS_FILE
    write_file(path, json.dumps(document, separators=(",", ":")).encode() + b"\n")
    return path


def load_tokens(folder: str | Path) -> TokenTexts | None:
    """What `save_tokens` wrote into `folder`; None where there is no such file.

    Raises ResultsError for a file that is too large, no JSON, or not of its form.
    """
    path = Path(folder) / TOKENS_FILE
    if not path.exists():
        return None
    document = read_json(path)
    try:
        sequences = [(_ids(one["ids"]), _texts(one["tokens"])) for one in document["sequences"]]
        strings = {int(number): text for number, text in document["strings"].items()}
        _texts(list(strings.values()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: not token texts ({type(error).__name__}: {error}); scan again") from error
    if any(len(ids) != len(tokens) for ids, tokens in sequences):
        raise ResultsError(f"{path}: a sequence has more ids than texts, or fewer; scan again to replace it")
    return TokenTexts(tuple(ids for ids, _ in sequences), tuple(tokens for _, tokens in sequences), strings)


def _ids(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise TypeError("ids are no list of whole numbers")
    return tuple(values)


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("tokens are no list of texts")
    return tuple(values)
