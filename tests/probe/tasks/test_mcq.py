"""Letters: each is right equally often, the word beside it is of the kind asked for, the twin moves it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from probe.models import Loaded
from probe.tasks.build import build
from probe.tasks.mcq import KINDS, LETTERS
from probe.tasks.task import Prompt


def test_the_right_word_is_beside_the_right_letter(wordy: Loaded, differing: Callable[[Prompt], list[int]]):
    task = build("mcq", wordy, prompts=32)
    words = wordy.tokenizer.convert_ids_to_tokens  # type: ignore[union-attr]
    right = Counter()
    for prompt in task.prompts:
        place, ids = prompt.positions, prompt.clean_ids
        kind = words(ids[place["KIND"]]).strip()
        answer = words(ids[place["ANSWER"]]).strip()
        letter = words(ids[place["LETTER"]])
        assert answer in KINDS[kind]
        assert f"\n{letter}. {answer}\n" in prompt.clean
        assert words(prompt.answer_ids[0]) == f" {letter}"
        assert {*words(list(prompt.wrong_ids)), f" {letter}"} == {f" {one}" for one in LETTERS}
        changed = differing(prompt)
        assert len(changed) == 2
        assert place["ANSWER"] in changed
        assert prompt.corrupted is not None
        assert f"\n{letter}. {answer}\n" not in prompt.corrupted
        assert f". {answer}\n" in prompt.corrupted
        right[letter] += 1
    assert set(right.values()) == {8}


def test_no_word_is_of_two_kinds():
    counts = Counter(word for words in KINDS.values() for word in words)
    assert max(counts.values()) == 1


def test_words_of_several_tokens_are_left_out(make_toy: Callable[..., Loaded]):
    task = build("mcq", make_toy(without=["horse", "weather"]), prompts=16)
    assert not any("horse" in prompt.clean or "weather" in prompt.clean for prompt in task.prompts)
    assert any("words left out" in note for note in task.notes)
