"""How the compiled stage is compiled: without the interpreter's lock, and kept on disk where that works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(*flags: str) -> Callable[[F], F]:
    """Compile with these fast-math flags, on first use.

    What is compiled is kept beside the source, or in the user's cache where that folder cannot be written to (a
    read-only installation); where neither can, each process compiles anew.
    """

    def make(function: F) -> F:
        try:
            return cast("F", njit(nogil=True, fastmath=set(flags), cache=True)(function))
        except RuntimeError:  # no folder can be written to
            return cast("F", njit(nogil=True, fastmath=set(flags))(function))

    return make
