"""A toy task for whole training runs: a folder as HONED_HOME with a tiny policy and files of data, settings of a few
seconds, and runs that are cut off after a step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes import save_tiny_policy
from safetensors.torch import load_file
from torch import Tensor

from honed.models.checkpoint import weight_files
from honed.training.configs import CONFIGS, DPOConfig, PPOConfig, RewardConfig, RunConfig, SFTConfig
from honed.training.generation import Generator
from honed.training.learner import DivergedError
from honed.training.reports.tracking import Tracker, read_metrics
from honed.training.runs import Result, run

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


class CutError(Exception):
    """In the place of a power cut."""


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_home(home: Path, **overrides: Any) -> Path:
    """With `models/tiny`, and the files demonstrations.jsonl, rankings.jsonl, prompts.jsonl and texts.jsonl."""
    save_tiny_policy(home / "models" / "tiny", **overrides)
    write_rows(home / "demonstrations.jsonl", ({"prompt": word, "completion": word[::-1]} for word in WORDS))
    write_rows(home / "rankings.jsonl", map(_ranking, WORDS))
    write_rows(home / "prompts.jsonl", ({"prompt": word} for word in WORDS))
    write_rows(home / "texts.jsonl", ({"text": f"{word} and {word} and {word}"} for word in WORDS))
    return home


def _ranking(word: str) -> dict[str, Any]:
    texts = [word, word[:2], word[::-1]]
    return {"prompt": word, "answers": [{"text": text, "rank": rank} for rank, text in enumerate(texts, start=1)]}


_SMALL: dict[str, Any] = {"model": "tiny", "dtype": "float32", "device": "cpu", "max_tokens": 64, "validation": 3}


def sft(home: Path, **changes: Any) -> SFTConfig:
    """Six steps, a state after each second."""
    own = {
        "data": str(home / "demonstrations.jsonl"),
        "batch_size": 3,
        "save_every": 2,
        "learning_rate": 1e-3,
        "epochs": 2,
    }
    return SFTConfig.model_validate(_SMALL | own | {"tokens_per_pass": 20} | changes)


def reward(home: Path, **changes: Any) -> RewardConfig:
    """Six steps, a state after each second."""
    own = {"data": str(home / "rankings.jsonl"), "batch_size": 3, "save_every": 2, "learning_rate": 1e-3, "epochs": 2}
    return RewardConfig.model_validate(_SMALL | own | {"tokens_per_pass": 40} | changes)


def ppo(home: Path, **changes: Any) -> PPOConfig:
    """Four rounds of four prompts, a minibatch each, with texts; a state after each round."""
    own = {
        "data": str(home / "prompts.jsonl"),
        "pretraining": str(home / "texts.jsonl"),
        "reward_model": "judge",
        "iterations": 4,
        "batch_size": 8,
        "samples_per_prompt": 2,
        "minibatches": 4,
        "max_new_tokens": 6,
        "learning_rate": 1e-3,
        "value_learning_rate": 1e-3,
        "ptx_examples": 2,
        "ptx_tokens": 12,
        "validate_every": 2,
        "save_every": 1,
        "kl_target": 1.0,
        "min_entropy": 0.0,
        "tokens_per_pass": 40,
    }
    return PPOConfig.model_validate(_SMALL | own | changes)


def dpo(home: Path, **changes: Any) -> DPOConfig:
    """Six steps of four pairs."""
    own = {"data": str(home / "rankings.jsonl"), "batch_size": 4, "learning_rate": 1e-3, "validation": 4}
    return DPOConfig.model_validate(_SMALL | own | changes)


def typed(config: RunConfig) -> list[str]:
    """The command that has these settings."""
    stage = next(stage for stage, model in CONFIGS.items() if type(config) is model)
    settings = config.model_dump(exclude_defaults=True)
    words = (
        [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])] for name, value in settings.items()
    )
    return ["train", stage, *(word for each in words for word in each), "--quiet"]


def train(home: Path, config: RunConfig) -> Result:
    return run(config, home=home, engine=None, show=False)


@contextmanager
def cut_after(step: int | None) -> Iterator[None]:
    """Whatever is run in the block ends with CutError when it logs a later step than `step`."""
    if step is None:
        yield
        return
    log = Tracker.log

    def cut_off(tracker: Tracker, at: int, metrics: Mapping[str, float], *, tokens: int = 0) -> None:
        if at > step:
            raise CutError
        log(tracker, at, metrics, tokens=tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracker, "log", cut_off)
        yield


@contextmanager
def sick_at(call: int | None) -> Iterator[None]:
    """In the block this process cannot answer when it is asked for the `call`th time, counted from 1."""
    calls = 0
    answer = Generator.answer

    def answer_or_not(generator: Generator, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        answers = answer(generator, *arguments, **named)
        if calls == call:
            raise DivergedError("The second rank's numbers are not finite.")
        return answers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generator, "answer", answer_or_not)
        yield


def begin(home: Path, config: RunConfig, step: int) -> None:
    """The run until it was cut off after `step`."""
    with cut_after(step), pytest.raises(CutError):
        train(home, config)


def curve(home: Path, name: str) -> list[dict[str, float]]:
    """What a run measured, but for the time that it took."""
    lines = read_metrics(home / "runs" / name)
    assert lines
    return [{key: value for key, value in line.items() if key not in ("seconds",)} for line in lines]


def weights(home: Path, name: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint's files."""
    folder = home / "models" / name
    files = [*weight_files(folder)]
    assert files
    return {f"{path.name}/{key}": each for path in files for key, each in load_file(path).items()}


def record(home: Path, name: str) -> dict[str, Any]:
    """The run's run.json."""
    facts: dict[str, Any] = json.loads((home / "runs" / name / "run.json").read_bytes())
    return facts
