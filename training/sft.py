"""Supervised fine-tuning: demonstrations -> a policy (Ouyang et al. 2022, section 3.5), loss on the answers alone.

The weights of the best epoch become the checkpoint: by the reward of greedy answers to held-out prompts where there is
a reward model (the loss overfits after one epoch while answers still get better), else by the loss on held-out
demonstrations, else the last. Packing is exact (`trees.py`): no demonstration sees another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from honed.models.scalar_head import ScalarModel
from honed.training import dropout
from honed.training.configs import SFTConfig
from honed.training.encoding import Encoder
from honed.training.fitting import Metrics, Objective, fit
from honed.training.forward import policy_logits
from honed.training.generation import Generator, generator_of, greedy
from honed.training.groups import demonstrations, prompts
from honed.training.learner import Best
from honed.training.loading import Loaded, learner_of, load_model, load_scalar
from honed.training.objectives import token_logprobs
from honed.training.planning.estimates import read_shape
from honed.training.planning.lengths import scored_tokens
from honed.training.run import Run, Trained
from honed.training.scoring import normalised, score_trees
from honed.training.showcase import Showcase
from honed.training.trees import Tree, pack, plan
from honed.training.weights import fold, whole_state

SCORED: Final = 64  # prompts


def train_sft(run: Run[SFTConfig], reward_folder: Path | None) -> Trained:
    """Raises TrainingError, PolicyError, and OSError as the disk gives it."""
    config = run.config
    loaded = load_model(run.parent, torch.float32, run.loads_on)
    reward_model = load_scalar(reward_folder, run.dtype, run.ranks.device) if reward_folder else None
    encoder = Encoder(loaded.tokenizer, config.max_tokens, config.max_tokens)
    held_out = run.dataset.of("validation")
    trees = demonstrations(run.dataset.of("train"), encoder)
    unseen = demonstrations(held_out, encoder)
    room = min(config.max_tokens, read_shape(reward_folder).context_length) if reward_folder else config.max_tokens
    answer_tokens = scored_tokens(room)
    asked = prompts(held_out, Encoder(loaded.tokenizer, room, room), answer_tokens)[:SCORED]
    hooks = dropout.add(loaded.model, config.dropout)
    learner = learner_of(loaded.model, config, run.ranks, run.dtype, learning_rate=config.learning_rate)
    generator = generator_of(loaded, run)
    showcase = Showcase(
        run.folder,
        held_out,
        loaded,
        generator,
        max_tokens=room,
        answer_tokens=answer_tokens,
        ranks=run.ranks,
        reward_model=reward_model,
    )
    best = Best(learner.masters)

    def measured() -> dict[str, float]:
        found = {}
        with dropout.off(hooks):
            if unseen:
                found["validation/loss"] = validation_loss(run, loaded, unseen)
            if reward_model is not None and asked:
                found["validation/score"] = _mean_score(run, generator, reward_model, asked, answer_tokens)
        return found

    def measure(epoch: int) -> Metrics:
        found = measured()
        if epoch:
            best.offer(learner.masters, found.get("validation/score", -found.get("validation/loss", 0.0)))
        else:
            with dropout.off(hooks):
                showcase.before()
        return found

    steps = fit(run, learner, trees, objective(loaded, run.ranks.device), measure, best.state())
    learner.publish(best.weights)
    summary = _summary(best, is_measured=bool(unseen), by_score=bool(reward_model and asked))
    if config.lora:
        fold(run, loaded.model)
        folded = measured()
        run.tracker.log(steps, folded)
        summary = {name: folded[name] for name in summary}
    with dropout.off(hooks):
        samples = showcase.after()
    return Trained(loaded.model, whole_state(loaded.model), loaded.tokenizer, summary, samples=samples)


def objective(loaded: Loaded, device: torch.device) -> Objective[Tree]:
    """Cross-entropy of the answers' tokens: the mean over the tokens of a batch."""

    def loss(trees: Sequence[Tree], count: float) -> tuple[Tensor, Metrics]:
        packed = pack(trees, device)
        logprobs = token_logprobs(policy_logits(loaded.model, packed), packed.target_ids)
        return -logprobs.sum() / count, {}

    return Objective(tokens=lambda tree: tree.num_tokens, weight=lambda tree: tree.num_answer_tokens, loss=loss)


@torch.no_grad()
def validation_loss(run: Run[SFTConfig], loaded: Loaded, trees: Sequence[Tree]) -> float:
    """Nats a token of the answers."""
    loss = objective(loaded, run.ranks.device).loss
    passes = plan([tree.num_tokens for tree in trees], run.tokens_per_pass, run.ranks.size)
    own = run.ranks.share(passes)
    # An empty pass runs another's, for nothing: the layers of a model that is shared out need every rank.
    losses = [float(loss([trees[i] for i in chosen or passes[0]], 1.0)[0]) for chosen in own]
    total = sum(each for each, chosen in zip(losses, own, strict=True) if chosen)
    return run.ranks.sum(total)[0] / sum(tree.num_answer_tokens for tree in trees)


def _mean_score(
    run: Run[SFTConfig],
    generator: Generator,
    reward_model: ScalarModel,
    asked: Sequence[tuple[int, ...]],
    answer_tokens: int,
) -> float:
    """The mean reward of greedy answers, which the ranks share."""
    own = run.ranks.share(asked)
    answers = run.ranks.gather(run.ranks.together(lambda: greedy(generator, own, answer_tokens)))
    trees = [Tree(prompt, (answer.ids,)) for prompt, answer in zip(asked, answers, strict=True)]
    scores = normalised(reward_model, score_trees(reward_model, trees, run.tokens_per_pass, run.ranks))
    return sum(numbers[0] for numbers in scores) / len(scores)


def _summary(best: Best, *, is_measured: bool, by_score: bool) -> dict[str, float]:
    """What the weights were chosen by."""
    if not is_measured:
        return {}
    return {"validation/score": float(best.value)} if by_score else {"validation/loss": -float(best.value)}
