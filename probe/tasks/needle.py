"""A needle in a haystack: a made-up fact in a long text, asked for at the end, its answer fed in and judged.

The prompts are those of the retrieval analysis (`probe.analyses.needles`). The `other_answer` twin tells another
needle's answer in place of this one, in the haystack and after the question.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from probe.analyses.needles import NEEDLES, Needle, Trial, encode_needle, make_trials, word_needles
from probe.planted.prompts import planted_text
from probe.planted.words import NEEDLE_WORDS, planted_words
from probe.tasks.ask import Ask, Made
from probe.tasks.names import is_planted
from probe.tasks.task import Prompt
from probe.tasks.wording import Wording
from probe.tokens import natural_text

CORRUPTIONS = ("other_answer",)
LENGTH = 256
DEPTHS = (50.0, 0.0, 100.0, 25.0, 75.0)
SPARE = 8
"""Trials made beyond those wanted, in case two are alike."""


@dataclass(frozen=True)
class _Chosen:
    needles: tuple[Needle, ...]
    answers: tuple[tuple[int, ...], ...]
    judged: int
    notes: tuple[str, ...]


def needle(ask: Ask) -> Made:
    """Haystack with a needle, question, and all but the last of the answer's judged tokens; one length in all.

    Judged: the answer's first tokens, as many as most answers have. Answer at the last of them: that token; wrong:
    what the twin's answer has there. Depths take turns, so do needles; prompts of one needle share a group. Positions:
    ANSWER (the answer in the haystack), ASKED (the question's first token), END. Raises TokensError for a text that
    is too short, and where the tokenizer cannot ask.
    """
    wording = Wording(ask)
    planted = is_planted(ask.tokenizer)
    length = LENGTH if ask.length is None else ask.length
    chosen = _choose(ask, wording, _needles(ask, planted))
    if ask.text is not None:
        hay, source = ask.text, "the text given"
    else:
        hay, source = (planted_text(8 * length, seed=ask.seed), "planted text") if planted else (
            natural_text(), "pydoc_data.topics"
        )  # fmt: skip
    wanted = ask.total + SPARE
    trials = make_trials(
        wording.tokenizer,
        hay,
        chosen.needles,
        lengths=(length - chosen.judged + 1,),
        depths=[DEPTHS[index % len(DEPTHS)] for index in range(wanted)],
        trials=1,
        seed=ask.seed,
        bos=wording.bos is not None,
    )
    rng = ask.generator(1)
    made = {tuple(trial.prompt_ids): _prompt(wording, trial, chosen, rng) for trial in trials}
    prompts = tuple(made.values())[: ask.total]
    if len(prompts) < ask.total:
        raise ask.error(f"{len(prompts)} different prompts of {ask.total} in {source}; give a longer text")
    notes = (*wording.notes, f"haystack: {source}", *chosen.notes)
    parameters = {"depths": sorted(DEPTHS), "needles": len(chosen.needles), "judged": chosen.judged}
    # Guessing evenly over the vocabulary.
    return Made(prompts, ask.prompts, 1 / ask.vocabulary, notes, parameters)


def _needles(ask: Ask, planted: bool) -> tuple[Needle, ...]:
    if not planted:
        return NEEDLES
    words = planted_words()
    return word_needles([words[token] for token in NEEDLE_WORDS], len(NEEDLE_WORDS) // 7, ask.seed)


def _choose(ask: Ask, wording: Wording, needles: tuple[Needle, ...]) -> _Chosen:
    """The needles whose answer is long enough, and as long as another's that ends otherwise: those have a twin."""
    spans = [encode_needle(wording.tokenizer, one) for one in needles]
    answers = [tuple(one.ids[slice(*one.answer)]) for one in spans]
    lengths = Counter(len(answer) for answer in answers)
    judged = max(sorted(lengths), key=lengths.__getitem__)
    kept = [i for i, answer in enumerate(answers) if len(answer) >= judged and _twins(answer, answers, judged)]
    if len(kept) < 2:
        raise ask.error(f"{len(kept)} needles of this tokenizer have a twin; wanted 2 or more")
    dropped = len(needles) - len(kept)
    note = f"{dropped} of {len(needles)} needles left out: an answer under {judged} tokens, or as long as no other"
    said = f"the first {judged} tokens of each answer are judged"
    return _Chosen(
        tuple(needles[i] for i in kept), tuple(answers[i] for i in kept), judged, (said, note) if dropped else (said,)
    )


def _twins(answer: tuple[int, ...], answers: list[tuple[int, ...]], judged: int) -> list[tuple[int, ...]]:
    return [one for one in answers if len(one) == len(answer) and one[judged - 1] != answer[judged - 1]]


def _prompt(wording: Wording, trial: Trial, chosen: _Chosen, rng: np.random.Generator) -> Prompt:
    answer, judged = tuple(trial.answer_ids), chosen.judged
    others = _twins(answer, list(chosen.answers), judged)
    other = others[int(rng.integers(len(others)))]
    start, stop = trial.answer
    asked = len(trial.prompt_ids)
    clean = (*trial.prompt_ids, *answer[: judged - 1])
    twin = (*trial.prompt_ids[:start], *other, *trial.prompt_ids[stop:], *other[: judged - 1])
    question = len(encode_needle(wording.tokenizer, chosen.needles[trial.group]).question)
    return Prompt(
        clean_ids=clean,
        answer_ids=(answer[judged - 1],),
        wrong_ids=(other[judged - 1],),
        metric_positions=tuple(range(asked - 1, asked - 1 + judged)),
        target_ids=answer[:judged],
        clean=wording.text(clean),
        group=f"needle {trial.group}",
        positions={"ANSWER": start, "ASKED": asked - question, "END": len(clean) - 1},
        corrupted_ids=twin,
        corrupted=wording.text(twin),
    )
