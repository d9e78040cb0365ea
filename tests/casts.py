"""A whole cast of PPO on tiny models, a run for it, and a learner that shows its buffer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fakes import Architecture, save_tiny_policy, tiny_model, tiny_tokenizer
from torch import Tensor, nn

from honed.models.scalar_head import ScalarModel
from honed.server.store.exchange.records import Prompt, text_prompt
from honed.training.actors import Cast
from honed.training.adapters import add_adapters
from honed.training.attention import ATTENTION
from honed.training.configs import PPOConfig
from honed.training.data.datasets import Dataset, Example
from honed.training.distributed import Ranks
from honed.training.generation import Generator
from honed.training.learner import Learner, OptimizerConfig
from honed.training.loading import Loaded
from honed.training.ppo import optimise
from honed.training.pretraining import Pretraining
from honed.training.reports.tracking import Tracker, read_metrics
from honed.training.run import Run, Trained

EOS = 2
RANKS = Ranks(torch.device("cpu"))
PROMPTS = ("one", "two", "three and four", "five")
TEXTS = Pretraining(
    texts=tuple(tuple(range(start, start + 20)) for start in range(10, 90, 20)), held_out=(tuple(range(100, 120)),)
)


class Watched(Learner):
    """Keeps a copy of the buffer of each step."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.buffers: list[dict[str, Tensor]] = []

    def step(self, factor: float) -> float:
        self.buffers.append({name: each.grad.clone() for name, each in self.masters.items() if each.grad is not None})
        return super().step(factor)


def config_of(**changes: Any) -> PPOConfig:
    """One round of eight episodes in two minibatches, at rates that show."""
    settings = {
        "dtype": "float32",
        "device": "cpu",
        "iterations": 1,
        "batch_size": 8,
        "samples_per_prompt": 2,
        "minibatches": 2,
        "max_new_tokens": 6,
        "max_tokens": 32,
        "learning_rate": 1e-3,
        "value_learning_rate": 1e-3,
        "warmup": 0.0,
        "ema": 0.0,
        "kl_coefficient": 0.1,
        "ptx_examples": 1,
        "ptx_tokens": 12,
        "min_entropy": 0.0,
        "validate_every": 1000,
        "save_every": 1000,
    }
    return PPOConfig.model_validate(settings | changes)


def cast_of(
    config: PPOConfig, *, architecture: Architecture = "llama", pretraining: Pretraining | None = None
) -> tuple[Cast, Watched, Watched]:
    """The learners of the policy and of the critic once more, as what they are."""
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    policy, reference = (_loaded(architecture) for _ in range(2))
    reward_model, critic = (_scalar(architecture) for _ in range(2))  # of the same weights
    for module in (reference.model, reward_model.backbone):
        _round(module, dtype)
    if config.lora:
        add_adapters(policy.model, rank=4, alpha=8, seed=0)
        add_adapters(critic, rank=4, alpha=8, seed=0)
    rates = (config.learning_rate, config.value_learning_rate)
    learner, critic_learner = (
        Watched(module, RANKS, OptimizerConfig(learning_rate=rate, eps=1e-5), dtype)
        for module, rate in zip((policy.model, critic), rates, strict=True)
    )
    cast = Cast(
        policy=policy,
        reference=None if config.lora else reference,
        reward_model=reward_model,
        critic=critic,
        learner=learner,
        critic_learner=critic_learner,
        generator=Generator(policy),
        pretraining=pretraining,
    )
    return cast, learner, critic_learner


def _loaded(architecture: Architecture) -> Loaded:
    model = tiny_model(architecture)
    model.set_attn_implementation(ATTENTION)
    return Loaded(model, tiny_tokenizer(), frozenset({EOS}))


def _scalar(architecture: Architecture) -> ScalarModel:
    model = ScalarModel(tiny_model(architecture, seed=1).base_model)
    model.backbone.set_attn_implementation(ATTENTION)
    model.draw_head(1)
    model.set_scale(0.5, 2.0)
    return model.eval()


def _round(module: nn.Module, dtype: torch.dtype) -> None:
    """As a checkpoint is loaded: the parameters, and not the frequencies of rotary embeddings."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def run_of(config: PPOConfig, folder: Path, *, validation: tuple[str, ...] = ()) -> Run[PPOConfig]:
    splits = [("train", text) for text in PROMPTS] + [("validation", text) for text in validation]
    examples: Any = tuple(
        Example(Prompt(text_prompt(t)), split, None, None, None, None, "other") for split, t in splits
    )
    dataset: Any = Dataset("data-0", "ppo", examples, None)  # nobody reads the card
    return Run(
        config=config,
        dataset=dataset,
        parent=folder,
        folder=folder,
        ranks=RANKS,
        tracker=Tracker(folder, title="", total_steps=config.iterations, show=False),
    )


def train(config: PPOConfig, cast: Cast, folder: Path, **settings: Any) -> tuple[Trained, list[dict[str, float]]]:
    """A whole run, and what its rounds measured."""
    run = run_of(config, folder, **settings)
    if config.lora:  # when the adapters are folded in, the reference is loaded
        run = replace(run, parent=save_tiny_policy(folder / "parent"))
    with run.tracker:
        trained = optimise(run, cast)
    return trained, [line for line in read_metrics(folder) if "ppo/kl" in line]


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in module.named_parameters()}
