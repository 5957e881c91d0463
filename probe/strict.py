"""JSON read strictly: files of a bounded size, every field there, of its type, and no other beside them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from probe.errors import ResultsError

MOST_BYTES = 512 * 2**20
"""A larger file is refused: all 123,211 edges of SmolLM2 take 14 MiB, a million tokens with their texts about 20."""


def read_json(place: Path) -> dict[str, Any]:
    """The object in a JSON file of at most `MOST_BYTES`.

    Raises ResultsError for a file that is absent, too large or no JSON, that names a key twice, or holds NaN.
    """
    found = parsed_json(read_text(place), f"{place}")
    if not isinstance(found, dict):
        raise ResultsError(f"{place}: holds a {type(found).__name__}; wanted one object")
    return found


def read_text(place: Path) -> str:
    """The UTF-8 text of a file of at most `MOST_BYTES`. Raises ResultsError where that cannot be had."""
    try:
        if place.stat().st_size > MOST_BYTES:
            raise ResultsError(f"{place}: {place.stat().st_size:,} bytes; wanted at most {MOST_BYTES:,}")
        return place.read_bytes().decode()
    except OSError as error:
        raise ResultsError(f"{place}: cannot be read ({error.strerror}); name a file that a run has written") from error
    except ValueError as error:
        raise ResultsError(f"{place}: not a JSON file ({error})") from error


def parsed_json(text: str, where: str) -> Any:
    """The value of a JSON text. Raises ResultsError, naming `where`: no JSON or too deep, a key twice, NaN."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except ResultsError as error:
        raise ResultsError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{where}: not a JSON file ({' '.join(str(error).split())[:200]})") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ResultsError(f"field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _no_constant(name: str) -> float:
    raise ResultsError(f"{name} is no number; wanted finite ones")


class Fields:
    """One JSON object, read field by field; `end` refuses what was not asked for."""

    def __init__(self, value: Any, where: str) -> None:
        """where: the file and place that errors name. Raises ResultsError for anything but an object."""
        if not isinstance(value, dict):
            raise ResultsError(f"{where}: found {shown(value)}; wanted an object")
        self._left, self.where = dict(value), where

    def any(self, name: str) -> Any:
        """A field of any type. Raises ResultsError where it is missing, as all that follow do."""
        if name not in self._left:
            raise ResultsError(f"{self.where}: no field {name!r}; the file is cut short or of another version")
        return self._left.pop(name)

    def text(self, name: str) -> str:
        """A text that UTF-8 can hold."""
        value = self.any(name)
        if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
            raise self._wrong(name, value, "a text")
        return value

    def flag(self, name: str) -> bool:
        """true or false."""
        value = self.any(name)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def whole(self, name: str) -> int:
        """A whole number."""
        value = self.any(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(name, value, "a whole number")
        return value

    def number(self, name: str) -> float:
        """A finite number; null is NaN, which JSON has no word for."""
        return self._number(name, self.any(name))

    def numbers(self, name: str) -> list[float]:
        """A list of such."""
        return [self._number(name, value) for value in self.items(name)]

    def items(self, name: str) -> list[Any]:
        """A list of anything."""
        value = self.any(name)
        if not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; those of tokens may hold lone surrogates."""
        values = self.items(name)
        for value in values:
            if not isinstance(value, str):
                raise self._wrong(name, value, "texts")
        return tuple(values)

    def pairs(self, name: str) -> tuple[tuple[int, int], ...]:
        """A list of pairs of whole numbers, such as heads."""
        found = []
        for value in self.items(name):
            if not isinstance(value, list) or len(value) != 2 or any(type(one) is not int for one in value):
                raise self._wrong(name, value, "pairs of whole numbers")
            found.append((value[0], value[1]))
        return tuple(found)

    def object(self, name: str) -> Fields:
        """An object, to be read in turn."""
        return Fields(self.any(name), f"{self.where}: {name}")

    def objects(self, name: str) -> list[Fields]:
        """A list of such."""
        return [Fields(value, f"{self.where}: {name}[{at}]") for at, value in enumerate(self.items(name))]

    def end(self) -> None:
        """Raises ResultsError for a field that was not read."""
        if self._left:
            raise ResultsError(f"{self.where}: unknown field {sorted(self._left)[0]!r}; the file is of another version")

    def _number(self, name: str, value: Any) -> float:
        if value is None:
            return math.nan
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole and not (isinstance(value, float) and math.isfinite(value)):
            raise self._wrong(name, value, "a finite number or null")
        return float(value)

    def _wrong(self, name: str, value: Any, wanted: str) -> ResultsError:
        return ResultsError(f"{self.where}: {name}: found {shown(value)}; wanted {wanted}")


def shown(value: Any) -> str:
    """A value in an error: its beginning."""
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"
