"""Training tokens a second: our SFT and reward-model steps against TRL's own trainers, on the same rows, in turn.

    .venv/bin/python benchmarks/training_speed.py --data rankings.jsonl

Rows as `honed export --what rankings` writes them, with demonstrations. SFT learns the demonstrations; the reward
model learns pairs, the best answer and the worst of each row, since TRL has no rankings of more. Tokens are those of
the rows: a prompt counts as often as its trainer is given it, padding never counts. Both compute in the number format
that honed chooses here, without gradient checkpointing; the first step of each round is not timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import torch
from transformers import AutoModelForSequenceClassification, TrainerCallback
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from honed.models.policy import choose_dtype
from honed.models.sources import honed_home, pull
from honed.server.store.exchange.reading import Entry, read
from honed.server.store.exchange.records import Ranking
from honed.training import reward, sft
from honed.training.distributed import Ranks
from honed.training.encoding import Encoder
from honed.training.fitting import Objective
from honed.training.groups import Group
from honed.training.learner import Learner, OptimizerConfig
from honed.training.loading import load_model, load_scalar
from honed.training.run import TOKENS_PER_PASS
from honed.training.trees import Tree, plan

CPU = torch.device("cpu")
DTYPE = choose_dtype("auto", CPU)
MAX_TOKENS = 512


class Clock(TrainerCallback):
    """Seconds from the end of the first step to the end of the last."""

    seconds = 0.0

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        if state.global_step == 1:
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - self.started


def ours(module: Any, objective: Objective[Any], batches: Sequence[Sequence[Any]]) -> float:
    """Seconds of all steps but the first."""
    learner = Learner(module, Ranks(CPU), OptimizerConfig(learning_rate=1e-6), DTYPE)
    started = 0.0
    for number, batch in enumerate(batches):
        if number == 1:
            started = time.perf_counter()
        count = sum(map(objective.weight, batch))
        for chosen in plan(list(map(objective.tokens, batch)), TOKENS_PER_PASS["cpu"]):
            learner.backward(objective.loss([batch[i] for i in chosen], count)[0])
        learner.step(1.0)
    return time.perf_counter() - started


def settings(folder: str, batch_size: int, per_pass: int, steps: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": per_pass,
        "gradient_accumulation_steps": batch_size // per_pass,
        "max_steps": steps,
        "learning_rate": 1e-6,
        "bf16": DTYPE is torch.bfloat16,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "max_length": None,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
    }


def padded(tokenizer: Any) -> Any:
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


def sft_rounds(folder: Path, trees: Sequence[Tree], batch_size: int, per_pass: int) -> dict[str, Callable[[], float]]:
    rows = [
        {"input_ids": [*t.prompt, *t.answers[0]], "completion_mask": [0] * len(t.prompt) + [1] * len(t.answers[0])}
        for t in trees
    ]

    def mine() -> float:
        loaded = load_model(folder, torch.float32, CPU)
        batches = [trees[i : i + batch_size] for i in range(0, len(trees), batch_size)]
        return ours(loaded.model, sft.objective(loaded, CPU), batches)

    def theirs() -> float:
        loaded, clock = load_model(folder, torch.float32, CPU), Clock()
        with tempfile.TemporaryDirectory() as output:
            arguments = SFTConfig(**settings(output, batch_size, per_pass, len(trees) // batch_size))
            SFTTrainer(
                model=loaded.model,
                args=arguments,
                train_dataset=datasets.Dataset.from_list(rows),
                processing_class=padded(loaded.tokenizer),
                callbacks=[clock],
            ).train()
        return clock.seconds

    return {"honed": mine, "TRL": theirs}


def reward_rounds(
    folder: Path, groups: Sequence[Group], batch_size: int, per_pass: int
) -> dict[str, Callable[[], float]]:
    rows = [
        {"chosen_ids": [*group.tree.prompt, *better], "rejected_ids": [*group.tree.prompt, *worse]}
        for group in groups
        for better, worse in [group.tree.answers]
    ]

    def mine() -> float:
        model = load_scalar(folder, torch.float32, CPU)
        batches = [groups[i : i + batch_size] for i in range(0, len(groups), batch_size)]
        return ours(model, reward.objective(model, margin=False), batches)

    def theirs() -> float:
        clock = Clock()
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
        tokenizer = padded(load_model(folder, torch.float32, CPU).tokenizer)
        model.config.pad_token_id = tokenizer.pad_token_id
        with tempfile.TemporaryDirectory() as output:
            arguments = RewardConfig(**settings(output, batch_size, per_pass, len(groups) // batch_size))
            RewardTrainer(
                model=model,
                args=arguments,
                train_dataset=datasets.Dataset.from_list(rows),
                processing_class=tokenizer,
                callbacks=[clock],
            ).train()
        return clock.seconds

    return {"honed": mine, "TRL": theirs}


def compare(name: str, rounds: int, tokens: int, runs: dict[str, Callable[[], float]]) -> None:
    rates: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(rounds):
        for who, run in runs.items():
            rates[who].append(tokens / run())
    ratios = [a / b for a, b in zip(rates["honed"], rates["TRL"], strict=True)]
    cells = " | ".join(f"{median(each):.0f}" for each in rates.values())
    print(f"| {name} | {cells} | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--per-pass", type=int, default=4, help="rows that TRL computes at once")
    options = parser.parse_args()
    folder = pull(options.model, honed_home())
    rankings = [each.record for each in read(options.data) if isinstance(each, Entry)]
    encoder = Encoder(load_model(folder, torch.float32, CPU).tokenizer, MAX_TOKENS, MAX_TOKENS)
    count = options.steps * options.batch_size
    chosen = [each for each in rankings if isinstance(each, Ranking) and each.demonstration]
    trees = [tree for each in chosen if (tree := encoder.tree(each.prompt, [each.demonstration or ""]))][:count]
    groups = []
    for each in chosen:
        ordered = sorted(each.answers, key=lambda answer: answer.rank)
        if tree := encoder.tree(each.prompt, [ordered[0].text, ordered[-1].text]):
            groups.append(Group(tree, (1, 2), (None, None), None))
    groups = groups[:count]
    print("| step | honed, tokens/s | TRL, tokens/s | ratio, median of rounds (range) |\n|---|---|---|---|")
    timed = slice(options.batch_size, None)
    sizes = options.batch_size, options.per_pass
    compare("SFT", options.rounds, sum(t.num_tokens for t in trees[timed]), sft_rounds(folder, trees, *sizes))
    twice = sum(2 * len(g.tree.prompt) + g.tree.num_answer_tokens for g in groups[timed])
    compare("reward model", options.rounds, twice, reward_rounds(folder, groups, *sizes))


if __name__ == "__main__":
    main()
