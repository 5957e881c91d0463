"""JSON objects read strictly: every field there, of its type, and no other beside them."""

from __future__ import annotations

import math
from typing import Any

from probe.errors import ResultsError


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
