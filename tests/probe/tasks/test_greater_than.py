"""Years that must rise: digits or pairs as the tokenizer has them, and the published prompts' form."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from probe.errors import TokensError
from probe.models import Loaded
from probe.tasks.baseline import baseline
from probe.tasks.build import build
from probe.tasks.greater_than import TEMPLATE
from probe.tasks.task import Prompt

FORM = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+?)", re.escape(TEMPLATE)).replace("(?P<century>\\w+?)", r"(?P<century>\d\d)")


def year(text: str) -> int:
    found = re.fullmatch(FORM, text)
    assert found is not None, text
    assert found["again"] == found["century"]
    return int(found["year"])


def test_decade_digits(wordy: Loaded, differing: Callable[[Prompt], list[int]]):
    task = build("greater_than", wordy, prompts=32)
    digits = wordy.tokenizer.convert_tokens_to_ids([str(n) for n in range(10)])  # type: ignore[union-attr]
    assert task.parameters["digits"]
    assert any("decade's digit" in note for note in task.notes)
    for prompt in task.prompts:
        decade = year(prompt.clean) // 10
        assert 1 <= decade <= 8
        assert prompt.answer_ids == tuple(digits[decade + 1 :])
        assert prompt.wrong_ids == tuple(digits[:decade])
        assert prompt.corrupted is not None
        assert year(prompt.corrupted) == 1
        start = prompt.positions["YEAR"]
        assert prompt.clean_ids[start] == digits[decade]
        assert start in differing(prompt)
        assert set(differing(prompt)) <= {start, start + 1}
    shares = [len(p.answer_ids) / (len(p.answer_ids) + len(p.wrong_ids)) for p in task.prompts]
    assert task.chance == pytest.approx(sum(shares) / 32)


def test_pairs_of_digits(make_toy: Callable[..., Loaded], differing: Callable[[Prompt], list[int]]):
    loaded = make_toy(digits="pairs")
    task = build("greater_than", loaded, prompts=32)
    pairs = loaded.tokenizer.convert_tokens_to_ids([f"{n:02d}" for n in range(100)])  # type: ignore[union-attr]
    assert not task.parameters["digits"]
    for prompt in task.prompts:
        begin = year(prompt.clean)
        assert prompt.answer_ids == tuple(pairs[begin + 1 :])
        assert prompt.wrong_ids == tuple(pairs[: begin + 1])
        assert differing(prompt) == [prompt.positions["YEAR"]]
        assert prompt.clean_ids[prompt.positions["YEAR"]] == pairs[begin]


def test_other_ways_to_cut_years_are_refused(make_toy: Callable[..., Loaded]):
    with pytest.raises(TokensError, match="0 of 100 years are one token after their century") as refused:
        build("greater_than", make_toy(digits="threes"))
    assert "\n" not in str(refused.value)


def test_the_published_prompts_have_our_form(published: Path):
    with (published / "eap_ig" / "greater_than_data.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1000
    for row in rows:
        assert f"{year(row['clean'])}" == row["label"]
        assert year(row["corrupted"]) == 1
        clean, other = (re.fullmatch(FORM, row[name]) for name in ("clean", "corrupted"))
        assert clean is not None
        assert other is not None
        assert {**clean.groupdict(), "year": "01"} == other.groupdict()


@pytest.mark.real
def test_the_real_model_knows_decades(real: Loaded):
    found = baseline(real.model, build("greater_than", real, prompts=16))
    assert found.able
    assert found.accuracy >= 0.85
