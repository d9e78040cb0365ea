"""`--dry-run` as it is typed, on real files and a tiny model: what it says, and that nothing is there afterwards."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fakes import save_tiny_policy
from test_preflight import stamped
from typer.testing import CliRunner, Result

from honed.cli import app
from honed.models.policy import load_tokenizer
from honed.training.configs import SFTConfig
from honed.training.data.datasets import load_dataset
from honed.training.planning import dry_run
from honed.training.planning.lengths import measured


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a policy and a reward model, and a probe that takes no time: 1 GFLOP/s."""
    monkeypatch.setenv("HONED_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HONED_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "matmul_speed", lambda *_, **__: 1e9)
    save_tiny_policy(tmp_path / "home" / "models" / "tiny")
    stamped(save_tiny_policy(tmp_path / "home" / "models" / "judge"), "reward")
    return tmp_path / "home"


def honed(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", *arguments, "--device", "cpu", "--dtype", "float32", "--dry-run"])


def written(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return name


def chats(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"answer {n}"}]}
        for n in range(count)
    ]


def rankings(count: int) -> list[dict[str, Any]]:
    answers = [{"text": "good", "rank": 1}, {"text": "bad", "rank": 2}, {"text": "worse", "rank": 3}]
    return [{"messages": [{"role": "user", "content": f"question {n}"}], "answers": answers} for n in range(count)]


def test_what_is_said_of_sft(home: Path) -> None:
    data = written("rows.jsonl", chats(20))
    before = sorted(home.rglob("*"))
    done = honed("sft", "--model", "tiny", "--data", data, "--validation", "4", "--batch-size", "5", "--epochs", "3")
    assert (done.exit_code, done.stderr) == (0, "")
    first, reads, tokens, takes, memory, disk = (line.strip() for line in done.stdout.splitlines())
    assert first == f"sft: tiny -> {home / 'models' / 'tiny-sft'}"
    config = SFTConfig(data=data, validation=4)
    dataset = load_dataset(config, "sft", None)
    sizes = {split: len(dataset.of(split)) for split in ("train", "validation")}
    assert reads == (
        f"reads {dataset.id}, demonstrations from rows.jsonl: {sizes['train']} for train, "
        f"{sizes['validation']} for validation, 0 for test"
    )
    lengths = measured(load_tokenizer(home / "models" / "tiny"), "sft", dataset.of("train"))
    total = sum(each.total for each in lengths)
    assert tokens == f"trains on {3 * total / 1000:.3g} k tokens: 3 epochs of {total}"
    assert re.fullmatch(r"takes \d+ steps and about \d+ s, as cpu multiplies at 1 GFLOP/s", takes)
    assert takes.startswith(f"takes {3 * -(-sizes['train'] // 5)} steps")
    assert re.search(
        r"^needs about [\d.]+ MiB of [\d.]+ GiB of memory: policy 0\.\d+ MiB, copies of weights 0\.\d+ MiB, passes ",
        memory,
    )
    assert re.search(
        r"^needs about [\d.]+ MiB of [\d.]+ GiB of disk: checkpoint 0\.\d+ MiB, states [\d.]+ MiB \(2 ", disk
    )
    assert sorted(home.rglob("*")) == before, "nothing was written"


def test_all_speaks_of_each_stage(home: Path) -> None:
    demonstration = {"demonstration": "best"}
    data = written("rows.jsonl", [row | demonstration for row in rankings(40)])
    done = honed("all", "--model", "tiny", "--data", data, "--output", "circle", "--ppo-max-new-tokens", "8")
    assert (done.exit_code, done.stderr) == (0, "")
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert heads == [f"{stage}: tiny -> {home / 'models' / f'circle-{stage}'}" for stage in ("sft", "reward", "ppo")]
    ppo = done.stdout.partition("ppo: ")[2]
    assert "trains on at most" in ppo
    assert "20 rounds of" in ppo
    assert "value network" in ppo


def test_notes_of_the_preflight_are_said() -> None:
    long = {"messages": [{"role": "user", "content": "x" * 600}, {"role": "assistant", "content": "y"}]}
    data = written("rows.jsonl", [*chats(10), long])
    done = honed("sft", "--model", "tiny", "--data", data, "--validation", "0")
    assert "1 of 11 demonstrations are left out, since the model reads 512 tokens" in done.stdout


def test_held_out_rows_are_looked_at() -> None:
    rows = chats(12)
    data = written("rows.jsonl", rows)
    held_out = load_dataset(SFTConfig(data=data, validation=2), "sft", None).of("validation")
    (row,) = (row for row in rows if row["messages"][0]["content"] == held_out[0].record.prompt[0]["content"])
    row["messages"][1]["content"] = "z" * 600
    done = honed("sft", "--model", "tiny", "--data", written("rows.jsonl", rows), "--validation", "2")
    assert "1 of 2 held-out demonstrations have answers that are cut" in done.stdout


def test_what_the_data_leave_out_is_said() -> None:
    done = honed("sft", "--model", "tiny", "--data", written("rows.jsonl", [*chats(10), *chats(2)]))
    assert "  leaves out: 2 duplicate" in done.stdout


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("sft --output judge", "There is a checkpoint judge already"),
        ("sft --resume", "There is no run tiny-sft to go on with"),
        ("ppo", "PPO needs a reward model"),
        ("ppo --reward-model tiny", "no reward model: name one"),
        ("ppo --reward-model nothing", "There is no model 'nothing'"),
        ("sft --max-tokens 8", "None of the"),
        ("ppo --reward-model judge --pretraining nothing.jsonl", "nothing.jsonl cannot be read"),
        ("ppo --reward-model judge --pretraining rows.jsonl", "needs a string `text`"),
        ("kto --data up.jsonl --validation 2", "All thumbs are up"),
        ("dpo --data rankings.jsonl --validation 2 --sharding full", "set sharding to none"),
    ],
)
def test_what_would_end_the_run_ends_it(typed: str, said: str, home: Path) -> None:
    data = written("rows.jsonl", chats(12))
    written("up.jsonl", [{"prompt": f"question {n}", "completion": "yes", "label": True} for n in range(12)])
    written("rankings.jsonl", rankings(12))
    stage, *options = typed.split()
    done = honed(stage, "--model", "tiny", "--data", data, *options)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("honed: ")
    assert said in done.stderr


def test_a_run_that_was_cut_off_can_be_looked_at(home: Path) -> None:
    (home / "runs" / "tiny-sft").mkdir(parents=True)
    (home / "runs" / "tiny-sft" / "run.json").write_text("{}")
    data = written("rows.jsonl", chats(12))
    assert "There is a run tiny-sft already" in honed("sft", "--model", "tiny", "--data", data).stderr
    assert honed("sft", "--model", "tiny", "--data", data, "--resume").exit_code == 0
