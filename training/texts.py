"""Files of texts, a row with a `text` each, gzipped or not: for the pretraining mix, and for the gate to measure on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from honed.server.store.exchange.files import FileError, read_rows
from honed.training.failures import TrainingError

LEAST: Final = 10  # texts of a pretraining mix: one in ten is held out


def read_texts(path: Path) -> Sequence[str]:
    """The texts of a file's rows. Raises TrainingError for one that cannot be read or has a row without a text."""
    found = []
    try:
        for line, row in read_rows(path):
            text = row if isinstance(row, str) else row.get("text")
            if isinstance(row, str) or not isinstance(text, str):
                raise TrainingError(f"{path}:{line}: a row of texts needs a string `text`.")
            found.append(text)
    except FileError as error:
        raise TrainingError(str(error)) from error
    return found


def require_enough(path: Path, count: int) -> None:
    """Raises TrainingError where a file has too few texts for a pretraining mix."""
    if count < LEAST:
        raise TrainingError(f"{path} has {count} texts: the pretraining mix needs at least {LEAST}.")
