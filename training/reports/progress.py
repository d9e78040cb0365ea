"""How a run shows on stderr: a bar on a terminal, a line now and then elsewhere (a log file, CI).

Owns which numbers are worth the place, and the time that is left. Keeps nothing (`tracking.py`).
Invariant: elsewhere than on a terminal at most one line every QUIET_S seconds, the last step's apart.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import rich.progress
from rich.console import Console, RenderableType
from rich.text import Text

from honed.training.reports.numbers import amount, duration, group, metric, said

QUIET_S: Final = 30.0
_RECENT: Final = 20  # steps that the speed is measured over

# The first few that a run has, the most telling first.
_TELLING: Final = (
    "ppo/reward", "ppo/score", "ppo/kl", "ppo/length", "validation/score",
    "train/loss", "train/accuracy", "validation/loss", "validation/accuracy",
)  # fmt: skip
_MOST_SHOWN: Final = 4


class Progress:
    """The steps of a run as they are done."""

    def __init__(
        self, console: Console, title: str, total: int, done: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`done` of `total` steps were done before; `clock` gives seconds."""
        self._console, self._title, self._total, self._clock = console, title, total, clock
        self._latest: dict[str, float] = {}
        self._marks = deque([(clock(), done, 0)], maxlen=_RECENT + 1)  # when, steps and tokens done by then
        self._shown_at: float | None = None
        self._bar: _Bar | None = None
        if console.is_terminal:
            self._bar = _Bar(console)
            self._task = self._bar.add_task("", total=total, completed=done, title=title, pace="")
            self._bar.start()

    def show(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """Step `step` is done; `tokens` it read."""
        self._latest.update(metrics)
        self._marks.append((self._clock(), step, self._marks[-1][2] + tokens))
        numbers = " · ".join(f"{label} {value}" for label, value in telling(self._latest))
        if self._bar is not None:
            self._bar.numbers = numbers
            self._bar.update(self._task, completed=step, pace=self._pace())
        elif self._shown_at is None or step >= self._total or self._clock() - self._shown_at >= QUIET_S:
            self._shown_at = self._clock()
            parts = (f"{self._title} {step}/{self._total}", self._pace(), numbers)
            self._print(" · ".join(part for part in parts if part))

    def note(self, message: str) -> None:
        """Prints a line, above the bar where there is one."""
        self._print(message)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.stop()

    def _print(self, line: str) -> None:
        # As it is: the text of a user or model may look like markup, and a log's lines are not wrapped.
        self._console.print(Text(line), soft_wrap=True)

    def _pace(self) -> str:
        """`1.2 k tokens/s · 3 min 4 s left`, over the last steps."""
        (before, old_step, old_tokens), (now, step, tokens) = self._marks[0], self._marks[-1]
        if now <= before or step <= old_step:
            return ""
        speed = (tokens - old_tokens) / (now - before)
        left = (self._total - step) * (now - before) / (step - old_step)
        parts = ([f"{amount(round(speed))} tokens/s"] if speed else []) + ([f"{duration(left)} left"] if left else [])
        return " · ".join(parts)


def telling(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """The metrics that say most about a run, as label and value, the most telling first."""
    shown = [name for name in _TELLING if name in metrics][:_MOST_SHOWN]
    labels = {name: ("held-out " if group(name) == "validation" else "") + metric(name).label for name in shown}
    return [(labels[name], said(name, metrics[name])) for name in shown]


class _Bar(rich.progress.Progress):
    """One line with the bar, and below it one with the numbers, for which a terminal has no room beside it."""

    numbers = ""

    def __init__(self, console: Console) -> None:
        text = rich.progress.TextColumn
        super().__init__(
            text("{task.fields[title]}", markup=False),
            rich.progress.BarColumn(bar_width=None),
            rich.progress.MofNCompleteColumn(),
            text("{task.fields[pace]}", markup=False, style="dim"),
            console=console,
            expand=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.numbers, no_wrap=True, overflow="ellipsis")
