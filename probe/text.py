"""Numbers and tokens as a reader sees them, in one place."""

from __future__ import annotations

import math
import unicodedata

import pandas as pd

_VISIBLE = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "␣"}


def number(value: float) -> str:
    """Three significant figures, plain notation where it is short; `n/a` for NaN, `∞` and `−∞`."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def with_interval(frame: pd.DataFrame, row: int, column: str) -> str:
    """`0.90 [0.85, 0.93]`; without brackets where there is no interval."""
    value = float(frame[column][row])
    low, high = (
        float(frame[f"{column}_{end}"][row]) if f"{column}_{end}" in frame else math.nan for end in ("low", "high")
    )
    if math.isnan(value) or math.isnan(low) or math.isnan(high):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def show_token(token: str) -> str:
    """A token in visible characters: blanks and line ends as signs, control and invisible ones escaped.

    `"".join` of what is shown is for reading only; pages keep the exact string beside it.
    """
    return "".join(_visible(character) for character in token) or "(empty)"


def show_text(text: str) -> str:
    """A text to be read: blanks and line ends as they are, control and invisible characters escaped."""
    return "".join(character if character in " \n" else _visible(character) for character in text)


def _visible(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs", "Co", "Cn"):
        code = ord(character)
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def tokens_in_words(length: int | list[int]) -> str:
    """`4,096 tokens`, or `128 to 4,096 tokens` where sequences differ in length."""
    if isinstance(length, int):
        return f"{length:,} tokens"
    return f"{min(length):,} to {max(length):,} tokens"
