"""A run's numbers: what is on the disk after a kill and after going on, and what is shown on stderr."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from honed.training.reports import tracking
from honed.training.reports.progress import QUIET_S, Progress, telling
from honed.training.reports.tracking import Tracker, TrackingError, read_lines, read_metrics


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tracking, "time", SimpleNamespace(monotonic=clock))  # not the writer's threads'
    return clock


def tracker(folder: Path, *, start_step: int = 0, show: bool = False) -> Tracker:
    return Tracker(folder, title="tiny-sft", total_steps=10, show=show, start_step=start_step)


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard shows of a metric."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def shown_on(console_text: io.StringIO) -> list[str]:
    return console_text.getvalue().splitlines()


def test_a_step_is_a_line(tmp_path: Path, clock: Clock) -> None:
    with tracker(tmp_path) as kept:
        clock.now = 2.5
        kept.log(1, {"train/loss": 0.5}, tokens=100)
        clock.now = 4
        kept.log(step=2, tokens=50, metrics={"train/loss": 0.25, "validation/loss": 1})
        kept.log(2, {"validation/accuracy": 0.75})
    assert read_metrics(tmp_path) == [
        {"step": 1, "tokens": 100, "seconds": 2.5, "train/loss": 0.5},
        {"step": 2, "tokens": 150, "seconds": 4.0, "train/loss": 0.25, "validation/loss": 1.0},
        {"step": 2, "tokens": 150, "seconds": 4.0, "validation/accuracy": 0.75},
    ]
    assert scalars(tmp_path, "train/loss") == [(1, 0.5), (2, 0.25)]


def test_a_line_is_on_the_disk_before_the_next_step(tmp_path: Path) -> None:
    kept = tracker(tmp_path)
    kept.log(1, {"train/loss": 0.5})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    kept.close()
    kept.close()


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    with tracker(tmp_path) as kept:
        kept.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert (text.count("null"), "NaN" in text, "Infinity" in text) == (3, False, False)
    assert read_metrics(tmp_path)[0]["d"] == 0.0


@pytest.mark.parametrize("cut", [1, 20, -2, -1])
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    """Even where only its end of line is missing: what comes after it would be on the same line."""
    first, second = '{"step": 1, "tokens": 5}\n', '{"step": 2, "tokens": 9}\n'
    (tmp_path / "metrics.jsonl").write_text(first + second[:cut])
    assert read_metrics(tmp_path) == [{"step": 1, "tokens": 5}]


def test_a_damaged_line_elsewhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step":\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2, is damaged: remove that line"):
        read_metrics(tmp_path)
    assert read_lines(tmp_path / "none.jsonl") == []


def test_going_on_removes_later_lines_and_counts_on(tmp_path: Path, clock: Clock) -> None:
    with tracker(tmp_path) as kept:
        kept.log(0, {"validation/loss": 9.0})
        for step in (1, 2, 3, 4):
            clock.now = 10.0 * step
            kept.log(step, {"train/loss": float(step)}, tokens=100)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "tok')
    clock.now = 1000.0
    with tracker(tmp_path, start_step=2) as kept:
        assert (kept.seconds, kept.tokens) == (20.0, 200)
        clock.now = 1007.0
        kept.log(3, {"train/loss": 30.0}, tokens=1)
    lines = read_metrics(tmp_path)
    assert [(line["step"], line["tokens"], line["seconds"]) for line in lines] == [
        (0, 0, 0.0),
        (1, 100, 10.0),
        (2, 200, 20.0),
        (3, 201, 27.0),
    ]
    assert scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_a_run_from_the_beginning_keeps_nothing_of_the_one_before(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with tracker(tmp_path) as kept:
            kept.log(0, {"validation/loss": value})
            kept.log(1, {"train/loss": value}, tokens=7)
    assert [line["tokens"] for line in read_metrics(tmp_path)] == [0, 7]
    assert scalars(tmp_path, "validation/loss") == [(0, 2.0)]
    assert scalars(tmp_path, "train/loss") == [(1, 2.0)]


def test_a_kill_while_lines_are_removed_leaves_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [{"step": step, "tokens": step, "seconds": step} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        tracker(tmp_path, start_step=1)
    assert read_metrics(tmp_path) == lines


def test_without_tensorboard_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrackingError, match=r"pip install 'honed\[train\]'"):
        tracker(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_silent_tracker_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Tracker.silent() as kept:
        kept.log(1, {"train/loss": 0.5}, tokens=3)
        kept.note("nobody reads this")
    assert (list(tmp_path.iterdir()), *capsys.readouterr()) == ([], "", "")


def test_show_decides_what_is_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for show, expected in ((False, ""), (True, r"tiny-sft 1/10 · .*loss 0\.500\nstep 1 is \[bold\]saved\n")):
        with tracker(tmp_path, show=show) as kept:
            kept.log(1, {"train/loss": 0.5})
            kept.note("step 1 is [bold]saved")
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(expected, err)


@pytest.fixture
def plain() -> tuple[io.StringIO, Clock, Progress]:
    """The progress of a run of 100 steps, as a log file has it."""
    text, clock = io.StringIO(), Clock()
    return text, clock, Progress(Console(file=text, force_terminal=False, width=40), "tiny-ppo", 100, 0, clock)


def test_a_log_has_a_line_now_and_then(plain: tuple[io.StringIO, Clock, Progress]) -> None:
    text, clock, progress = plain
    for step in range(1, 101):
        clock.now += QUIET_S / 10
        progress.show(step, {"ppo/reward": 0.25, "ppo/kl": 1.5}, 600)
    progress.close()
    lines = shown_on(text)
    assert [line.split(" · ")[0] for line in lines] == [f"tiny-ppo {step}/100" for step in (*range(1, 100, 10), 100)]
    assert lines[1] == "tiny-ppo 11/100 · 200 tokens/s · 4 min 27 s left · reward 0.25 · KL 1.50"
    assert lines[-1] == "tiny-ppo 100/100 · 200 tokens/s · reward 0.25 · KL 1.50"


def test_the_time_left_is_of_the_last_steps(plain: tuple[io.StringIO, Clock, Progress]) -> None:
    text, clock, progress = plain
    for step in range(1, 56):
        clock.now += 1000 if step <= 25 else 2  # slow at first, which is over
        progress.show(step, {}, 0)
    assert shown_on(text)[-1] == "tiny-ppo 55/100 · 1 min 30 s left"


def test_a_terminal_has_a_bar_with_notes_above() -> None:
    text, clock = io.StringIO(), Clock()
    progress = Progress(Console(file=text, force_terminal=True, width=80), "tiny-ppo", 100, 40, clock)
    clock.now = 5
    progress.show(50, {"train/loss": 0.5, "validation/accuracy": 0.625}, 5000)
    progress.note("state saved: [red]/x")
    progress.close()
    shown = text.getvalue()
    assert "state saved: [red]/x" in shown
    for expected in ("tiny-ppo", "50/100", "1 k tokens/s · 25 s left", "loss 0.500 · held-out accuracy 62.5 %"):
        assert expected in shown


def test_what_tells_most_comes_first() -> None:
    metrics: dict[str, Any] = {"train/loss": 1.0, "ppo/kl": 2.0, "ppo/reward": 0.1, "ppo/score": 0.2, "ppo/length": 9.0}
    assert telling(metrics) == [("reward", "0.10"), ("score", "0.20"), ("KL", "2.00"), ("length", "9.0")]
    assert telling({"train/learning_rate": 1e-5}) == []
