"""Where a run's numbers go while it runs: metrics.jsonl, TensorBoard and a progress bar on stderr.

Owns metrics.jsonl: a JSON object a line with `step`, `tokens` and `seconds` so far, and the metrics of that step.
Decides nothing about the run, and makes no plots (`report.py`). Invariant: whenever the process is killed, every line
but the last is whole; a run that goes on from step N has no line after N that it did not write itself.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, Self

from rich.console import Console

from honed.training.failures import TrainingError
from honed.training.reports.progress import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_FILE: Final = "metrics.jsonl"
TENSORBOARD_FOLDER: Final = "tensorboard"


class TrackingError(TrainingError):
    """Why a run's numbers cannot be kept, with what to do about it."""


class Tracker:
    """Keeps what a run measures. Use it as a context manager, or call `close`.

    `start_step` is the last step of the state that the run goes on from, 0 for a run from the beginning: what the
    folder holds of later steps is removed, and `tokens` and `seconds` go on counting from what is left.
    """

    def __init__(
        self, folder: Path, *, title: str, total_steps: int, show: bool, start_step: int = 0, keeps: bool = True
    ) -> None:
        """`total_steps` of the whole run, `show` the progress on stderr. Without `keeps` nothing is written or shown.

        Raises TrackingError where TensorBoard is not installed, OSError as the disk gives it.
        """
        self._tokens, self._seconds_before = 0, 0.0
        self._file: IO[str] | None = None
        self._writer: SummaryWriter | None = None
        self._progress: Progress | None = None
        if keeps:
            writer_class = _summary_writer()  # before anything in the folder is touched
            folder.mkdir(parents=True, exist_ok=True)
            self._tokens, self._seconds_before = _rewind(folder / METRICS_FILE, start_step)
            self._file = (folder / METRICS_FILE).open("a", encoding="utf-8")
            purged_from = start_step + 1 if start_step else 0
            self._writer = writer_class(str(folder / TENSORBOARD_FOLDER), purge_step=purged_from)
        if keeps and show:
            self._progress = Progress(Console(stderr=True), title, total_steps, start_step)
        self._started = time.monotonic()

    @classmethod
    def silent(cls) -> Tracker:
        """A tracker that keeps and shows nothing, for the ranks other than 0."""
        return cls(Path(), title="", total_steps=0, show=False, keeps=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def tokens(self) -> int:
        """How many the run has read, over all the times that it was taken up."""
        return self._tokens

    @property
    def seconds(self) -> float:
        """How long the run has taken, over all the times that it was taken up."""
        return self._seconds_before + time.monotonic() - self._started

    def log(self, step: int, metrics: Mapping[str, float], *, tokens: int = 0) -> None:
        """Keeps what step `step`, from 1, measured. `tokens` are those that it read, added to what was counted so far.

        A step may be logged more than once: its validation after its training. Numbers that are not finite are written
        as null.
        """
        self._tokens += tokens
        numbers = {name: float(value) for name, value in metrics.items()}
        if self._file is not None:
            so_far = {"step": step, "tokens": self._tokens, "seconds": round(self.seconds, 3)}
            finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
            self._file.write(json.dumps(so_far | finite, allow_nan=False) + "\n")
            self._file.flush()
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, step)
        if self._progress is not None:
            self._progress.show(step, numbers, tokens)

    def note(self, message: str) -> None:
        """Prints a line above the progress bar."""
        if self._progress is not None:
            self._progress.note(message)

    def close(self) -> None:
        """Writes out what is buffered and takes the bar away. Nothing may be logged afterwards; may be called twice."""
        if self._progress is not None:
            self._progress.close()
        if self._writer is not None:
            self._writer.close()
        if self._file is not None:
            self._file.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl in their order; none where there is no such file.

    A last line that a killed process left unfinished is dropped. Raises ValueError for any other line that is damaged.
    """
    return read_lines(folder / METRICS_FILE)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line, by the rules of `read_metrics`."""
    if not path.is_file():
        return []
    *whole, _torn = path.read_bytes().split(b"\n")  # what has no end of line is not whole, even where it parses
    read = []
    for number, line in enumerate(whole, start=1):
        try:
            read.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is damaged: remove that line, or the file. ({error})") from error
    return read


def _rewind(path: Path, start_step: int) -> tuple[int, float]:
    """Removes what was logged after `start_step` (all of it for 0); the tokens and seconds of what is left."""
    kept = [line for line in read_lines(path) if line["step"] <= start_step] if start_step else []
    if path.exists():
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    return (kept[-1]["tokens"], kept[-1]["seconds"]) if kept else (0, 0.0)


def _summary_writer() -> type[SummaryWriter]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrackingError("TensorBoard is not installed: pip install 'honed[train]'") from error
    return SummaryWriter
