"""Induction: a random sequence comes again, and every token of the second copy but the first can be foretold.

After Olsson et al. (2022) and METRICS' `_random` sequences: [BOS if the model has one] + R + R, R distinct ids, none
special. The `shuffled` twin has the first copy in an order in which no token is followed by the one that followed it
before, so that what the second copy asks for is wrong in it; the second copy is untouched.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from probe.tasks.ask import Ask, Made
from probe.tasks.random_ids import RandomIds
from probe.tasks.task import Prompt

CORRUPTIONS = ("shuffled",)
DISTINCT = 32


def induction(ask: Ask) -> Made:
    """[BOS] + R + R, judged at every token of the second copy that can be foretold: R − 1 targets.

    Answer at the last of them: R's last token; wrong: what the shuffled first copy would have there. length: of the
    whole prompt, the BOS included; default 32 distinct ids. Raises TokensError for a length that does not fit.
    """
    ids = RandomIds(ask)
    first = len(ids.first)
    length = 2 * DISTINCT + first if ask.length is None else ask.length
    distinct, odd = divmod(length - first, 2)
    if odd or distinct < 4:
        raise ask.error(
            f"length {length} leaves {length - first} tokens for two equal copies; wanted an even number, 8 or more"
        )
    rng, twin_rng = ask.generator(), ask.generator(1)

    def one(_: int) -> Prompt:
        copy = ids.draw(rng, distinct)
        other = _shuffled(copy, twin_rng)
        begins = first + distinct
        clean, twin = (*ids.first, *copy, *copy), (*ids.first, *other, *copy)
        return Prompt(
            clean_ids=clean,
            answer_ids=(copy[-1],),
            wrong_ids=(other[other.index(copy[-2]) + 1],),
            metric_positions=tuple(range(begins, begins + distinct - 1)),
            target_ids=copy[1:],
            clean=ids.text(clean),
            positions={"FIRST": first, "SECOND": begins, "END": begins + distinct - 2},
            corrupted_ids=twin,
            corrupted=ids.text(twin),
        )

    parameters = {"distinct": distinct, "bos": ids.bos}
    return Made(ask.draw(ask.total, one), ask.prompts, 1 / distinct, ids.notes, parameters)


def _shuffled(copy: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """The same tokens so ordered that none is followed by its old successor, and the last but one is not last."""
    followed = set(pairwise(copy))
    while True:
        other = tuple(int(token) for token in rng.permutation(copy))
        if other[-1] != copy[-2] and not followed & set(pairwise(other)):
            return other
