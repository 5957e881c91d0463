"""Results that were computed before, by what they are results of: in memory, or in a folder that outlives the run."""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np

Key = TypeVar("Key", contravariant=True)


class Known(Protocol[Key]):
    """Looked into before anything is run, and told every new result; a dict is one."""

    def __contains__(self, key: object) -> bool:
        """Whether there is a result."""

    def __getitem__(self, key: Key) -> np.ndarray:
        """The result; KeyError where there is none."""

    def __setitem__(self, key: Key, result: np.ndarray) -> None:
        """Keep a result."""
