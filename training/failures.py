"""What ends a training run with a line for the operator instead of a traceback.

Owns the base of such errors, and how it is known whether another rank has said one; each module raises its own kind
next to what it checks.
"""

from __future__ import annotations

from typing import Final

SAID_BY_FIRST: Final = "The first rank says it."  # a note on what all ranks raise


class TrainingError(Exception):
    """A run that cannot begin, go on or finish; the message says what to do."""


def is_said_by_first(error: BaseException | None) -> bool:
    """Whether it, or what it was made from, came to this rank from the first one."""
    while error is not None:
        if SAID_BY_FIRST in getattr(error, "__notes__", ()):
            return True
        error = error.__cause__
    return False
