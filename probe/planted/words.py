"""The planted models' vocabulary and tokenizer: readable made-up words, names, and four marks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

VOCABULARY = 4096
BOS, UNKNOWN, DELIMITER, END = range(4)
# fmt: off
_FIRST_NAMES = [
    "Ada", "Alan", "Amy", "Anna", "Ben", "Carl", "Cleo", "Dan", "Dora", "Ed", "Ella", "Emil", "Eva",
    "Finn", "Fred", "Gail", "Greta", "Hana", "Hugo", "Ida", "Ilse", "Ivan", "Jack", "Jane", "Jens",
    "Joan", "Karl", "Kate", "Klara", "Lars", "Lena", "Leo", "Lise", "Lucy", "Luis", "Maja", "Marc",
    "Mary", "Max", "Mia", "Mona", "Nell", "Nils", "Nina", "Noah", "Nora", "Olga", "Omar", "Otto", "Paul",
    "Pia", "Rex", "Rita", "Rosa", "Ruth", "Sam", "Sara", "Theo", "Tina", "Tom", "Ulla", "Vera", "Will",
    "Zoe",
]
# fmt: on
NAMES = range(4, 4 + len(_FIRST_NAMES))
NEEDLE_WORDS = range(VOCABULARY - 256, VOCABULARY)
"""Ids kept for needles: `planted_prompts` never puts them into a haystack."""
WORDS = range(NAMES.stop, NEEDLE_WORDS.start)


def planted_words() -> list[str]:
    """The 4,096 tokens by id: `<bos>`, `<unk>`, `<sep>` (the delimiter), `<end>`, 64 names, made-up words."""
    syllables = [a + b for a, b in itertools.product("bdfghjklmnprstvz", "aeiou")]
    made_up = ("".join(pair) for pair in itertools.product(syllables, syllables))
    marks = ["<bos>", "<unk>", "<sep>", "<end>"]
    return [*marks, *_FIRST_NAMES, *itertools.islice(made_up, VOCABULARY - NAMES.stop)]


def planted_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word between white space; adds no specials itself; the four marks are special tokens."""
    return word_tokenizer(planted_words(), ("<sep>", "<end>"), "planted")


def word_tokenizer(words: Sequence[str], marks: Sequence[str], name: str) -> PreTrainedTokenizerFast:
    """One token per word between white space, ids in the order of `words`, which hold `<bos>`, `<unk>` and `marks`."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    # The annotation stands in for the types that transformers does not give.
    make: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    return make(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens=list(marks),
        name_or_path=name,
    )
