"""Language modelling: the loss on natural text; also of its recall hits alone, and of the rest alone.

A recall hit is a position whose next token completes a pair of tokens seen before in the prompt (Arora et al., arXiv
2312.04927): what a model may have looked up in its context; the rest it must know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from probe.planted.prompts import planted_text
from probe.tasks.ask import Ask, Made
from probe.tasks.names import is_planted
from probe.tasks.task import Prompt
from probe.tasks.wording import Wording
from probe.tokens import natural_text, tokenise

LENGTH = 256


def lm(ask: Ask) -> Made:
    """Pieces of text judged at every token but the last. Raises TokensError for a text too short or unknown."""
    return _made(ask, lambda ids, _: tuple(range(len(ids) - 1)), "every position is judged")


def lm_recall(ask: Ask) -> Made:
    """Pieces of text judged at as many of their recall hits as a sixteenth of their length, drawn at random.

    A piece with fewer hits is passed over, and a note says how many were. Raises TokensError as `lm`.
    """
    length = LENGTH if ask.length is None else ask.length
    count = max(length // 16, 1)
    return _made(ask, lambda ids, rng: _some(recall_hits(ids), count, rng), f"{count} recall hits of each are judged")


def lm_rest(ask: Ask) -> Made:
    """Pieces of text judged at as many positions that are no recall hits as a quarter of their length, at random.

    A piece with fewer of them is passed over, and a note says how many were. Raises TokensError as `lm`.
    """
    length = LENGTH if ask.length is None else ask.length
    count = max(length // 4, 1)

    def rest(ids: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
        hits = set(recall_hits(ids))
        return _some([place for place in range(len(ids) - 1) if place not in hits], count, rng)

    return _made(ask, rest, f"{count} positions of each that are no recall hits are judged")


def recall_hits(ids: Sequence[int]) -> list[int]:
    """Positions i where (ids[i], ids[i+1]) occurred as neighbours before: at some j < i, ids[j] and ids[j+1]."""
    seen: set[tuple[int, int]] = set()
    hits = []
    for place in range(len(ids) - 1):
        pair = (ids[place], ids[place + 1])
        if pair in seen:
            hits.append(place)
        seen.add(pair)
    return hits


def _some(places: Sequence[int], count: int, rng: np.random.Generator) -> tuple[int, ...]:
    """`count` of the places in order; none where there are fewer."""
    if len(places) < count:
        return ()
    return tuple(sorted(int(place) for place in rng.choice(places, size=count, replace=False)))


def _made(ask: Ask, judged: Callable[[Sequence[int], np.random.Generator], tuple[int, ...]], what: str) -> Made:
    length = LENGTH if ask.length is None else ask.length
    if length < 8:
        raise ask.error(f"length {length}; wanted 8 tokens or more")
    wording = Wording(ask)
    pieces, source = _pieces(ask, wording, length)
    rng = ask.generator(1)
    prompts: list[Prompt] = []
    passed = 0
    for ids in pieces:
        places = judged(ids, rng)
        passed += not places
        if places:
            prompts.append(_prompt(wording, ids, places))
        if len(prompts) == ask.total:
            break
    short = ask.prompts if ask.held_out is None else ask.total
    if len(prompts) < short:
        raise ask.error(
            f"{len(prompts)} pieces of {length} tokens in {source}; wanted {short}: ask for fewer or shorter"
        )
    held = len(prompts) - ask.prompts
    notes = [*wording.notes, f"text: {source}", what]
    notes += [f"{passed} pieces passed over: too few positions to judge"] if passed else []
    notes += [f"{held} pieces held out: the text has no more"] if len(prompts) < ask.total else []
    # Guessing evenly over the vocabulary.
    return Made(tuple(prompts), ask.prompts, 1 / ask.vocabulary, tuple(notes))


def _pieces(ask: Ask, wording: Wording, length: int) -> tuple[list[tuple[int, ...]], str]:
    """Disjoint pieces in seeded order, no two alike; for a planted model, texts written for it."""
    rng = ask.generator()
    own = length - len(wording.first)
    if ask.text is None and is_planted(ask.tokenizer):
        # Some are passed over by the parts, so there are a few more than wanted.
        texts = [planted_text(own, seed=int(rng.integers(1 << 62))) for _ in range(ask.total + ask.total // 4 + 8)]
        return list(dict.fromkeys(wording.ids(text) for text in texts)), "planted text"
    text = natural_text() if ask.text is None else ask.text
    ids = tokenise(wording.tokenizer, text)
    cut = [(*wording.first, *ids[start : start + own]) for start in range(0, len(ids) - own + 1, own)]
    ordered = [cut[int(i)] for i in rng.permutation(len(cut))]
    return list(dict.fromkeys(ordered)), "pydoc_data.topics" if ask.text is None else "the text given"


def _prompt(wording: Wording, ids: tuple[int, ...], places: tuple[int, ...]) -> Prompt:
    targets = tuple(ids[place + 1] for place in places)
    return Prompt(
        clean_ids=ids,
        answer_ids=(targets[-1],),
        wrong_ids=(),
        metric_positions=places,
        target_ids=targets,
        clean=wording.text(ids),
        positions={"END": places[-1]},
    )
