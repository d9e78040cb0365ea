"""One run of one stage: its settings, its data, its folder, and who takes part."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from honed.models.checkpoint import Savable
from honed.models.policy import choose_dtype
from honed.training.configs import RunConfig
from honed.training.data.datasets import Dataset
from honed.training.distributed import Ranks
from honed.training.evaluation.config import EvaluationConfig
from honed.training.reports.tracking import Tracker
from honed.training.sharding import shares_out

Config = TypeVar("Config", bound=RunConfig)

TOKENS_PER_PASS = {"cpu": 512, "cuda": 8192}


def compute_dtype(config: RunConfig | EvaluationConfig, device: torch.device) -> torch.dtype:
    """bfloat16 or float32: float16, which serves on older GPUs, loses small gradients. Raises PolicyError."""
    dtype = choose_dtype(config.dtype, device)
    return torch.float32 if dtype == torch.float16 else dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Generic[Config]):
    """`parent`: the folder of the checkpoint that is trained. `start_step`: 0, or that of the state to go on from."""

    config: Config
    dataset: Dataset
    parent: Path
    folder: Path
    ranks: Ranks
    tracker: Tracker
    start_step: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in. Raises PolicyError."""
        return compute_dtype(self.config, self.ranks.device)

    @property
    def loads_on(self) -> torch.device:
        """Where a model to be trained is loaded: in the host's memory where it is shared out then, since no device need
        have room for the whole of it."""
        return torch.device("cpu") if shares_out(self.config, self.ranks) else self.ranks.device

    @property
    def tokens_per_pass(self) -> int:
        return self.config.tokens_per_pass or TOKENS_PER_PASS[self.ranks.device.type]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a stage gives back: a model as it is to be saved, what was measured, and, where it was stopped, why.

    `evaluation` becomes evaluation.json, `samples` samples.jsonl.
    """

    model: Savable
    state: dict[str, Tensor] | None  # the weights to save; None: the model's own
    tokenizer: PreTrainedTokenizerBase
    metrics: dict[str, float]
    evaluation: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    stopped: str | None = None
