"""Multiple choice: four words, one of the kind asked for, answered by its letter.

The form of letter questions studied by Lieberum et al. (arXiv 2307.09458), with questions so easy that only the
letter is hard. Words and kinds are our own; no word is of two kinds. The `moved` twin changes the right word's place
with another's, so that another letter is right.
"""

from __future__ import annotations

from probe.tasks.ask import Ask, Made
from probe.tasks.task import Prompt
from probe.tasks.wording import Wording

CORRUPTIONS = ("moved",)
LETTERS = "ABCD"
TEMPLATE = (
    "Question: Which of these is a kind of {kind}?\n"
    "{letter0}. {word0}\n{letter1}. {word1}\n{letter2}. {word2}\n{letter3}. {word3}\nAnswer:"
)
# fmt: off
KINDS = {
    "animal": ("horse", "cow", "dog", "lion", "tiger", "rabbit", "wolf", "bear", "sheep", "goat", "elephant", "mouse"),
    "fruit": ("apple", "banana", "peach", "pear", "grape", "cherry", "lemon"),
    "color": ("red", "blue", "green", "yellow", "purple", "brown", "black"),
    "metal": ("iron", "gold", "copper", "silver", "steel", "tin", "zinc"),
    "vehicle": ("car", "truck", "bus", "train", "bicycle", "boat", "airplane"),
    "furniture": ("chair", "table", "desk", "sofa", "bed", "shelf"),
    "drink": ("coffee", "tea", "juice", "milk", "beer", "wine"),
    "sport": ("football", "tennis", "hockey", "golf", "basketball", "baseball"),
    "instrument": ("guitar", "piano", "violin", "drum", "flute", "trumpet"),
    "weather": ("rain", "snow", "wind", "fog", "storm", "sunshine"),
    "clothing": ("shirt", "hat", "jacket", "coat", "dress", "skirt"),
}
# fmt: on


def mcq(ask: Ask) -> Made:
    """Prompts answered by a letter; wrong: the other three. Raises TokensError.

    Right letters take turns, so that a model which always says the same one has chance. Positions: KIND, ANSWER (the
    right word), LETTER (its letter), END.
    """
    wording = Wording(ask)
    kinds = wording.single("kinds", list(KINDS), 4, before="a kind of")
    words = {kind: wording.single(f"words of kind {kind}", KINDS[kind], 0, before="A.") for kind in kinds}
    kinds = [kind for kind in kinds if len(words[kind]) > 1]
    if len(kinds) < 4:
        raise ask.error(f"{len(kinds)} kinds have two words of one token; wanted 4: choose another task for this model")
    rng, twin_rng = ask.generator(), ask.generator(1)

    def one(index: int) -> Prompt:
        chosen = [kinds[int(i)] for i in rng.choice(len(kinds), 4, replace=False)]
        offered = [words[kind][int(rng.integers(len(words[kind])))] for kind in chosen]
        right = index % 4
        clean = wording.fill(TEMPLATE, **_slots(chosen[right], offered))
        other = (right + 1 + int(twin_rng.integers(3))) % 4
        moved = list(offered)
        moved[right], moved[other] = offered[other], offered[right]
        twin = wording.fill(TEMPLATE, **_slots(chosen[right], moved))
        letters = [wording.answer(clean.text, f" {letter}") for letter in LETTERS]
        return Prompt(
            clean_ids=clean.ids,
            answer_ids=(letters[right],),
            wrong_ids=tuple(token for place, token in enumerate(letters) if place != right),
            metric_positions=(len(clean.ids) - 1,),
            clean=clean.text,
            positions={
                "KIND": clean.at["kind"],
                "ANSWER": clean.at[f"word{right}"],
                "LETTER": clean.at[f"letter{right}"],
                "END": len(clean.ids) - 1,
            },
            corrupted_ids=twin.ids,
            corrupted=twin.text,
        )

    offered = [word for kind in kinds for word in words[kind]]
    notes = wording.left_out("words", [word for kind in KINDS.values() for word in kind], offered)
    return Made(ask.draw(ask.total, one), ask.prompts, chance=0.25, notes=(*wording.notes, *notes))


def _slots(kind: str, offered: list[str]) -> dict[str, str]:
    words = {f"word{place}": word for place, word in enumerate(offered)}
    return {"kind": kind, **words, **{f"letter{place}": letter for place, letter in enumerate(LETTERS)}}
