"""Compiling: kept on disk where a folder allows it, and done all the same where none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("numba")
from probe.kernels import numba_compile
from probe.kernels.numba_compile import compiled


def twice(x: float) -> float:
    return 2 * x


def test_a_function_is_compiled_and_kept() -> None:
    made: Any = compiled("contract")(twice)
    assert made(2.5) == 5.0
    assert made.signatures
    assert made.targetoptions["nogil"]
    assert made.stats.cache_path


def test_where_no_folder_can_be_written_to_it_is_compiled_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def njit(**options: Any) -> Callable[[Any], Any]:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'twice': no locator available for file")
        return lambda function: function

    monkeypatch.setattr(numba_compile, "njit", njit)
    assert compiled("contract")(twice) is twice
    assert [options.get("cache", False) for options in asked] == [True, False]
    assert asked[1] == {"nogil": True, "fastmath": {"contract"}}
