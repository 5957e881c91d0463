"""The tasks of the planted circuits: the value of the key that is asked for, in two domains.

`recall`: `<bos> Ada red and Ben blue … <sep> Ada? <ask>` → red. `translate`: `house one … <sep> maison <ask>` → one,
for which the model must know that maison asks for house. The `new_pairs` twin has other keys and other values at the
same places, and asks for another pair: everything that a prompt is about differs, and only that.
"""

from __future__ import annotations

import numpy as np

from probe.planted.circuit_heads import LONGEST
from probe.planted.circuit_words import (
    CIRCUIT_WORDS,
    DOMAIN,
    FILLERS,
    KEYS,
    QUESTIONS,
    VALUES,
    domain_of,
    has_circuit_words,
    ids_of,
)
from probe.tasks.ask import Ask, Made
from probe.tasks.task import Prompt

CORRUPTIONS = ("new_pairs",)
PAIRS = DOMAIN // 2
LENGTH = 16
SHORTEST = 2 * PAIRS + 4


def pairs(ask: Ask) -> Made:
    """Four pairs among filler words, `<sep>`, a question, `<ask>`; the wrong answer is another pair's value.

    Positions: KEY, VALUE (of the pair asked for), OTHER (the wrong answer), QUESTION, END. The twin's values are none
    of the clean prompt's, so that its answer counts neither as right nor as wrong there.

    Raises TokensError for a tokenizer that lacks these words, and for prompts of under 12 or over 64 tokens.
    """
    if not has_circuit_words(ask.tokenizer):
        raise ask.error("it is made of the planted circuits' words, which this tokenizer lacks; use planted-circuits")
    length = LENGTH if ask.length is None else ask.length
    if not SHORTEST <= length <= LONGEST:
        raise ask.error(f"prompts of {length} tokens; wanted {SHORTEST} to {LONGEST}")
    rng = ask.generator()
    made = ask.draw(ask.total, lambda _: _prompt(ask.task, length, rng))
    notes = ("<bos> first, as the planted models want it", "pairs stand at other places in every prompt")
    return Made(made, ask.prompts, chance=0.5, notes=notes)


def _prompt(task: str, length: int, rng: np.random.Generator) -> Prompt:
    domain = domain_of(task)
    questions, values = list(ids_of(QUESTIONS))[domain], list(ids_of(VALUES))[domain]
    keys = list(ids_of(KEYS))[domain]
    # Half of the domain for the prompt, the other half for its twin.
    key, value = rng.permutation(DOMAIN), rng.permutation(DOMAIN)
    asked, wrong, twin_asked = (*rng.permutation(PAIRS)[:2], int(rng.integers(PAIRS)))
    if twin_asked == asked:
        twin_asked = (asked + 1) % PAIRS
    filler = rng.choice(list(ids_of(FILLERS)), length).tolist()
    # Fillers before each pair, before <sep> and before <ask>.
    gaps = np.bincount(rng.integers(PAIRS + 2, size=length - SHORTEST), minlength=PAIRS + 2)
    starts = 1 + np.cumsum(gaps[:PAIRS]) + 2 * np.arange(PAIRS)
    sep = int(starts[-1] + 2 + gaps[PAIRS])

    def ids(half: int, chosen: int) -> tuple[int, ...]:
        tokens = [CIRCUIT_WORDS.index("<bos>"), *filler[1:]]
        for place, k, v in zip(starts, key[half:], value[half:], strict=False):
            tokens[place], tokens[place + 1] = keys[k], values[v]
        tokens[sep], tokens[sep + 1] = CIRCUIT_WORDS.index("<sep>"), questions[key[half + chosen]]
        tokens[-1] = CIRCUIT_WORDS.index("<ask>")
        return tuple(int(token) for token in tokens)

    clean, twin = ids(0, asked), ids(PAIRS, twin_asked)
    return Prompt(
        clean_ids=clean,
        answer_ids=(values[value[asked]],),
        wrong_ids=(values[value[wrong]],),
        metric_positions=(length - 1,),
        clean=" ".join(CIRCUIT_WORDS[token] for token in clean),
        positions={
            "KEY": int(starts[asked]),
            "VALUE": int(starts[asked]) + 1,
            "OTHER": int(starts[wrong]) + 1,
            "QUESTION": sep + 1,
            "END": length - 1,
        },
        corrupted_ids=twin,
        corrupted=" ".join(CIRCUIT_WORDS[token] for token in twin),
    )
