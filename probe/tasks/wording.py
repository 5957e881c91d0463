"""Words to ids without assumptions: what is one token, and where it stands, is asked of the tokenizer each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from transformers import PreTrainedTokenizerBase

from probe.errors import TokensError
from probe.planted.words import BOS
from probe.tasks.ask import Ask
from probe.tasks.names import is_planted


@dataclass(frozen=True)
class Worded:
    """A filled template: its text, its ids, and the position at which each slot's first token stands."""

    text: str
    ids: tuple[int, ...]
    at: dict[str, int]


@dataclass(frozen=True)
class _Filled:
    """A template as it was first filled: its ids, its slots' beginnings, the places that slots take."""

    ids: tuple[int, ...]
    at: dict[str, int]
    free: set[int]

    def fits(self, ids: tuple[int, ...]) -> bool:
        """Whether other ids are the same outside the slots: then the slots stand where they stood."""
        pairs = enumerate(zip(ids, self.ids, strict=False))
        return len(ids) == len(self.ids) and all(a == b or place in self.free for place, (a, b) in pairs)


class Wording:
    """A tokenizer as the tasks use it.

    bos: the id that the tokenizer itself puts before every text, or None; it is put there and no other is. The
    planted models' tokenizer adds none, but they rest on one: theirs is put there too, and the notes say so.
    """

    def __init__(self, ask: Ask) -> None:
        """Raises TokensError without a tokenizer: these tasks are asked in words."""
        if ask.tokenizer is None:
            raise ask.error("it is asked in words, and the model has no tokenizer; give one to `probe.load`")
        self.ask = ask
        self.tokenizer: PreTrainedTokenizerBase = ask.tokenizer
        self.unknown = ask.tokenizer.unk_token_id
        self.planted = is_planted(ask.tokenizer)
        self.bos = BOS if self.planted else automatic_bos(ask.tokenizer)
        self.first: tuple[int, ...] = () if self.bos is None else (self.bos,)
        self._filled: dict[str, _Filled] = {}
        self._last: tuple[str, tuple[int, ...]] = ("", self.first)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of how a text begins."""
        if self.bos is None:
            return ("no BOS: the tokenizer adds none by itself",)
        return (f"BOS {self.bos} first, as {'planted models want' if self.planted else 'the tokenizer adds'} it",)

    def ids(self, text: str) -> tuple[int, ...]:
        """The text's ids, after the tokenizer's own BOS where it has one; words that it does not know included."""
        found = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return (*self.first, *(int(token) for token in found))

    def known(self, text: str) -> tuple[int, ...]:
        """As `ids`. Raises TokensError for a text with words that the tokenizer does not know."""
        found = self.ids(text)
        if self.unknown is not None and self.unknown in found:
            raise self.ask.error(
                f"the tokenizer does not know the words of {text[:60]!r}; choose one without words, such as induction"
            )
        return found

    def next_token(self, text: str, answer: str) -> int | None:
        """The one id by which `answer` continues `text`; None where it is several, unknown, or changes the text's."""
        if text != self._last[0]:
            self._last = text, self.ids(text)
        before, both = self._last[1], self.ids(text + answer)
        if len(both) != len(before) + 1 or both[:-1] != before or both[-1] == self.unknown:
            return None
        return both[-1]

    def answer(self, text: str, answer: str) -> int:
        """As `next_token`. Raises TokensError where it is None."""
        token = self.next_token(text, answer)
        if token is None:
            raise self.ask.error(f"the answer {answer!r} is not one token after {text[-30:]!r}; choose another task")
        return token

    def text(self, ids: Sequence[int]) -> str:
        """The ids as the tokenizer writes them, specials included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def single(self, what: str, words: Sequence[str], least: int, before: str = "the", space: str = " ") -> list[str]:
        """Those words that are one token, each another, after `before` and a space.

        Raises TokensError, naming `what`, where fewer than `least` are.
        """
        found: dict[int, str] = {}
        for word in words:
            token = self.next_token(before, space + word)
            if token is not None:
                found.setdefault(token, word)
        if len(found) < least:
            raise self.ask.error(
                f"{len(found)} of {len(words)} {what} are one token of this tokenizer; wanted {least} or more: "
                "choose another task for this model"
            )
        return list(found.values())

    def left_out(self, what: str, all_of: Sequence[str], kept: Sequence[str]) -> tuple[str, ...]:
        """A note on how many of a list were dropped, if any."""
        dropped = len(all_of) - len(kept)
        return (f"{dropped} of {len(all_of)} {what} left out: not one token of this tokenizer",) if dropped else ()

    def fill(self, template: str, **slots: str) -> Worded:
        """The template with its slots filled, and where each slot's first token stands.

        A space before a slot belongs to the slot's token. Raises TokensError for words that the tokenizer does not
        know, and where a token runs across a slot's border (a position would then mean something else).
        """
        whole = template.format(**slots)
        ids = self.known(whole)
        known = self._filled.get(template)
        if known is None or not known.fits(ids):
            known = self._locate(template, slots, whole, ids)
            self._filled.setdefault(template, known)
        return Worded(whole, ids, dict(known.at))

    def _locate(self, template: str, slots: Mapping[str, str], whole: str, ids: tuple[int, ...]) -> _Filled:
        """Where each slot's tokens begin and end: the text up to there must be the whole's own beginning."""
        at: dict[str, int] = {}
        free: set[int] = set()
        so_far = ""
        for literal, slot, _, _ in Formatter().parse(template):
            so_far += literal
            if slot is None:
                continue
            before = self.ids(so_far.removesuffix(" "))
            so_far += slots[slot]
            through = self.ids(so_far)
            if ids[: len(before)] != before or ids[: len(through)] != through:
                raise self.ask.error(f"tokens run across the borders of {slots[slot]!r} in {whole[:60]!r}")
            at[slot] = len(before)
            free |= set(range(len(before), len(through)))
        return _Filled(ids, at, free)


def automatic_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The BOS id that the tokenizer puts before a text when nobody asks for it, or None."""
    bos = tokenizer.bos_token_id
    if not isinstance(bos, int):
        return None
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    return bos if tokenizer("a")["input_ids"][: len(plain) + 1] == [bos, *plain] else None


def same_length(ask: Ask, worded: dict[str, Worded]) -> tuple[list[str], tuple[str, ...]]:
    """The templates of the most common length (the shorter one where two are as common), and a note on the others."""
    lengths = [len(one.ids) for one in worded.values()]
    if not lengths:
        raise TokensError(f"task {ask.task}: found no template to choose from")
    kept = max(sorted(set(lengths)), key=lengths.count)
    names = [name for name, one in worded.items() if len(one.ids) == kept]
    dropped = len(worded) - len(names)
    note = f"{dropped} of {len(worded)} templates left out: another length than {kept} tokens in this tokenizer"
    return names, (note,) if dropped else ()
