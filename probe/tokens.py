"""Text and files to token sequences: what is cut, added or refused is said, and nothing else happens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probe.errors import TokensError
from probe.token_strings import token_strings

__all__ = [
    "Tokens",
    "check_ids",
    "cut_pieces",
    "natural_text",
    "random_repeats",
    "read_ids",
    "read_text",
    "special_ids",
    "token_strings",
    "tokenise",
    "tokens_hash",
]

MAX_BYTES = 1 << 28
"""Largest text or ids file that is read, 256 MiB."""


@dataclass(frozen=True)
class Tokens:
    """Sequences of ids; `bos` is the id that was put before each one (and counts in its length), or None."""

    ids: list[list[int]]
    bos: int | None
    source: str

    @property
    def sha256(self) -> str:
        """Hash of the ids: see `tokens_hash`."""
        return tokens_hash(self.ids)


def tokens_hash(ids: Sequence[Sequence[int]]) -> str:
    """SHA-256 of the ids as canonical JSON (a list of lists, no spaces)."""
    text = json.dumps([[int(token) for token in sequence] for sequence in ids], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def natural_text() -> str:
    """English prose that every CPython carries: its help topics (`pydoc_data.topics`), ordered by name.

    About 465,000 characters in 3.11; other versions differ a little, which the tokens' hash records.
    """
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    return "\n".join(topics[name] for name in sorted(topics))


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, or of all files under a folder, ordered by path and parted by a blank line.

    Names that start with a dot are passed over. Raises `TokensError` where the path is missing, holds no
    text, is over 256 MiB, or is not UTF-8.
    """
    root = Path(path)
    if root.is_dir():
        files = sorted(file for file in root.rglob("*") if file.is_file() and _visible(file, root))
    elif root.is_file():
        files = [root]
    else:
        raise TokensError(f"text: found no file or folder {_shown(path)}; give the path of one that exists")
    found = sum(file.stat().st_size for file in files)
    if found > MAX_BYTES:
        raise TokensError(f"text: found {found:,} bytes in {_shown(path)}, wanted at most {MAX_BYTES:,}; cut it")
    text = "\n\n".join(_utf8(file) for file in files)
    if not text.strip():
        raise TokensError(f"text: found no text in {_shown(path)}, wanted some; give a file with words in it")
    return text


def cut_pieces(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    length: int,
    sequences: int,
    bos: bool = False,
    limit: int | None = None,
    source: str = "text",
) -> Tokens:
    """The first `sequences` disjoint pieces of `length` ids of the text, tokenised without added specials.

    `bos=True` puts the tokenizer's BOS first in each piece; it counts in `length`. `limit`: most tokens
    that the model reads. Raises `TokensError` where the text is empty, too short or mostly unknown to the
    tokenizer, where `length` is over `limit`, or where there is no BOS to add.
    """
    _check_length(length, limit)
    if isinstance(sequences, bool) or sequences < 1:
        raise TokensError(f"sequences: found {sequences}, wanted 1 or more; ask for at least one")
    start = _bos(tokenizer) if bos else None
    ids = tokenise(tokenizer, text)
    own = length - int(bos)
    if len(ids) < own * sequences:
        raise TokensError(
            f"text: found {len(ids):,} tokens, wanted {own * sequences:,} ({sequences} × {own:,}); "
            "give a longer text, or ask for fewer or shorter sequences"
        )
    first = [] if start is None else [start]
    pieces = [[*first, *ids[own * index : own * (index + 1)]] for index in range(sequences)]
    return Tokens(pieces, start, source)


def tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of the whole text, without added specials and without truncation.

    Raises `TokensError` where the text is empty, is not valid Unicode, or is mostly unknown to the
    tokenizer.
    """
    if not text.strip():
        raise TokensError("text: found no words, wanted some; give a text that is not empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokensError(
            f"text: found half a surrogate pair at character {error.start:,}, wanted valid Unicode; remove it"
        ) from None
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    unknown = ids.count(tokenizer.unk_token_id) if tokenizer.unk_token_id is not None else 0
    if not ids or unknown > len(ids) / 2:
        raise TokensError(
            f"text: found {unknown:,} of {len(ids):,} tokens unknown to the tokenizer, wanted at most half; "
            "give a text in the model's own vocabulary"
        )
    return ids


def read_ids(path: str | Path, *, vocabulary: int, limit: int | None = None) -> Tokens:
    """Ids as they are from a JSON file: a list of sequences, each a list of whole numbers.

    Raises `TokensError` where the file is missing, over 256 MiB, or anything else than that, and as
    `check_ids`.
    """
    file = Path(path)
    if not file.is_file():
        raise TokensError(f"ids: found no file {_shown(path)}, wanted JSON: a list of lists of ids; check the path")
    if file.stat().st_size > MAX_BYTES:
        size = file.stat().st_size
        raise TokensError(f"ids: found {size:,} bytes in {_shown(path)}, wanted at most {MAX_BYTES:,}; cut it")
    try:
        found = json.loads(_utf8(file), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, TokensError):
            raise
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise TokensError(
            f"ids: {_shown(path)} is not readable JSON ({reason}), wanted a list of lists of ids; mend it"
        ) from None
    if not isinstance(found, list) or not all(isinstance(sequence, list) for sequence in found):
        raise TokensError(f"ids: found something else in {_shown(path)}, wanted a list of lists of ids; mend it")
    return Tokens(check_ids(found, vocabulary=vocabulary, limit=limit), None, "ids")


def check_ids(
    ids: Iterable[Sequence[int]] | Int[Tensor, "N T"], *, vocabulary: int, limit: int | None = None
) -> list[list[int]]:
    """The ids as plain lists, or a refusal that names the first one at fault.

    Wanted: at least one sequence; each of 2 to `limit` whole numbers from 0 to `vocabulary` − 1; no two
    alike (they would count twice in every interval). Raises `TokensError`.
    """
    sequences = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    if not sequences:
        raise TokensError("ids: found no sequence, wanted at least one; give a list of lists of ids")
    seen: dict[tuple[int, ...], int] = {}
    for index, sequence in enumerate(sequences):
        if not isinstance(sequence, list | tuple | np.ndarray):
            kind = type(sequence).__name__
            raise TokensError(f"ids: sequence {index} is a {kind}, wanted a list of ids; give a list of lists")
        _check_length(len(sequence), limit, f"ids: sequence {index}")
        for position, token in enumerate(sequence):
            if isinstance(token, bool) or not isinstance(token, int | np.integer):
                found = repr(token)[:40]
                raise TokensError(f"ids: sequence {index}, position {position}: found {found}, wanted a whole number")
            if not 0 <= token < vocabulary:
                raise TokensError(
                    f"ids: sequence {index}, position {position}: found {_number(int(token))}, wanted 0 to "
                    f"{vocabulary - 1}; use the ids of this model's tokenizer"
                )
        key = tuple(int(token) for token in sequence)
        if key in seen:
            raise TokensError(
                f"ids: sequences {seen[key]} and {index} are alike, wanted different ones (a copy would "
                "count twice in every interval); remove one"
            )
        seen[key] = index
    return [list(sequence) for sequence in seen]


def random_repeats(
    *,
    vocabulary: int,
    bos: int | None,
    special: Collection[int] = (),
    sequences: int = 8,
    distinct: int = 256,
    seed: int = 0,
    limit: int | None = None,
) -> Tokens:
    """[BOS] + R + R: `distinct` ids, none special, drawn without replacement anew for each sequence.

    The test sequences of METRICS' `*_random` columns. Raises `TokensError` where the vocabulary is too
    small or the sequence longer than `limit`.
    """
    ordinary = np.setdiff1d(np.arange(vocabulary), np.array(sorted({*special, *([] if bos is None else [bos])}), int))
    if ordinary.size < distinct:
        raise TokensError(f"random repeats: found {ordinary.size:,} ordinary ids, wanted {distinct:,}; ask for fewer")
    _check_length(2 * distinct + (bos is not None), limit, "random repeats")
    rng = np.random.default_rng(seed)
    first = [] if bos is None else [bos]
    drawn = [rng.choice(ordinary, size=distinct, replace=False).tolist() for _ in range(sequences)]
    return Tokens([[*first, *words, *words] for words in drawn], bos, "random repeats")


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that no ordinary text gives: the named specials and the added tokens marked special."""
    added = tokenizer.added_tokens_decoder
    return frozenset(tokenizer.all_special_ids) | {index for index, token in added.items() if token.special}


def _bos(tokenizer: PreTrainedTokenizerBase) -> int:
    start = tokenizer.bos_token_id
    if not isinstance(start, int):
        raise TokensError("BOS: the tokenizer has none to add, wanted one; leave --bos out")
    return start


def _check_length(length: int, limit: int | None, what: str = "context") -> None:
    if isinstance(length, bool) or length < 2:
        raise TokensError(f"{what}: found {length} tokens, wanted 2 or more; ask for a longer one")
    if limit is not None and length > limit:
        raise TokensError(
            f"{what}: found {length:,} tokens, wanted at most the {limit:,} that the model reads; shorten it"
        )


def _utf8(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokensError(
            f"text: {_shown(file)} is not UTF-8 at byte {error.start:,}; save it as UTF-8, or leave it out"
        ) from None
    except OSError as error:
        raise TokensError(f"text: {_shown(file)} cannot be read ({error.strerror}); check the file") from None


def _visible(file: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(root).parts)


def _refuse_constant(name: str) -> NoReturn:
    raise TokensError(f"ids: found {name}, wanted whole numbers; mend the file")


def _number(value: int) -> str:
    """A number for a message; digits of a hostile one are not worth printing."""
    return str(value) if abs(value) < 10**18 else f"a number of {value.bit_length()} bits"


def _shown(path: str | Path) -> str:
    text = str(path)
    return repr(text if len(text) <= 120 else text[:117] + "...")
