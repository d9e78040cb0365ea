"""The report of a run: what is in it, in which order, for every state that a run's folder can be in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from honed.training.configs import CONFIGS, STAGES, Stage
from honed.training.reports import page
from honed.training.reports.figures import panels
from honed.training.reports.findings import (
    calibration_error,
    headline,
    key_numbers,
    read_results,
    series,
    start_and_end,
)
from honed.training.reports.report import summary_lines, write_report

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "path", "use", "rect", "br"}


def facts(stage: Stage = "ppo", settings: Mapping[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """A run.json."""
    config = CONFIGS[stage]
    return {
        "name": f"tiny-{stage}",
        "stage": stage,
        "parent": "tiny",
        "checkpoint": f"tiny-{stage}-1",
        "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T04:04:05+00:00",
        "status": "succeeded",
        "reason": None,
        "settings": config(**(settings or {})).model_dump(mode="json"),
        "defaults": config().model_dump(mode="json"),
        "dataset": {"id": "data-0123456789ab", "source": {"kind": "store"}, "splits": {"train": 90, "validation": 10}},
        "parameters": 134_515_008,
        "hardware": "a laptop",
        "summary": {},
    } | given


def put(
    folder: Path,
    run: Mapping[str, Any],
    metrics: Iterable[Mapping[str, Any]] = (),
    evaluation: Mapping[str, Any] | None = None,
    samples: Iterable[Mapping[str, Any]] = (),
) -> Path:
    """A run's folder with these files, those without content left out."""
    (folder / "run.json").write_text(json.dumps(run))
    if evaluation is not None:
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
    for name, rows in (("metrics.jsonl", metrics), ("samples.jsonl", samples)):
        if lines := [json.dumps(row) + "\n" for row in rows]:
            (folder / name).write_text("".join(lines))
    return folder


def steps(**series: list[float | None]) -> list[dict[str, Any]]:
    """Metrics of steps 1, 2, ...; `__` in a name is the slash."""
    count = max(len(values) for values in series.values())
    return [
        {"step": n + 1, "tokens": 100 * (n + 1), "seconds": 60.0 * (n + 1)}
        | {name.replace("__", "/"): values[n] for name, values in series.items() if n < len(values)}
        for n in range(count)
    ]


class Outline(HTMLParser):
    """Checks that every element is closed in its turn; collects the titles, the text and what is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.titles: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        self.addresses += [f"{name}={value}" for name, value in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)
        if tag in {"h1", "h2", "h3"}:
            self.titles.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            self.titles[-1] += data


PPO = steps(
    ppo__score=[0.0, 0.5, 1.0],
    ppo__reward=[0.0, 0.4, 0.8],
    ppo__kl=[0.0, 4.0, 9.0],
    ppo__length=[40.0, 45.0, 50.0],
    ppo__clip_fraction=[0.1, 0.1, 0.2],
    ppo__strange=[1.0, 2.0, 3.0],
    train__grad_norm=[1.0, None, 3.0],
    validation__score=[-0.1, 0.5, 1.4],
    validation__score_std=[0.75, 0.6, 0.5],
)
REWARD: dict[str, Any] = {
    "accuracy": 0.704,
    "accuracy_low": 0.679,
    "accuracy_high": 0.728,
    "pairs": 1284,
    "calibration": [{"predicted": 0.6, "observed": 0.5, "pairs": 30}, {"predicted": 0.9, "observed": 0.9, "pairs": 10}],
    "by_labeler": {EVIL: {"accuracy": 0.7, "pairs": 20}, "bob": {"accuracy": 0.75, "pairs": 40}},
    "by_source": {"import": {"accuracy": 0.7, "pairs": 60}},
    "reward_by_length": [[1, 1.0], [2, 3.0], [3, 2.0]],
    "log_loss": 0.5712,
}


def report(folder: Path) -> Outline:
    return Outline(write_report(folder).read_text(encoding="utf-8"))


def test_ppo_from_the_sentence_to_the_command(tmp_path: Path) -> None:
    samples = [{"prompt": "Why?", "before": "No.", "after": "Because.", "score_before": -1.0, "score_after": 0.5}]
    put(tmp_path, facts(settings={"seed": 3, "lora": True}), PPO, {"score": 1.0}, samples)
    read = report(tmp_path)
    assert read.titles == [
        "The score on prompts held out rose from −0.10 to 1.40, by 2 standard deviations of the answers before, "
        "at a KL of 9 nats and with answers 25\u00a0% longer.",
        "How it went",
        "Score and reward",
        "Distance from the start (KL)",
        "Length of the answers",
        "Clipped updates",
        "Spread of the scores",
        "Gradient norm",
        "ppo/strange",
        "The same prompts before and after",
        "Data",
        "Settings",
        "How to do it again",
    ]
    assert "budget 20" in read.text
    assert "8 characters · score 0.50" in read.text
    command = "honed train ppo \\\n    --seed 3 \\\n    --lora \\\n    --data data-0123456789ab"
    assert command in read.text


def test_a_reward_model_is_judged_by_its_evaluation(tmp_path: Path) -> None:
    metrics = steps(train__loss=[0.7, 0.6], validation__loss=[0.69, 0.65], validation__accuracy=[0.5, 0.7])
    read = report(put(tmp_path, facts("reward"), metrics, REWARD))
    assert read.titles[0].replace("\u00a0", " ") == (
        "Picks the better answer in 70.4 % of 1,284 pairs held out (95 % interval 67.9 % to 72.8 %)."
    )
    assert read.titles[2:8] == [
        "Calibration", "Reward against length", "Accuracy by labeler", "Accuracy by source", "Loss", "Accuracy",
    ]  # fmt: skip
    for expected in ("r = 0.5", "75 % of 40 pairs", "nats a pair", "chance 50 %", "log loss", "0.5712"):
        assert expected in read.text


def test_nothing_is_loaded_and_nothing_runs(tmp_path: Path) -> None:
    samples = [{"prompt": EVIL, "before": EVIL, "after": '" onclick="x', "score_before": None, "score_after": None}]
    evil = {"name": EVIL, "hardware": EVIL, "parent": EVIL, "checkpoint": EVIL, "status": EVIL, "reason": EVIL}
    card = {EVIL: {EVIL: {EVIL: EVIL}}}
    metrics = [{"step": n, "tokens": n, "seconds": n, EVIL: n} for n in (1, 2)]
    run = facts("reward", **evil, dataset=card, summary={EVIL: EVIL})
    run["settings"][EVIL] = EVIL
    put(tmp_path, run, metrics, REWARD | {EVIL: EVIL}, samples)
    read = report(tmp_path)
    assert not read.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert all(address.startswith("#") for address in read.addresses)
    assert "http" not in (tmp_path / "report.html").read_text()
    assert read.text.count(EVIL) > 12


def test_the_same_folder_makes_the_same_bytes(tmp_path: Path) -> None:
    put(tmp_path, facts("reward"), PPO, REWARD)
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evaluation.json", "metrics.jsonl", "report.html", "run.json",
    ]  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_failed_at_once_has_a_report(tmp_path: Path, stage: Stage) -> None:
    run = facts(stage, status="failed", reason="no memory is left.", checkpoint=None, dataset=None, finished=None)
    put(tmp_path, run)
    assert report(tmp_path).titles == ["Failed: no memory is left.", "Settings", "How to do it again"]
    assert summary_lines(tmp_path) == ["Failed: no memory is left.", f"  Report  {tmp_path / 'report.html'}"]


def test_run_json_alone_says_that_it_is_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run\.json is missing: .* is not the folder of a training run"):
        write_report(tmp_path)
    put(tmp_path, {})
    assert report(tmp_path).titles == ["Finished, and measured nothing.", "How to do it again"]


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    put(tmp_path, facts())
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(ValueError, match=r"evaluation\.json is damaged"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_run_cut_in_a_line_has_a_report(tmp_path: Path) -> None:
    put(tmp_path, facts(), PPO)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "ppo/sc')
    assert "3 steps" in report(tmp_path).text


def test_headlines(tmp_path: Path) -> None:
    stopped = facts(status="stopped", reason="KL reached 51 nats.")
    assert headline(read_results(put(tmp_path, stopped, steps(ppo__score=[1.0, 0.5], ppo__length=[50, 40])))) == (
        "Stopped early: KL reached 51 nats. Until then: the score fell from 1.00 to 0.50, with answers 20 % shorter."
    )
    losses = steps(train__loss=[2.0, 1.0], validation__loss=[2.5, 2.25])
    assert (
        headline(read_results(put(tmp_path, facts("sft"), losses))) == "Loss on data held out fell from 2.500 to 2.250."
    )
    flat = steps(validation__accuracy=[0.5, 0.5])
    assert headline(read_results(put(tmp_path, facts("dpo"), flat))) == "Accuracy on pairs held out stayed at 50.0 %."
    none = steps(train__loss=[None, None])
    assert headline(read_results(put(tmp_path, facts("sft"), none))) == "Finished, and measured nothing."


def test_what_else_a_stage_sums_up_comes_last_and_nothing_twice(tmp_path: Path) -> None:
    summary = {name: value for name, value in REWARD.items() if isinstance(value, float)} | {
        "Spread": 1.25,
        "best": "2",
    }
    put(tmp_path, facts("reward", summary=summary), evaluation=REWARD)
    assert [(each.label, each.value) for each in key_numbers(read_results(tmp_path))] == [
        ("Accuracy", "70.4 %"), ("Calibration error", "7.5 %"), ("Reward and length", "r = 0.5"),
        ("Log loss", "0.571"), ("Spread", "1.25"), ("Best", "2"),
    ]  # fmt: skip


def test_the_checkpoints_numbers_count_and_not_the_last_steps(tmp_path: Path) -> None:
    """The best epoch is kept, and what is kept is measured again at its step."""
    losses = steps(validation__loss=[2.5, 2.0, 2.25])
    put(tmp_path, facts("sft", summary={"validation/loss": 2.0}), losses)
    assert headline(read_results(tmp_path)) == "Loss on data held out fell from 2.500 to 2.000."
    assert [each.value for each in key_numbers(read_results(tmp_path))] == ["2.000"]
    again = {"step": 3, "tokens": 300, "seconds": 180.0, "validation/loss": 2.0}
    assert series([*losses, again], "validation/loss") == ([1, 2, 3], [2.5, 2.0, 2.0])


def test_calibration_error_by_hand() -> None:
    """30 pairs that are off by 0.1 and 10 that are not: 0.075."""
    assert calibration_error(REWARD) == pytest.approx(0.075)
    assert calibration_error({}) is None


def test_noisy_metrics_are_compared_over_tenths() -> None:
    training = steps(train__loss=[1.0, 3.0] + [None] + [9.0] * 16 + [5.0, 7.0])
    assert start_and_end(training, "train/loss") == (2.0, 6.0)
    held_out = steps(validation__loss=[float(n) for n in range(1, 31)])
    assert start_and_end(held_out, "validation/loss") == (1.0, 30.0)
    assert start_and_end(steps(train__loss=[1.0, None]), "train/loss") is None


def test_every_metric_has_a_plot(tmp_path: Path) -> None:
    put(tmp_path, facts(), steps(ppo__score=[1.0], odd__name=[1.0], plain=[2.0], nothing=[None]))
    assert [(panel.title, panel.is_detail) for panel in panels(read_results(tmp_path))] == [
        ("Score and reward", False), ("odd/name", True), ("plain", True),
    ]  # fmt: skip


def test_many_labelers_and_many_answers_are_cut_down(tmp_path: Path) -> None:
    labelers = {f"labeler {n:02}": {"accuracy": 0.5, "pairs": n} for n in range(1, 31)}
    dots = [[n % 50, n % 7] for n in range(2500)]
    put(tmp_path, facts("reward"), evaluation={"by_labeler": labelers, "reward_by_length": dots})
    scatter, bars = panels(read_results(tmp_path))
    assert scatter.caption.endswith("One answer in 3 is shown.")
    assert bars.caption.endswith("The 12 with most pairs of 30.")
    assert ("labeler 30" in bars.svg, "labeler 18" in bars.svg) == (True, False)


def test_samples_are_cut_down(tmp_path: Path) -> None:
    sample = {"prompt": "x" * 7000, "before": "a", "after": "b", "score_before": 1, "score_after": 0}
    read = report(put(tmp_path, facts(), samples=[sample] * 45))
    assert "34 more" in read.text
    assert "5 more are in samples.jsonl." in read.text
    assert f"{'x' * 6000}… (1,000 more characters)" in read.text


def test_changed_settings_are_marked(tmp_path: Path) -> None:
    put(tmp_path, facts("sft", {"epochs": 7, "stage_shares": (0.5, 0.25, 0.25)}))
    text = write_report(tmp_path).read_text()
    assert "<tr class=changed><td>epochs</td><td class=number>7</td><td class=number>3</td>" in text
    assert text.count("<tr class=changed>") == 4  # in the short table and in the whole one
    assert "<td>batch_size</td>" in text
    assert "--stage-shares 0.5,0.25,0.25" in text


def test_a_command_is_quoted_for_the_shell(tmp_path: Path) -> None:
    file = {"id": "data-0123456789ab", "source": {"kind": "file", "name": "b.jsonl"}}  # no snapshot to name
    read = report(put(tmp_path, facts("sft", {"model": "my model; rm -rf /", "data": "a b.jsonl"}, dataset=file)))
    assert "--data 'a b.jsonl' \\\n    --model 'my model; rm -rf /'" in read.text


def test_the_command_ends_with_a_few_lines(tmp_path: Path) -> None:
    put(tmp_path, facts(summary={"validation/score": 1.4}), PPO)
    path = write_report(tmp_path)
    assert summary_lines(tmp_path) == [
        "The score on prompts held out rose from −0.10 to 1.40, by 2 standard deviations of the answers before, "
        "at a KL of 9 nats and with answers 25 % longer.",
        "  Score       1.40  (held out, from −0.10)",
        "  Reward      0.80  (from 0.00)",
        "  KL          9.00  (from 0.00)",
        "  Length      50.0  (from 40.0)",
        "  Took        3 min 0 s",
        "  Checkpoint  tiny-ppo-1",
        f"  Report      {path}",
    ]


def test_text_is_escaped_and_fit_for_a_page() -> None:
    assert page.paragraph("a\0b & <i>\ud800") == '<p class="muted">a�b &amp; &lt;i&gt;�</p>'
