"""The one family of errors a user can cause; the command line prints them as one line and exits with 2."""

from __future__ import annotations


class ProbeError(ValueError):
    """Bad input. The message says what was found, what was wanted, and what to do, in one line."""


class ModelError(ProbeError):
    """A model that cannot be found, read, trusted or understood."""


class TokensError(ProbeError):
    """Text or ids that cannot be scanned as they are: empty, too long, out of the vocabulary."""


class ResultsError(ProbeError):
    """A results folder or table that is damaged, or belongs to another run."""


class StudyError(ProbeError):
    """A study that asks for something unknown or impossible."""
