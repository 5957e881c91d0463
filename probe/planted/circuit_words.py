"""The words of the planted circuits' model: two domains that share no token, and its tokenizer."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from probe.planted.words import word_tokenizer

TASK_NAMES = ("recall", "translate")
"""The two tasks; each has a domain of its own, in this order."""
CIRCUIT_MARKS = ("<bos>", "<unk>", "<sep>", "<ask>")
DOMAIN = 8
"""Keys, and as many questions and values, of each domain."""
FILLERS = ("and", "then", "also", "so", "well", "now", "but", "still")
KEYS = ("Ada", "Ben", "Carl", "Dora", "Emil", "Fred", "Gail", "Hugo",
        "house", "tree", "dog", "bread", "water", "book", "horse", "moon")  # fmt: skip
QUESTIONS = ("Ada?", "Ben?", "Carl?", "Dora?", "Emil?", "Fred?", "Gail?", "Hugo?",
             "maison", "arbre", "chien", "pain", "eau", "livre", "cheval", "lune")  # fmt: skip
VALUES = ("red", "blue", "green", "black", "white", "pink", "brown", "grey",
          "one", "two", "three", "four", "five", "six", "seven", "eight")  # fmt: skip
"""Question i asks for key i; the first `DOMAIN` of each are `recall`'s, the others `translate`'s."""
CIRCUIT_WORDS = (*CIRCUIT_MARKS, *FILLERS, *KEYS, *QUESTIONS, *VALUES)
"""The 60 tokens by id."""


def ids_of(words: tuple[str, ...]) -> range:
    """The ids of one of the lists above, which are consecutive."""
    first = CIRCUIT_WORDS.index(words[0])
    return range(first, first + len(words))


def domain_of(task: str) -> slice:
    """Which of the 16 keys, questions and values are a task's; `task` is one of `TASK_NAMES`."""
    first = TASK_NAMES.index(task) * DOMAIN
    return slice(first, first + DOMAIN)


def circuit_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word between white space; adds no specials itself; the four marks are special tokens."""
    return word_tokenizer(CIRCUIT_WORDS, ("<sep>", "<ask>"), "planted-circuits")


def has_circuit_words(tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Whether the tokenizer has this vocabulary, word for word."""
    if tokenizer is None or len(tokenizer) != len(CIRCUIT_WORDS):
        return False
    return tokenizer.convert_ids_to_tokens(list(range(len(CIRCUIT_WORDS)))) == list(CIRCUIT_WORDS)
