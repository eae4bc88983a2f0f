"""The error that a user can cause and mend."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: the message says what is wrong, where, and what to do about it."""
