"""Token sequences with known answers for the planted models; every draw comes from the given seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe.errors import TokensError
from probe.planted.words import BOS, DELIMITER, END, NAMES, NEEDLE_WORDS, WORDS, planted_words


@dataclass(frozen=True)
class NeedlePrompt:
    """`ids` end with the needle's first token, so that a copying model goes on with `answer_ids`.

    `needle` = [s, e) and `answer` = [a, b) are positions in `ids`; `answer_ids` = ids[a:b].
    """

    ids: list[int]
    needle: tuple[int, int]
    answer: tuple[int, int]
    answer_ids: list[int]


@dataclass(frozen=True)
class NamePrompt:
    """`<bos> … IO … S … S … <end>`, the first two in either order: the answer is the name that came once."""

    ids: list[int]
    io: int
    s: int
    positions: dict[str, int]


def repeated_tokens(length: int, *, seed: int = 0) -> list[int]:
    """`<bos> <sep>` + R + R, R drawn without replacement from the words, cut to `length` tokens.

    Raises `TokensError` where R would need more words than there are, or fewer than 2.
    """
    n = (length - 1) // 2
    if not 2 <= n <= len(WORDS):
        raise TokensError(f"repeated tokens: found length {length}, wanted 5 to {2 * len(WORDS) + 2}; choose one there")
    words = np.random.default_rng(seed).choice(WORDS, size=n, replace=False).tolist()
    return [BOS, DELIMITER, *words, *words][:length]


def needle_prompt(length: int, *, depth: float = 50, needle_length: int = 12, seed: int = 0) -> NeedlePrompt:
    """Random words with one needle of reserved ids, `length` tokens in all, ending on the needle's first.

    `depth` in percent: 0 puts the needle right after `<bos>`, 100 right before the question.

    Raises `TokensError` where the needle does not fit, or `depth` is not within 0 … 100.
    """
    hay = length - 2 - needle_length
    if hay < 0 or not 2 <= needle_length <= len(NEEDLE_WORDS) or not 0 <= depth <= 100:
        raise TokensError(
            f"needle prompt: found length {length}, needle_length {needle_length}, depth {depth}; wanted a "
            f"needle of 2 to {len(NEEDLE_WORDS)} tokens, 2 tokens more in all, and a depth of 0 to 100"
        )
    rng = np.random.default_rng(seed)
    words = rng.choice(WORDS, size=hay).tolist()
    needle = rng.choice(NEEDLE_WORDS, size=needle_length, replace=False).tolist()
    at = round(hay * depth / 100)
    start, stop = 1 + at, 1 + at + needle_length
    ids = [BOS, *words[:at], *needle, *words[at:], needle[0]]
    return NeedlePrompt(ids, (start, stop), (start + 1, stop), needle[1:])


def name_prompt(length: int, *, seed: int = 0) -> NamePrompt:
    """Indirect-object prompt: two names, one of them again, random words between, `<end>` last.

    Raises `TokensError` where `length` is under 8 tokens.
    """
    if length < 8:
        raise TokensError(f"name prompt: found length {length}, wanted 8 or more; ask for a longer one")
    rng = np.random.default_rng(seed)
    ids = [BOS, *rng.choice(WORDS, size=length - 2).tolist(), END]
    io, s = rng.choice(NAMES, size=2, replace=False).tolist()
    first, second, again = sorted(rng.choice(np.arange(1, length - 1), size=3, replace=False).tolist())
    io_at, s_at = (first, second) if rng.random() < 0.5 else (second, first)
    ids[io_at], ids[s_at], ids[again] = io, s, s
    return NamePrompt(ids, io, s, {"IO": io_at, "S1": s_at, "S2": again, "END": length - 1})


def planted_text(n_words: int, *, seed: int = 0) -> str:
    """Text for the planted tokenizer: sentences of 8 to 20 words, parted by `<sep>`, some of them repeated.

    One token a word. A third of the sentences come again later, so that copying heads have something to do.
    Raises `TokensError` where `n_words` is under 1.
    """
    if n_words < 1:
        raise TokensError(f"planted text: found {n_words} words, wanted 1 or more; ask for more")
    rng = np.random.default_rng(seed)
    vocabulary = planted_words()
    sentences: list[list[int]] = []
    total = 0
    while total < n_words:
        if sentences and rng.random() < 1 / 3:
            sentence = sentences[int(rng.integers(len(sentences)))]
        else:
            sentence = [*rng.choice(WORDS, size=int(rng.integers(8, 21))).tolist(), DELIMITER]
        sentences.append(sentence)
        total += len(sentence)
    words = [vocabulary[token] for sentence in sentences for token in sentence]
    return " ".join(words[:n_words])
