"""What one policy does in an evaluation: its answers, and the log-probabilities of given ones.

Owns sampling and the trainer's passes. Invariants: the policy is in memory during its turn alone; an answer depends on
its prompt, its seed and the policy, and both policies get the same seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from honed.training.evaluation.config import EvaluationConfig
from honed.training.evaluation.task import Task
from honed.training.fitting import drawn
from honed.training.forward import policy_logits
from honed.training.generation import Answer, Generator, text_of
from honed.training.loading import Loaded, load_model
from honed.training.objectives import token_logprobs
from honed.training.run import TOKENS_PER_PASS, compute_dtype
from honed.training.trees import Tree, divided, pack, plan

INSTRUCTION_SAMPLES: Final = 4  # answers to each: they are few, and a share of few answers is a noisy one


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: its tokens with the one that ended it, where it `ended`, and its text as users see it."""

    ids: tuple[int, ...]
    ended: bool
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """`answers`: some to each prompt. `followed`: some to each instruction. `loss`: nats a token of the
    texts, None where there are none. `logprobs`: of the candidate's answers, each summed over its tokens."""

    answers: list[list[Said]]
    followed: list[list[Said]]
    loss: float | None
    logprobs: list[list[float]]


def take_turn(
    folder: Path, task: Task, config: EvaluationConfig, device: torch.device, judged: Sequence[Sequence[Said]] | None
) -> Turn:
    """All that a policy has to do. `judged`: the candidate's answers where this is not the candidate; empty where it
    reads other tokens. Raises TrainingError and PolicyError."""
    loaded = load_model(folder, compute_dtype(config, device), device)
    tokens_per_pass = TOKENS_PER_PASS[device.type]
    answers = _sampled(loaded, task.prompts, config.samples, config)
    spoken = answers if judged is None else judged
    trees = [Tree(ids, tuple(each.ids for each in some)) for ids, some in zip(task.prompts, spoken, strict=False)]
    return Turn(
        answers=answers,
        followed=_sampled(loaded, task.instructions, INSTRUCTION_SAMPLES, config),
        loss=_loss(loaded, task.texts, tokens_per_pass) if task.texts else None,
        logprobs=_summed_logprobs(loaded, trees, temperature=config.temperature, tokens_per_pass=tokens_per_pass),
    )


def _sampled(
    loaded: Loaded, prompts: Sequence[tuple[int, ...]], samples: int, config: EvaluationConfig
) -> list[list[Said]]:
    answers = Generator(loaded).answer(
        [ids for ids in prompts for _ in range(samples)],
        [drawn(config.seed, "evaluation", i, sample) for i in range(len(prompts)) for sample in range(samples)],
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
    )
    found = [_said(loaded, each) for each in answers]
    return [found[start : start + samples] for start in range(0, len(found), samples)]


@torch.no_grad()
def _summed_logprobs(
    loaded: Loaded, trees: Sequence[Tree], *, temperature: float, tokens_per_pass: int
) -> list[list[float]]:
    """Of each tree's answers, the sum of their tokens' log-probabilities."""
    parts = [(number, part) for number, tree in enumerate(trees) for part in divided(tree, tokens_per_pass)]
    said: dict[int, list[float]] = {}
    for chosen in plan([part.num_tokens for _, part in parts], tokens_per_pass):
        packed = pack([parts[i][1] for i in chosen], loaded.model.device)
        logprobs = token_logprobs(policy_logits(loaded.model, packed), packed.target_ids, temperature).double().cpu()
        lengths = [len(answer) for i in chosen for answer in parts[i][1].answers]
        sums = iter([float(each.sum()) for each in logprobs.split(lengths)])
        said |= {i: [next(sums) for _ in parts[i][1].answers] for i in chosen}
    found: list[list[float]] = [[] for _ in trees]
    for i, (number, _) in enumerate(parts):
        found[number] += said[i]
    return found


def _loss(loaded: Loaded, trees: Sequence[Tree], tokens_per_pass: int) -> float:
    """Nats a token of the trees' answers."""
    sums = _summed_logprobs(loaded, trees, temperature=1.0, tokens_per_pass=tokens_per_pass)
    return -sum(map(sum, sums)) / sum(tree.num_answer_tokens for tree in trees)


def _said(loaded: Loaded, answer: Answer) -> Said:
    return Said(answer.ids, answer.ended, text_of(loaded, answer))
