"""The error that callers outside catch."""

from __future__ import annotations

import pytest

from probe.hooks.errors import HookError


def test_it_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="one line"):
        raise HookError("one line")
