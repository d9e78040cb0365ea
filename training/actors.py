"""Who takes part in PPO: the policy, its reference, the reward model and the critic, and what each does with a prompt.

Owns loading them, sampling and judging. What is learned from it is in `ppo.py`.
Invariant: only the policy and the critic change; the reference is what the policy was when the run began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from honed.models.scalar_head import ScalarModel
from honed.training.adapters import without_adapters
from honed.training.configs import PPOConfig
from honed.training.experience import NOTHING, Judgement, Pass, minibatches
from honed.training.fitting import drawn
from honed.training.forward import policy_logits, scalar_numbers
from honed.training.generation import Generator, generator_of
from honed.training.learner import Learner
from honed.training.loading import Loaded, learner_of, load_model, load_scalar
from honed.training.objectives import token_entropy, token_logprobs
from honed.training.pretraining import Pretraining, load_pretraining
from honed.training.run import Run
from honed.training.sharding import is_sharded
from honed.training.trees import Packed, Tree, pack, plan
from honed.training.weights import fold

EPSILON: Final = 1e-5  # Adam's, for RL
HELD_OUT: Final = 64  # prompts that are measured on
HELD_OUT_SAMPLES: Final = 2  # answers to each of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Everybody on stage. `reference` is None where it is the policy without its adapters."""

    policy: Loaded
    reference: Loaded | None
    reward_model: ScalarModel
    critic: ScalarModel
    learner: Learner
    critic_learner: Learner
    generator: Generator
    pretraining: Pretraining | None


def assemble(run: Run[PPOConfig], reward_folder: Path) -> Cast:
    """Loads everybody. Raises TrainingError and PolicyError."""
    config, ranks, device = run.config, run.ranks, run.ranks.device
    policy = load_model(run.parent, torch.float32, run.loads_on)
    learner = learner_of(policy.model, config, ranks, run.dtype, learning_rate=config.learning_rate, eps=EPSILON)
    critic = load_scalar(reward_folder, torch.float32, run.loads_on)
    critic_learner = learner_of(
        critic, config, ranks, run.dtype, learning_rate=config.value_learning_rate, eps=EPSILON
    )  # fmt: skip
    pretraining = load_pretraining(Path(config.pretraining), policy.tokenizer) if config.pretraining else None
    return Cast(
        policy=policy,
        reference=None if config.lora else load_model(run.parent, run.dtype, device),
        reward_model=load_scalar(reward_folder, run.dtype, device),
        critic=critic,
        learner=learner,
        critic_learner=critic_learner,
        generator=generator_of(policy, run),
        pretraining=pretraining,
    )


def folded(run: Run[PPOConfig], cast: Cast, *, measures: bool) -> Cast:
    """The cast with the policy's adapters folded in, as it will be saved; one that is shared out is folded when it is
    saved. The reference, which was the policy without them, is loaded then where it `measures` what is left."""
    if cast.reference is not None or is_sharded(cast.policy.model):
        return cast
    fold(run, cast.policy.model)
    return replace(cast, reference=load_model(run.parent, run.dtype, run.ranks.device) if measures else None)


def answer(
    run: Run[PPOConfig], cast: Cast, asked: Sequence[tuple[int, ...]], samples: int, where: tuple[object, ...]
) -> tuple[list[Tree], list[list[bool]]]:
    """`samples` answers to each prompt as a tree, and of each whether it ended; the ranks share the prompts."""
    own = run.ranks.share(range(len(asked)))
    answers = run.ranks.together(
        lambda: cast.generator.answer(
            [asked[i] for i in own for _ in range(samples)],
            [drawn(run.config.seed, *where, i, sample) for i in own for sample in range(samples)],
            max_new_tokens=run.config.max_new_tokens,
            temperature=run.config.temperature,
        )
    )
    by_prompt = [answers[start : start + samples] for start in range(0, len(answers), samples)]
    gathered = run.ranks.gather(by_prompt)
    trees = [Tree(ids, tuple(each.ids for each in some)) for ids, some in zip(asked, gathered, strict=True)]
    return trees, [[each.ended for each in some] for some in gathered]


def judge(run: Run[PPOConfig], cast: Cast, passes: Sequence[Pass]) -> list[Judgement]:
    """What everybody says of each pass; the ranks share them. `passes`: of one minibatch, so that the first has trees.

    An empty pass runs another's, for nothing: the layers of a model that is shared out need every rank.
    """
    own = [(each, _judged(cast, each if each.trees else passes[0], run)) for each in run.ranks.share(passes)]
    return run.ranks.gather([judged if each.trees else NOTHING for each, judged in own])


@torch.no_grad()
def _judged(cast: Cast, each: Pass, run: Run[PPOConfig]) -> Judgement:
    temperature = run.config.temperature
    model = cast.policy.model
    packed = pack(each.trees, model.device)
    logits = policy_logits(model, packed)
    logprobs = token_logprobs(logits, packed.target_ids, temperature)
    entropy = token_entropy(logits, temperature)
    scores = cast.reward_model.normalised(scalar_numbers(cast.reward_model, packed, packed.ends))
    values = cast.critic.normalised(scalar_numbers(cast.critic, packed, packed.predictors))
    reference = _reference_logprobs(cast, packed, temperature)
    return Judgement(*(tensor.float().cpu() for tensor in (scores, logprobs, reference, entropy, values)))


@torch.no_grad()
def rescale(cast: Cast, slope: float, shift: float) -> None:
    """The critic's values become `shift` + `slope` times what they were."""
    mean, std = cast.critic.mean, cast.critic.std
    masters = cast.critic_learner.masters  # the head's are its weights
    masters["head.weight"].mul_(slope)
    masters["head.bias"].mul_(slope).add_(mean * (1.0 - slope) + std * shift)


def measure(run: Run[PPOConfig], cast: Cast, held_out: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """The policy on held-out prompts, always with the same seeds, and on held-out pretraining texts; nothing of what
    there is none of."""
    return _on_prompts(run, cast, held_out) | _language_loss(run, cast)


def _on_prompts(run: Run[PPOConfig], cast: Cast, held_out: Sequence[tuple[int, ...]]) -> dict[str, float]:
    if not held_out:
        return {}
    trees, ended = answer(run, cast, held_out, HELD_OUT_SAMPLES, ("held out",))
    (passes,) = minibatches(trees, ended, 1, run.tokens_per_pass, run.ranks.size)
    judged = judge(run, cast, passes)
    scores = torch.cat([each.scores for each in judged])
    kl = torch.cat([each.logprobs - each.reference for each in judged])
    lengths = [length for each in passes for length in each.lengths]
    return {
        "validation/score": float(scores.mean()),
        "validation/score_std": float(scores.std(correction=0)),
        "validation/kl": float(kl.sum()) / len(lengths),
        "validation/length": sum(lengths) / len(lengths),
        "validation/ended": sum(end for each in passes for end in each.ended) / len(lengths),
    }


@torch.no_grad()
def _language_loss(run: Run[PPOConfig], cast: Cast) -> dict[str, float]:
    """Nats a token of held-out pretraining texts: what is lost of the language."""
    if cast.pretraining is None:
        return {}
    trees = cast.pretraining.measured(run.config.ptx_tokens)
    total = 0.0
    for chosen in plan([tree.num_tokens for tree in trees], run.tokens_per_pass):
        packed = pack([trees[i] for i in chosen], run.ranks.device)
        total -= float(token_logprobs(policy_logits(cast.policy.model, packed), packed.target_ids).sum())
    return {"validation/language_loss": total / sum(tree.num_answer_tokens for tree in trees)}


def _reference_logprobs(cast: Cast, packed: Packed, temperature: float) -> Tensor:
    if cast.reference is not None:
        logits = policy_logits(cast.reference.model, packed)
    else:
        with without_adapters(cast.policy.model):
            logits = policy_logits(cast.policy.model, packed)
    return token_logprobs(logits, packed.target_ids, temperature)
