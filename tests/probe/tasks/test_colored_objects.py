"""Three objects and their colours: places, twins, and the published format word for word."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from probe.models import Loaded
from probe.tasks.build import build
from probe.tasks.colored_objects import COLORS, OBJECTS, PHRASES, PLACES, TEMPLATE
from probe.tasks.task import Prompt


def test_the_answer_is_the_asked_objects_colour(wordy: Loaded, differing: Callable[[Prompt], list[int]]):
    task = build("colored_objects", wordy, prompts=32)
    assert task.chance == 1 / 3
    for prompt in task.prompts:
        slots = parsed(prompt.clean)
        place, ids = prompt.positions, prompt.clean_ids
        asked = [slots[f"object1{n}"] for n in range(3)].index(slots["asked1"])
        words = wordy.tokenizer.convert_ids_to_tokens  # type: ignore[union-attr]
        assert words(ids[place["ANSWER"]]) == f" {slots[f'color1{asked}']}"
        assert words(prompt.answer_ids[0]) == f" {slots[f'color1{asked}'].capitalize()}"
        wrong = [words(ids[place[name]]) for name in ("WRONG1", "WRONG2")]
        assert wrong == [f" {slots[f'color1{n}']}" for n in range(3) if n != asked]
        others = {f" {slots[f'color1{n}'].capitalize()}" for n in range(3) if n != asked}
        assert set(words(list(prompt.wrong_ids))) == others
        assert ids[place["OBJECT"]] == ids[place["ASKED"]]
        assert place["OBJECT"] == place["ANSWER"] + 1
        assert differing(prompt) == [place["ASKED"]]
        assert prompt.corrupted is not None
        assert parsed(prompt.corrupted)["asked1"] in {slots[f"object1{n}"] for n in range(3)} - {slots["asked1"]}
        assert len({slots[f"color{n}{m}"] for n in range(2) for m in range(3)}) == 6


def parsed(text: str) -> dict[str, str]:
    """The slots of a prompt in our template. Fails where the text is not of that form."""
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[A-Za-z]+)", re.escape(TEMPLATE))
    pattern = re.sub(r"(\(\?P<see\d>)", r"\1[A-Za-z]+ ", pattern)
    found = re.fullmatch(pattern, text)
    assert found is not None, text
    return found.groupdict()


def test_the_published_prompts_have_our_form(published: Path):
    folder = published / "circuit_reuse"
    clean, other = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("cobjs_data_42", "cobjs_mindiff_data_42")
    )
    assert len(clean) == len(other) == 1000
    seen: dict[str, set[str]] = {"place": set(), "see": set(), "color": set(), "object": set()}
    for (text, label), (twin, twins_label) in zip(clean, other, strict=True):
        slots = parsed(text)
        assert TEMPLATE.format(**slots) == text
        asked = [slots[f"object1{n}"] for n in range(3)].index(slots["asked1"])
        assert label == f" {slots[f'color1{asked}'].capitalize()}"
        changed = {name for name, value in parsed(twin).items() if value != slots[name]}
        assert changed == {"asked1"}
        assert twins_label != label
        assert len({slots[f"color{n}{m}"] for n in range(2) for m in range(3)}) == 6
        for kind, found in seen.items():
            found |= {value for name, value in slots.items() if name.startswith(kind)}
    assert seen == {"place": set(PLACES), "see": set(PHRASES), "color": set(COLORS), "object": set(OBJECTS)}


@pytest.mark.real
def test_published_and_own_prompts_are_cut_alike(real: Loaded, published: Path):
    tokenizer = real.tokenizer
    assert tokenizer is not None
    pairs = json.loads((published / "circuit_reuse" / "cobjs_data_42.json").read_text())
    left_out = [one for one in OBJECTS if len(tokenizer(f"the {one}")["input_ids"]) > 2]
    own = build("colored_objects", real, prompts=2, held_out=0)
    assert any(f"{len(left_out)} of {len(OBJECTS)} objects left out" in note for note in own.notes)
    kept = [(text, label) for text, label in pairs if not any(one in text for one in left_out)]
    assert len(kept) > 100
    for text, label in kept:
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == own.length
        assert tokenizer(text + label)["input_ids"][:-1] == ids
