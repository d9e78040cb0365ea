"""Training tokens a second: our SFT and reward-model steps against TRL's own trainers, on the same rows, in turn.

    .venv/bin/python benchmarks/training_speed.py --data rankings.jsonl

Rows as `honed export --what rankings` writes them, with demonstrations. SFT learns the demonstrations; the reward
model learns pairs, the best answer and the worst of each row, since TRL has no rankings of more. Tokens are those of
the rows: a prompt counts as often as its trainer is given it, padding never counts. Both compute in the number format
that honed chooses on `--device`, without gradient checkpointing; the first step of each round is not timed. The share
of the peak is 6 operations a weight and token that honed computes (arXiv:2001.08361, section 2.1: attention's own
products not counted, and the output layer for answers alone), over the speed of a large product of matrices, measured
here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import torch
from transformers import AutoModelForSequenceClassification, TrainerCallback
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from honed.models.policy import choose_device, choose_dtype, load_policy, load_tokenizer
from honed.models.sources import honed_home, pull
from honed.server.store.exchange.reading import Entry, read
from honed.server.store.exchange.records import Ranking
from honed.training import reward, sft
from honed.training.configs import RunConfig
from honed.training.distributed import Ranks
from honed.training.encoding import Encoder
from honed.training.fitting import Objective
from honed.training.groups import Group
from honed.training.learner import Learner, OptimizerConfig
from honed.training.loading import load_model, load_scalar
from honed.training.planning.machine import matmul_speed
from honed.training.run import TOKENS_PER_PASS
from honed.training.trees import Tree, plan

MAX_TOKENS = 512
PEAK_SIZE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product is the peak


@dataclass(frozen=True, slots=True)
class Bench:
    """What both trainers get: the model's folder, the device, its numbers and the sizes of batches and passes."""

    folder: Path
    device: torch.device
    dtype: torch.dtype
    batch_size: int
    tokens_per_pass: int  # ours
    rows_per_pass: int  # TRL's

    def synchronize(self) -> float:
        """The time, when all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Clock(TrainerCallback):
    """Seconds from the end of the first step to the end of the last."""

    seconds = 0.0

    def __init__(self, bench: Bench) -> None:
        self.now = bench.synchronize

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        if state.global_step == 1:
            self.started = self.now()
        self.seconds = self.now() - self.started


def ours(bench: Bench, module: Any, objective: Objective[Any], rows: Sequence[Any]) -> float:
    """Seconds of all steps but the first."""
    learner = Learner(module, Ranks(bench.device), OptimizerConfig(learning_rate=1e-6), bench.dtype)
    started = 0.0
    for first in range(0, len(rows), bench.batch_size):
        batch = rows[first : first + bench.batch_size]
        if first == bench.batch_size:
            started = bench.synchronize()
        count = sum(map(objective.weight, batch))
        for chosen in plan(list(map(objective.tokens, batch)), bench.tokens_per_pass):
            learner.backward(objective.loss([batch[i] for i in chosen], count)[0])
        learner.step(1.0)
    return bench.synchronize() - started


def settings(bench: Bench, folder: str, rows: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": bench.rows_per_pass,
        "gradient_accumulation_steps": bench.batch_size // bench.rows_per_pass,
        "max_steps": rows // bench.batch_size,
        "learning_rate": 1e-6,
        "bf16": bench.dtype is torch.bfloat16,
        "use_cpu": bench.device.type == "cpu",
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


def sft_rounds(bench: Bench, trees: Sequence[Tree]) -> dict[str, Callable[[], float]]:
    rows = [
        {"input_ids": [*t.prompt, *t.answers[0]], "completion_mask": [0] * len(t.prompt) + [1] * len(t.answers[0])}
        for t in trees
    ]

    def mine() -> float:
        loaded = load_model(bench.folder, torch.float32, bench.device)
        return ours(bench, loaded.model, sft.objective(loaded, bench.device), trees)

    def theirs() -> float:
        policy, clock = load_policy(bench.folder, dtype="float32", device=str(bench.device)), Clock(bench)
        with tempfile.TemporaryDirectory() as output:
            arguments = SFTConfig(**settings(bench, output, len(trees)))
            SFTTrainer(
                model=policy.model,
                args=arguments,
                train_dataset=datasets.Dataset.from_list(rows),
                processing_class=padded(policy.tokenizer),
                callbacks=[clock],
            ).train()
        return clock.seconds

    return {"honed": mine, "TRL": theirs}


def reward_rounds(bench: Bench, groups: Sequence[Group]) -> dict[str, Callable[[], float]]:
    rows = [
        {"chosen_ids": [*group.tree.prompt, *better], "rejected_ids": [*group.tree.prompt, *worse]}
        for group in groups
        for better, worse in [group.tree.answers]
    ]

    def mine() -> float:
        model = load_scalar(bench.folder, torch.float32, bench.device)
        return ours(bench, model, reward.objective(model, margin=False), groups)

    def theirs() -> float:
        clock = Clock(bench)
        model = AutoModelForSequenceClassification.from_pretrained(bench.folder, num_labels=1, dtype=torch.float32)
        tokenizer = padded(load_tokenizer(bench.folder))
        model.config.pad_token_id = tokenizer.pad_token_id
        with tempfile.TemporaryDirectory() as output:
            arguments = RewardConfig(**settings(bench, output, len(groups)))
            RewardTrainer(
                model=model,
                args=arguments,
                train_dataset=datasets.Dataset.from_list(rows),
                processing_class=tokenizer,
                callbacks=[clock],
            ).train()
        return clock.seconds

    return {"honed": mine, "TRL": theirs}


def compare(name: str, rounds: int, tokens: int, at_peak_s: float, runs: dict[str, Callable[[], float]]) -> None:
    """One line of the table. `at_peak_s`: what honed's operations would take at the speed of a large product."""
    rates: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(rounds):
        for who, run in runs.items():
            rates[who].append(tokens / run())
    ratios = [a / b for a, b in zip(rates["honed"], rates["TRL"], strict=True)]
    cells = " | ".join(f"{median(each):.0f}" for each in rates.values())
    share = at_peak_s * median(rates["honed"]) / tokens
    print(
        f"| {name} | {cells} | {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {share:.1%} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--per-pass", type=int, default=4, help="rows that TRL computes at once")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tokens-per-pass", type=int, help="what honed computes at once (default: as in training)")
    options = parser.parse_args()
    folder = pull(options.model, honed_home())
    device = choose_device(options.device)
    tokens_per_pass = options.tokens_per_pass or TOKENS_PER_PASS[device.type]
    bench = Bench(
        folder, device, choose_dtype("auto", device), options.batch_size, tokens_per_pass, options.per_pass
    )  # fmt: skip
    loaded = load_model(folder, torch.float32, torch.device("cpu"))
    size = PEAK_SIZE[device.type]
    speed = matmul_speed(RunConfig(device=str(device)), rows=size, width=size, inner=size)
    output = loaded.model.get_output_embeddings().weight.numel()
    layers = sum(each.numel() for each in loaded.model.base_model.layers.parameters())
    rankings = [each.record for each in read(options.data) if isinstance(each, Entry)]
    encoder = Encoder(loaded.tokenizer, MAX_TOKENS, MAX_TOKENS)
    count = options.steps * options.batch_size
    chosen = [each for each in rankings if isinstance(each, Ranking) and each.demonstration]
    trees = [tree for each in chosen if (tree := encoder.tree(each.prompt, [each.demonstration or ""]))][:count]
    groups = []
    for each in chosen:
        ordered = sorted(each.answers, key=lambda answer: answer.rank)
        if tree := encoder.tree(each.prompt, [ordered[0].text, ordered[-1].text]):
            groups.append(Group(tree, (1, 2), (None, None), None))
    groups = groups[:count]
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{card}, {bench.dtype}: {speed / 1e12:.2f} TFLOP/s in a product of matrices")
    print("| step | honed, tokens/s | TRL, tokens/s | ratio, median of rounds (range) | share of the peak |")
    print("|---|---|---|---|---|")
    timed = slice(options.batch_size, None)
    tokens, answers = (sum(getattr(t, name) for t in trees[timed]) for name in ("num_tokens", "num_answer_tokens"))
    compare("SFT", options.rounds, tokens, 6 * (layers * tokens + output * answers) / speed, sft_rounds(bench, trees))
    twice = sum(2 * len(g.tree.prompt) + g.tree.num_answer_tokens for g in groups[timed])
    once = sum(g.tree.num_tokens for g in groups[timed])
    compare("reward model", options.rounds, twice, 6 * layers * once / speed, reward_rounds(bench, groups))


if __name__ == "__main__":
    main()
