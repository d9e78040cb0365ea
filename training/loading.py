"""Checkpoint folders -> models to be trained or asked, with dropout off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from honed.models.policy import load_policy
from honed.models.scalar_head import ScalarModel, load_scalar_model
from honed.training.adapters import add_adapters
from honed.training.attention import ATTENTION, NO_ATTENTION
from honed.training.configs import RunConfig
from honed.training.distributed import Ranks
from honed.training.failures import TrainingError
from honed.training.forward import check_packing
from honed.training.learner import Learner, OptimizerConfig
from honed.training.sharding import shard, shares_out


@dataclass(frozen=True, slots=True)
class Loaded:
    """A causal language model, the tokens that end its answers, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: frozenset[int]


def load_model(folder: Path, dtype: torch.dtype, device: torch.device) -> Loaded:
    """Raises PolicyError, and TrainingError where the model cannot be trained here."""
    policy = load_policy(folder, dtype=str(dtype).removeprefix("torch."), device=str(device))
    _attend(policy.model)
    check_packing(policy.model)
    return Loaded(policy.model, policy.tokenizer, policy.eos_token_ids)


def load_scalar(folder: Path, dtype: torch.dtype, device: torch.device, seed: int = 0) -> ScalarModel:
    """A reward model; of a language model's folder one with a new head. Raises as `load_model` does."""
    model = load_scalar_model(folder, dtype=dtype, device=device, seed=seed)
    _attend(model.backbone)
    check_packing(model)
    return model


def _attend(model: PreTrainedModel) -> None:
    model.set_attn_implementation(ATTENTION)
    if model.config._attn_implementation != ATTENTION:  # noqa: SLF001  transformers has no public name
        raise TrainingError(f"{type(model).__name__} {NO_ATTENTION}")


def learner_of(
    module: nn.Module, config: RunConfig, ranks: Ranks, dtype: torch.dtype, *, learning_rate: float, eps: float = 1e-8
) -> Learner:
    """Makes a module with float32 weights ready to be trained, as the settings want it."""
    if config.lora:
        add_adapters(module, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
    if shares_out(config, ranks):
        shard(module, ranks, dtype)
    optimizer = OptimizerConfig(
        learning_rate=learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        eps=eps,
    )
    return Learner(module, ranks, optimizer, dtype)
