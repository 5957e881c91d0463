from __future__ import annotations

import pandas as pd
import pytest

from probe.text import number, show_text, show_token, with_interval


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.000"), (0.00051, "5.1e-4"), (0.0123, "0.012"), (0.456, "0.46"), (-0.456, "-0.46"),
        (3.14159, "3.14"),
        (45.67, "45.7"), (4096.4, "4096"), (1.5e7, "1.5e7"), (float("nan"), "n/a"),
        (float("inf"), "∞"), (float("-inf"), "−∞"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, shown: str) -> None:
    assert number(value) == shown


def test_intervals_stand_in_brackets_where_there_are_any() -> None:
    nan = float("nan")
    frame = pd.DataFrame(
        {"x": [0.9, 0.9, nan], "x_low": [0.85, nan, nan], "x_high": [0.93, nan, nan], "y": [1.0] * 3}
    )
    assert [with_interval(frame, row, "x") for row in range(3)] == ["0.90 [0.85, 0.93]", "0.90", "n/a"]
    assert with_interval(frame, 0, "y") == "1.00"


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "␣the"), ("\n\t", "⏎⇥"), ("", "(empty)"), ("é", "é"),
        ("\u2028", "\\u2028"), ("\x1b[31m", "\\u001b[31m"),
        ("\u202e", "\\u202e"), ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"), ("<b>", "<b>"), ("\u00a0", "\\u00a0"),
    ],
)  # fmt: skip
def test_tokens_are_visible(token: str, shown: str) -> None:
    assert show_token(token) == shown


def test_text_to_be_read_keeps_its_blanks_and_lines() -> None:
    assert show_text("a b\nc\td\u202ee\x00") == "a b\nc⇥d\\u202ee\\u0000"
