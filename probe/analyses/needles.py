"""Needles: sentences with a made-up fact, hidden in a long text, and the prompts that ask for them back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from probe.errors import TokensError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s)")


@dataclass(frozen=True)
class Needle:
    """One fact: the sentence is `before + answer + after`; the prompt ends with `question`, to be completed.

    `answer` begins with the space that separates it, so that it is spelt alike in the sentence and after the
    question. Trials with one needle are no independent witnesses: they are resampled together.
    """

    before: str
    answer: str
    after: str
    question: str


def _fact(before: str, answer: str) -> Needle:
    return Needle(f" {before}", f" {answer}", ".", f"\n\n{before}")


NEEDLES: tuple[Needle, ...] = tuple(
    _fact(before, answer)
    for before, answer in (
        ("The secret ingredient of the mountain soup is", "crushed violet petals"),
        ("The captain of the grey ship hid her map under", "the third lantern"),
        ("The password of the old observatory is", "copper whale morning"),
        ("The clockmaker of Velden painted his front door", "pale orange and silver"),
        ("The favourite fruit of the lighthouse keeper is", "dried mulberries"),
        ("The night train to Orsk carries a cargo of", "broken violins"),
        ("The oldest tree in the garden was planted by", "a retired trumpet player"),
        ("The baker's youngest daughter wants to become", "a glacier surveyor"),
        ("The tunnel under the castle ends behind", "the blue bakery"),
        ("The prize of the winter regatta is", "a barrel of smoked eels"),
        ("The museum of Tarn keeps its largest diamond inside", "a wooden duck"),
        ("The mayor of Quillby always travels with", "two tame ravens"),
        ("The letter that Marta burned was written in", "green candle wax"),
        ("The bridge over the Lune was closed because of", "nesting falcons"),
        ("The best medicine for a tired camel is", "warm pumpkin broth"),
        ("The judge of the singing contest was paid with", "seven jars of honey"),
        ("The code word of the harbour police is", "velvet thunder"),
        ("The strangest gift at the wedding was", "a map of underground rivers"),
        ("The monks of Saint Alder brew their beer from", "roasted chestnuts"),
        ("The pilot found the missing suitcase in", "an abandoned greenhouse"),
        ("The astronomer named the new comet after", "her piano teacher"),
        ("The key to the archive is kept beneath", "the marble tortoise"),
        ("The winning chess move was discovered by", "a seasick plumber"),
        ("The ghost of the opera house is afraid of", "purple umbrellas"),
        ("The village of Ansel pays its taxes in", "salted butter"),
        ("The detective recognised the thief by", "his squeaking left boot"),
        ("The first rule of the beekeepers' guild is", "never whistle at noon"),
        ("The carpenter built the cradle out of", "an old cherry door"),
        ("The dragon in the school play was made from", "old theatre curtains"),
        ("The signal to open the city gate is", "three slow drumbeats"),
    )
)
"""Our own facts, made up so that no model can know them. The question repeats the beginning of the sentence:
of the forms tried on a small chat-tuned model (with and without a question mark, a lead-in, "as the text
says") it is the one that is nearly always answered; retrieval is only measured where the model succeeds."""


def word_needles(words: Sequence[str], count: int, seed: int = 0) -> tuple[Needle, ...]:
    """Needles for a model with a vocabulary of its own: two words to ask by, four to answer, one to end on.

    No word is used twice, so a needle shares no token with another. Raises TokensError for too few words.
    """
    if len(words) < 7 * count:
        raise TokensError(f"{len(words)} words for {count} needles; wanted 7 a needle")
    drawn = np.random.default_rng(seed).permutation(len(words))[: 7 * count].reshape(count, 7)
    picked = [[words[index] for index in row] for row in drawn]
    return tuple(Needle(f" {a} {b}", f" {c} {d} {e} {f}", f" {g}", f" {a} {b}") for a, b, c, d, e, f, g in picked)


@dataclass(frozen=True)
class Trial:
    """One prompt: ids, the needle [s, e) and the answer [a, b) in it, and a control stretch of b − a tokens.

    depth: in per cent, as asked; the needle stands at the last sentence end at or before it. group: number of
    the needle, shared by trials that are resampled together.
    """

    index: int
    length: int
    depth: float
    prompt_ids: list[int]
    needle: tuple[int, int]
    answer: tuple[int, int]
    control: tuple[int, int]
    group: int
    seed: int

    @property
    def answer_ids(self) -> list[int]:
        """Ids of the answer within the prompt."""
        return self.prompt_ids[slice(*self.answer)]

    def record(self) -> dict[str, Any]:
        """The trial as a line of `trials.jsonl`."""
        return {**asdict(self), "answer_ids": self.answer_ids}


@dataclass(frozen=True)
class _Encoded:
    ids: list[int]
    answer: tuple[int, int]
    question: list[int]


@dataclass(frozen=True)
class Haystack:
    """A long text as ids, with the places where a sentence has just ended (before token i)."""

    ids: Int[np.ndarray, "n"]
    ends: Bool[np.ndarray, "n"]


def encode_haystack(tokenizer: PreTrainedTokenizerBase, text: str) -> Haystack:
    """The whole text as ids without specials, cut nowhere.

    Raises TokensError for empty text, and for a tokenizer that cannot say where its tokens lie in the text.
    """
    if not text.strip():
        raise TokensError("the haystack is empty; wanted text to hide needles in")
    if not tokenizer.is_fast:
        raise TokensError(
            f"{type(tokenizer).__name__} does not say where its tokens lie in the text; wanted a fast one"
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts = np.array([start for start, _ in encoded["offset_mapping"]], dtype=np.int64)
    ends = np.array([match.end() for match in _SENTENCE_END.finditer(text)], dtype=np.int64)
    # A token begins with the space before it, or, by other tokenizers, just after it.
    after = np.isin(starts, ends) | (np.isin(starts - 1, ends) & ~np.isin(starts - 1, starts))
    return Haystack(np.array(encoded["input_ids"], dtype=np.int64), after)


def encode_needle(tokenizer: PreTrainedTokenizerBase, needle: Needle) -> _Encoded:
    """The sentence as ids, the answer's span in it, and the question's ids.

    The span is known, not searched for: the ids of `before`, `before + answer` and the whole must be each
    the beginning of the next. Raises TokensError where they are not, where the answer is spelt otherwise
    after the question, or where the tokenizer does not know a word.
    """

    def ids(text: str) -> list[int]:
        return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]

    before, both = ids(needle.before), ids(needle.before + needle.answer)
    whole = ids(needle.before + needle.answer + needle.after)
    question, answered = ids(needle.question), ids(needle.question + needle.answer)
    answer = both[len(before) :]
    name = f"needle {needle.before + needle.answer + needle.after!r}"
    if both[: len(before)] != before or whole[: len(both)] != both or not answer:
        raise TokensError(f"{name}: its tokens run across the borders of the answer; word it otherwise")
    if answered != question + answer:
        raise TokensError(f"{name}: the answer has other tokens after the question; word it otherwise")
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in whole + question:
        raise TokensError(f"{name}: words unknown to the tokenizer; pass needles in its vocabulary")
    return _Encoded(whole, (len(before), len(both)), question)


def make_trials(
    tokenizer: PreTrainedTokenizerBase,
    haystack: str,
    needles: Sequence[Needle],
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    trials: int,
    seed: int,
    bos: bool = False,
) -> list[Trial]:
    """`trials` prompts for every length and depth: [BOS] haystack with a needle in it, question.

    lengths: tokens of a prompt, all told. depths: 0 (the needle first) to 100 (last before the question).
    Every trial cuts its own stretch of the haystack; needles take turns in a seeded order.
    Raises TokensError for a grid or a haystack that does not allow it.
    """
    _check_grid(lengths, depths, trials, needles)
    if bos and tokenizer.bos_token_id is None:
        raise TokensError("the tokenizer has no token to begin a text with; leave `bos` out")
    first = [int(tokenizer.bos_token_id)] if bos else []
    hay = encode_haystack(tokenizer, haystack)
    encoded = [encode_needle(tokenizer, needle) for needle in needles]
    order = np.random.default_rng(seed).permutation(len(needles))
    cells = [(length, depth) for length in lengths for depth in depths for _ in range(trials)]
    made = []
    for index, (length, depth) in enumerate(cells):
        group = int(order[index % len(needles)])
        made.append(_trial(index, length, depth, hay, encoded[group], group, first, seed))
    return made


def _check_grid(lengths: Sequence[int], depths: Sequence[float], trials: int, needles: Sequence[Needle]) -> None:
    for name, values in (("lengths", lengths), ("depths", depths), ("needles", needles)):
        if len(values) == 0:
            raise TokensError(f"no {name} given; wanted at least one")
    if trials < 1:
        raise TokensError(f"{trials} trials for each length and depth; wanted at least 1")
    wrong = [depth for depth in depths if not 0 <= depth <= 100]
    if wrong:
        raise TokensError(f"depth {wrong[0]:g}; wanted 0 to 100 per cent")


def _trial(
    index: int,
    length: int,
    depth: float,
    hay: Haystack,
    needle: _Encoded,
    group: int,
    first: list[int],
    seed: int,
) -> Trial:
    span = needle.answer[1] - needle.answer[0]
    room = length - len(first) - len(needle.ids) - len(needle.question)
    if room < 2 * span:
        raise TokensError(
            f"a prompt of {length} tokens leaves {max(room, 0)} for the haystack beside needle and question; "
            f"wanted at least {2 * span}: ask for longer prompts"
        )
    if len(hay.ids) < room:
        raise TokensError(
            f"the haystack has {len(hay.ids)} tokens; prompts of {length} need {room}: "
            "give a longer text or shorter lengths"
        )
    rng = np.random.default_rng([seed, index])
    offset = int(rng.integers(len(hay.ids) - room + 1))
    cut = hay.ids[offset : offset + room].tolist()
    place = _place(hay.ends[offset : offset + room], depth)
    start = len(first) + place
    return Trial(
        index=index,
        length=length,
        depth=depth,
        prompt_ids=first + cut[:place] + needle.ids + cut[place:] + needle.question,
        needle=(start, start + len(needle.ids)),
        answer=(start + needle.answer[0], start + needle.answer[1]),
        control=_control(rng, room, place, span, len(first), len(needle.ids)),
        group=group,
        seed=seed,
    )


def _place(ends: Bool[np.ndarray, "n"], depth: float) -> int:
    """The last sentence end at or before the depth; the depth itself where no sentence has ended by then."""
    wanted = round(len(ends) * depth / 100)
    if wanted in (0, len(ends)):
        return wanted
    ended = np.flatnonzero(ends[: wanted + 1])
    return int(ended[-1]) if len(ended) else wanted


def _control(rng: np.random.Generator, room: int, place: int, span: int, first: int, needle: int) -> tuple[int, int]:
    """A stretch of `span` tokens drawn uniformly from those that lie whole in the haystack."""
    before = max(place - span + 1, 0)
    after = max(room - place - span + 1, 0)
    drawn = int(rng.integers(before + after))
    start = first + (drawn if drawn < before else place + needle + drawn - before)
    return start, start + span
