"""The circle on files: demonstrations, then twice rankings of the policy's own answers by a hidden scorer, a reward
model of them, and PPO against it. Each policy beats the one before by the scorer, which no training ever saw."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import save_tiny_policy
from gold import LETTERS, gold, words
from toy_runs import record, write_rows

from honed.models.checkpoint import checkpoint_id, read_lineage
from honed.models.policy import PolicyError, load_policy
from honed.training.configs import PPOConfig, RewardConfig, SFTConfig
from honed.training.generation import Generator, text_of
from honed.training.loading import load_model
from honed.training.runs import run, run_all

ANSWER_TOKENS = 8
SAMPLES = 4  # answers to a prompt
COMMON: dict[str, Any] = {
    "model": "tiny", "dtype": "float32", "device": "cpu", "max_tokens": 32, "validation": 20, "tokens_per_pass": 2048,
}  # fmt: skip
MADE = {  # name -> stage and parent
    "one-sft": ("sft", "tiny"),
    "one-reward": ("reward", "one-sft"),
    "one-ppo": ("ppo", "one-sft"),
    "two-reward": ("reward", "one-sft"),
    "two-ppo": ("ppo", "one-ppo"),
}


ASKED = words(500, seed=0)
UNSEEN = [word for word in words(100, seed=1) if word not in ASKED][:60]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HONED_HOME with the checkpoints of MADE."""
    home = tmp_path_factory.mktemp("home")
    save_tiny_policy(home / "models" / "tiny")
    write_rows(home / "demonstrations.jsonl", demonstrations())
    sft = SFTConfig(
        **COMMON, data=str(home / "demonstrations.jsonl"), output="one-sft", batch_size=8, epochs=3, learning_rate=1e-2
    )
    run(sft, home=home, engine=None, show=False)
    rank_answers(home, "one-sft", home / "one.jsonl")
    # SFT is there already, and is left as it is.
    circle = {"sft": sft, "reward": reward(home, "one"), "ppo": ppo(home, "one")}
    resumed = {stage: config.model_copy(update={"resume": True}) for stage, config in circle.items()}
    results = run_all(resumed, home=home, engine=None, show=False)
    assert [each.name for each in results] == ["one-sft", "one-reward", "one-ppo"]
    rank_answers(home, "one-ppo", home / "two.jsonl")
    again = {"model": "one-ppo", "reward_model": "two-reward"}
    run(reward(home, "two").model_copy(update={"model": "one-sft"}), home=home, engine=None, show=False)
    run(ppo(home, "two").model_copy(update=again), home=home, engine=None, show=False)
    return home


def demonstrations() -> Iterator[dict[str, str]]:
    """Any letters."""
    draw = random.Random(2)
    for word in ASKED[:300]:
        yield {"prompt": word, "completion": "".join(draw.choices(LETTERS, k=draw.randint(3, 5)))}


def reward(home: Path, cycle: str) -> RewardConfig:
    return RewardConfig(
        **COMMON,
        data=str(home / f"{cycle}.jsonl"),
        output=f"{cycle}-reward",
        batch_size=8,
        epochs=2,
        learning_rate=3e-3,
    )


def ppo(home: Path, cycle: str) -> PPOConfig:
    return PPOConfig(
        **COMMON, data=str(home / f"{cycle}.jsonl"), output=f"{cycle}-ppo", iterations=8, max_new_tokens=ANSWER_TOKENS,
        learning_rate=1e-3, value_learning_rate=3e-3, kl_coefficient=0.05, ema=0.5, missing_eos_penalty=1.0,
    )  # fmt: skip


def sampled(home: Path, name: str, prompts: Sequence[str], seed: int) -> list[list[str]]:
    """SAMPLES answers to each prompt."""
    loaded = load_model(home / "models" / name, torch.float32, torch.device("cpu"))
    ids = [tuple(loaded.tokenizer.encode(prompt)) for prompt in prompts for _ in range(SAMPLES)]
    seeds = [seed * 10**6 + i for i in range(len(ids))]
    generator = Generator(loaded)
    found = generator.answer(ids, seeds, max_new_tokens=ANSWER_TOKENS, temperature=1.0)
    texts = [text_of(loaded, each) for each in found]
    return [texts[start : start + SAMPLES] for start in range(0, len(texts), SAMPLES)]


def rank_answers(home: Path, name: str, path: Path) -> None:
    """What the scorer says of a policy's answers: rankings with ties, without scores."""
    rows = []
    for word, answers in zip(ASKED, sampled(home, name, ASKED, seed=3), strict=True):
        different = list(dict.fromkeys(answers))
        best_first = sorted({gold(each) for each in different}, reverse=True)
        ranked = [{"text": each, "rank": best_first.index(gold(each)) + 1} for each in different]
        if len(best_first) > 1:
            rows.append({"prompt": word, "answers": ranked})
    write_rows(path, rows)


@pytest.mark.parametrize(("policy", "before"), [("one-ppo", "one-sft"), ("two-ppo", "one-ppo")])
def test_each_policy_beats_the_last_on_gold(home: Path, policy: str, before: str) -> None:
    """On prompts that no training saw. Of the win rate (ties: a half) the middle 95 % over draws of prompts."""
    ours, theirs = sampled(home, policy, UNSEEN, seed=4), sampled(home, before, UNSEEN, seed=5)
    rates = [
        sum((gold(x) > gold(y)) + 0.5 * (gold(x) == gold(y)) for x in some for y in others) / SAMPLES**2
        for some, others in zip(ours, theirs, strict=True)
    ]
    draw = random.Random(0)
    means = sorted(sum(draw.choices(rates, k=len(rates))) / len(rates) for _ in range(1000))
    assert means[25] > 0.6
    lengths = [sum(map(len, (text for some in each for text in some))) for each in (ours, theirs)]
    assert 0.5 < lengths[0] / lengths[1] < 1.5, "not by length"


def test_the_reward_models_know_what_the_scorer_likes(home: Path) -> None:
    for cycle in ("one", "two"):
        measured = json.loads((home / "runs" / f"{cycle}-reward" / "evaluation.json").read_bytes())
        assert measured["accuracy_low"] > 0.6
        assert record(home, f"{cycle}-reward")["summary"]["accuracy"] == measured["accuracy"]


@pytest.mark.parametrize("name", MADE)
def test_what_a_run_leaves_on_the_disk(home: Path, name: str) -> None:
    stage, parent = MADE[name]
    lineage = read_lineage(home / "models" / name)
    facts = record(home, name)
    assert lineage is not None
    assert (lineage.name, lineage.stage, lineage.parent) == (name, stage, checkpoint_id(home / "models" / parent))
    assert lineage.settings == facts["settings"]
    assert lineage.settings["output"] == name
    assert lineage.dataset == facts["dataset"]["id"]
    assert lineage.source == ("demonstrations.jsonl" if name == "one-sft" else f"{name.split('-')[0]}.jsonl")
    assert lineage.metrics == facts["summary"]
    assert lineage.metrics
    assert (facts["status"], facts["reason"], facts["checkpoint"]) == ("succeeded", None, name)
    folder = home / "runs" / name
    assert name in (folder / "report.html").read_text(encoding="utf-8")
    assert not [each.name for each in folder.iterdir() if "state-" in each.name or each.name.endswith(".partial")]
    assert not list((home / "models").glob(".*"))


@pytest.mark.parametrize("name", ["one-sft", "one-ppo"])
def test_samples_show_what_changed(home: Path, name: str) -> None:
    rows = [json.loads(line) for line in (home / "runs" / name / "samples.jsonl").read_text().splitlines()]
    assert rows
    assert all(row["prompt"] in ASKED for row in rows)
    assert any(row["before"] != row["after"] for row in rows)
    assert all((row["score_after"] is not None) == (name == "one-ppo") for row in rows)


def test_policies_can_be_served_and_reward_models_cannot(home: Path) -> None:
    for name, (stage, _) in MADE.items():
        folder = home / "models" / name
        if stage == "reward":
            with pytest.raises(PolicyError, match="is a reward model, which answers nothing"):
                load_policy(folder, device="cpu")
        else:
            policy = load_policy(folder, device="cpu")
            assert (policy.name, policy.id) == (name, checkpoint_id(folder))
