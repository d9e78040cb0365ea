"""What the reward model says of both policies' answers: as `honed score` would, from their texts.

Invariant: an answer that ended has its end, and one that was cut has none, as in PPO; both policies' answers to a
prompt are judged in one tree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from honed.models.policy import end_of_answer_id
from honed.training.data.datasets import Example
from honed.training.encoding import Encoder
from honed.training.evaluation.answering import Said
from honed.training.evaluation.config import EvaluationConfig
from honed.training.failures import TrainingError
from honed.training.loading import load_scalar
from honed.training.run import TOKENS_PER_PASS, compute_dtype
from honed.training.scoring import judge_encoder, normalised, score_trees
from honed.training.trees import Tree


def judge(
    folder: Path,
    prompts: Sequence[Example],
    answers: Sequence[Sequence[Said]],
    config: EvaluationConfig,
    device: torch.device,
) -> list[list[float]]:
    """The score of each answer to each prompt. Raises TrainingError and PolicyError."""
    encoder = judge_encoder(folder)
    model = load_scalar(folder, compute_dtype(config, device), device)
    trees = [_tree(encoder, prompt, some) for prompt, some in zip(prompts, answers, strict=True)]
    scores = normalised(model, score_trees(model, trees, TOKENS_PER_PASS[device.type]))
    if not all(math.isfinite(score) for some in scores for score in some):
        raise TrainingError(f"The scores of {folder.name} are not finite: train the judge again.")
    return scores


def _tree(encoder: Encoder, prompt: Example, answers: Sequence[Said]) -> Tree:
    tree = encoder.tree(prompt.record.prompt, [each.text for each in answers])
    assert tree is not None, "prompts that leave no room are not asked"
    end = end_of_answer_id(encoder.tokenizer)
    cut = (
        ids[:-1] if not each.ended and len(ids) > 1 and ids[-1] == end else ids
        for ids, each in zip(tree.answers, answers, strict=True)
    )
    return Tree(tree.prompt, tuple(cut))
