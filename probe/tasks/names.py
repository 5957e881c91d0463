"""The planted models' indirect-object task: names among made-up words, the answer is the name that came once."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from probe.planted.prompts import name_prompt
from probe.planted.words import NAMES, VOCABULARY, planted_words
from probe.tasks.ask import Ask, Made
from probe.tasks.task import Prompt

CORRUPTIONS = ("s2_io", "abc")
LENGTH = 24


def names(ask: Ask) -> Made:
    """`<bos> … IO … S … S … <end>` → IO, places drawn anew for each prompt; corruptions as in `ioi`.

    Raises TokensError for a model whose vocabulary is not the planted one, and for prompts under 8 tokens.
    """
    if not is_planted(ask.tokenizer):
        raise ask.error("it is made of the planted models' vocabulary, which this tokenizer lacks; choose ioi")
    length = LENGTH if ask.length is None else ask.length
    rng, twin_rng = ask.generator(), ask.generator(1)
    words = planted_words()

    def one(_: int) -> Prompt:
        made = name_prompt(length, seed=int(rng.integers(1 << 62)))
        at = made.positions
        twin = list(made.ids)
        if ask.corruption == "s2_io":
            twin[at["S2"]] = made.io
        else:
            free = [name for name in NAMES if name not in (made.io, made.s)]
            drawn = twin_rng.choice(free, 3, replace=False).tolist()
            for place, name in zip(("IO", "S1", "S2"), drawn, strict=True):
                twin[at[place]] = name
        return Prompt(
            clean_ids=tuple(made.ids),
            answer_ids=(made.io,),
            wrong_ids=(made.s,),
            metric_positions=(length - 1,),
            clean=" ".join(words[token] for token in made.ids),
            positions={"IO": at["IO"], "S1": at["S1"], "S1+1": at["S1"] + 1, "S2": at["S2"], "END": at["END"]},
            corrupted_ids=tuple(twin),
            corrupted=" ".join(words[token] for token in twin),
        )

    notes = ("<bos> first, as the planted models want it", "names stand at other places in every prompt")
    return Made(ask.draw(ask.total, one), ask.prompts, chance=0.5, notes=notes)


def is_planted(tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Whether the tokenizer has the planted models' vocabulary, word for word."""
    if tokenizer is None or len(tokenizer) != VOCABULARY:
        return False
    return tokenizer.convert_ids_to_tokens(list(range(VOCABULARY))) == planted_words()
