"""How a token looks on a page or a terminal: what cannot be seen is made visible, nothing is left to act."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def token_strings(tokenizer: PreTrainedTokenizerBase | None, ids: Sequence[int]) -> list[str]:
    """What each id looks like: space as ␣, line end as ↵, tab as ⇥, other invisible characters as \\u….

    Half a character (byte-level vocabularies) is shown as the vocabulary writes it. Without a tokenizer:
    `#id`.
    """
    if tokenizer is None:
        return [f"#{token}" for token in ids]
    shown = {token: _token_string(tokenizer, token) for token in set(ids)}
    return [shown[token] for token in ids]


def _token_string(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    raw = tokenizer.convert_ids_to_tokens(token)
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    if not isinstance(raw, str):
        return f"#{token}"
    if "\ufffd" in text or not text:
        text = raw
    elif raw.startswith("▁") and not text.startswith(" "):
        text = " " + text
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    plain = {" ": "␣", "\n": "↵", "\t": "⇥"}.get(character)
    if plain is not None:
        return plain
    # Cc, Cf, Co, Cs, Cn (control, format, private, surrogate, unassigned) and Zl, Zp, Zs (separators).
    if unicodedata.category(character)[0] == "C" or unicodedata.category(character) in ("Zl", "Zp", "Zs"):
        return f"\\u{ord(character):04x}"
    return character
