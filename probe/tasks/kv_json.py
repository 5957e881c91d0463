"""Key-value lookup: a JSON object of words, a key of it, and the value that belongs to the key.

The form of Liu et al. (Lost in the Middle, arXiv 2307.03172) with single-token words in place of long identifiers. The
`other_key` twin asks for another key of the object.
"""

from __future__ import annotations

from probe.tasks.ask import Ask, Made
from probe.tasks.task import Prompt
from probe.tasks.wording import Wording

CORRUPTIONS = ("other_key",)
PAIRS = 8
_OBJECT = ", ".join(f'"{{key{n}}}": "{{value{n}}}"' for n in range(PAIRS))
TEMPLATE = 'JSON object:\n{{' + _OBJECT + '}}\nThe value of the key "{asked}" in this object is "'
# fmt: off
WORDS = (
    "apple", "river", "stone", "cloud", "horse", "paper", "light", "green", "table", "music", "water", "house", "tree",
    "bird", "fish", "book", "door", "fire", "gold", "hand", "king", "lamp", "moon", "night", "ocean", "park", "queen",
    "road", "ship", "star", "time", "voice", "wall", "winter", "summer", "box", "cat", "dog", "ear", "farm", "game",
    "hill", "ice", "job", "key", "leaf", "map", "nose", "oil", "pen", "rain", "salt", "train", "user", "wind", "year",
    "bank", "card", "desk", "egg", "flag", "gate", "hat", "iron", "jet", "knife", "lion", "milk", "nut", "open", "pipe",
)
# fmt: on


def kv_json(ask: Ask) -> Made:
    """Prompts that end on the opening quote of the value; answer: the key's value, wrong: the other seven.

    All keys and values of a prompt are different words. Asked keys take turns over the places of the object.
    Positions: KEY and VALUE (of the pair asked for), ASKED (the key in the question), END. Raises TokensError.
    """
    wording = Wording(ask)
    words = wording.single("words", WORDS, 2 * PAIRS, before='": "', space="")
    rng, twin_rng = ask.generator(), ask.generator(1)

    def one(index: int) -> Prompt:
        drawn = [words[int(i)] for i in rng.choice(len(words), 2 * PAIRS, replace=False)]
        keys, values = drawn[:PAIRS], drawn[PAIRS:]
        right = index % PAIRS
        slots = {f"key{n}": key for n, key in enumerate(keys)} | {f"value{n}": value for n, value in enumerate(values)}
        clean = wording.fill(TEMPLATE, **slots, asked=keys[right])
        other = (right + 1 + int(twin_rng.integers(PAIRS - 1))) % PAIRS
        twin = wording.fill(TEMPLATE, **slots, asked=keys[other])
        tokens = [wording.answer(clean.text, value) for value in values]
        return Prompt(
            clean_ids=clean.ids,
            answer_ids=(tokens[right],),
            wrong_ids=tuple(token for place, token in enumerate(tokens) if place != right),
            metric_positions=(len(clean.ids) - 1,),
            clean=clean.text,
            positions={
                "KEY": clean.at[f"key{right}"],
                "VALUE": clean.at[f"value{right}"],
                "ASKED": clean.at["asked"],
                "END": len(clean.ids) - 1,
            },
            corrupted_ids=twin.ids,
            corrupted=twin.text,
        )

    notes = (*wording.notes, *wording.left_out("words", WORDS, words))
    return Made(ask.draw(ask.total, one), ask.prompts, 1 / PAIRS, notes, {"pairs": PAIRS})
