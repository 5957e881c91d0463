"""Multi-query associative recall: pairs of a key and a value, then every key again in another order, each answered.

After Arora et al. (Zoology, arXiv 2312.04927), with ordinary ids of the model's own vocabulary, drawn at random and
all different, in place of a vocabulary made for the task. The `other_values` twin gives every key another key's value,
before and after, so that it is a right prompt of its own.
"""

from __future__ import annotations

import numpy as np

from probe.tasks.ask import Ask, Made
from probe.tasks.random_ids import RandomIds
from probe.tasks.task import Prompt

CORRUPTIONS = ("other_values",)
PAIRS = 16


def mqar(ask: Ask) -> Made:
    """[BOS if the model has one] + k v k v … + the keys again in random order, each with its value.

    Judged at every key of the second part. Answer at the last of them: its value; wrong: all other values. length: of
    the whole prompt, 4 tokens a pair and the BOS; default 16 pairs. Positions: QUERIES (the first asked key), END.
    Raises TokensError for a length that does not fit.
    """
    ids = RandomIds(ask)
    first = len(ids.first)
    length = 4 * PAIRS + first if ask.length is None else ask.length
    pairs, rest = divmod(length - first, 4)
    if rest or pairs < 2:
        raise ask.error(
            f"length {length} leaves {length - first} tokens for pairs asked and answered; wanted a multiple of 4, "
            "8 or more"
        )
    rng, twin_rng = ask.generator(), ask.generator(1)
    queries = first + 2 * pairs

    def one(_: int) -> Prompt:
        drawn = ids.draw(rng, 2 * pairs)
        keys, values = drawn[:pairs], drawn[pairs:]
        order = [int(i) for i in rng.permutation(pairs)]
        turned = _turned(pairs, twin_rng)
        others = tuple(values[i] for i in turned)
        clean, twin = (
            (*ids.first, *_paired(keys, said, range(pairs)), *_paired(keys, said, order)) for said in (values, others)
        )
        return Prompt(
            clean_ids=clean,
            answer_ids=(values[order[-1]],),
            wrong_ids=tuple(values[i] for i in order[:-1]),
            metric_positions=tuple(range(queries, length, 2)),
            target_ids=tuple(values[i] for i in order),
            clean=ids.text(clean),
            positions={"QUERIES": queries, "END": length - 2},
            corrupted_ids=twin,
            corrupted=ids.text(twin),
        )

    parameters = {"pairs": pairs, "bos": ids.bos}
    return Made(ask.draw(ask.total, one), ask.prompts, 1 / pairs, ids.notes, parameters)


def _paired(keys: tuple[int, ...], values: tuple[int, ...], order: list[int] | range) -> tuple[int, ...]:
    return tuple(token for index in order for token in (keys[index], values[index]))


def _turned(count: int, rng: np.random.Generator) -> list[int]:
    """A permutation that leaves nothing in its place: one round through all of them, in random order."""
    round_trip = rng.permutation(count)
    turned = np.empty(count, dtype=np.int64)
    turned[round_trip] = np.roll(round_trip, -1)
    return [int(i) for i in turned]
