"""What ends a training run with a line for the operator instead of a traceback.

Owns the base of such errors alone; each module raises its own kind next to what it checks.
"""

from __future__ import annotations


class TrainingError(Exception):
    """A run that cannot begin, go on or finish; the message says what to do."""
