"""Which architectures are refused by their config alone: apart from `preflight.py`, since it takes transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from honed.models.engine.runner import UnsupportedArchitectureError, check_config
from honed.training.attention import NO_ATTENTION
from honed.training.failures import TrainingError


def require_known(folder: Path) -> None:
    """Raises TrainingError for an architecture that cannot be packed and sampled from, as far as its config shows."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        name = type(config).__name__ if architecture is None else architecture.__name__
        check_config(config, name)
    except (OSError, ValueError, UnsupportedArchitectureError) as error:
        raise TrainingError(f"{folder.name} cannot be trained: {error}") from error
    if architecture is not None and not architecture._supports_attention_backend:  # noqa: SLF001  transformers has no public name
        raise TrainingError(f"{name} {NO_ATTENTION}")
