"""The one error of this package."""

from __future__ import annotations


class HookError(ValueError):
    """A model, layer, keyword or request that the hooks cannot serve; the message names it, in one line."""
