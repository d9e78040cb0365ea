"""What DPO and KTO cannot be trained with, found out by the tokenizer alone: TRL says it late, or not at all.

Owns the checks that these two stages have beside those of all (`preflight.py`). Imports no TRL.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from honed.models.policy import choose_device
from honed.training.configs import DPOConfig, KTOConfig
from honed.training.failures import TrainingError
from honed.training.preference_rows import Row, rows_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from honed.training.data.datasets import Example

# KTO takes its reference point, the divergence, from the other answers of a pass: of one there is none.
LEAST_THUMBS: Final = 2


def check_preferences(
    config: DPOConfig | KTOConfig, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, limit: int
) -> None:
    """Raises TrainingError. `examples`: those to train on; `limit`: tokens of a prompt and an answer."""
    if config.sharding != "none":
        raise TrainingError("DPO and KTO do not share a model out to ranks: set sharding to none.")
    device = choose_device(config.device)
    if device.index:  # the Trainer would take the first one without a word, and under torchrun the rank's
        raise TrainingError(f"DPO and KTO choose no GPU: set CUDA_VISIBLE_DEVICES={device.index} and device to cuda.")
    share_of(config)
    _check_rows(config, rows_of(config, examples, tokenizer, limit), limit)


def share_of(config: DPOConfig | KTOConfig) -> int:
    """How many rows of a batch are a rank's. Raises TrainingError where they cannot be shared out."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    share, rest = divmod(config.batch_size, ranks)
    if rest:
        raise TrainingError(f"batch_size {config.batch_size} must be a multiple of the number of ranks, {ranks}.")
    if isinstance(config, KTOConfig) and share < LEAST_THUMBS:
        raise TrainingError(
            f"KTO needs {LEAST_THUMBS} thumbs a rank: set batch_size to {LEAST_THUMBS * ranks} or more."
        )
    return share


def _check_rows(config: DPOConfig | KTOConfig, rows: Sequence[Row], limit: int) -> None:
    if not rows:
        what = "pair of different answers" if isinstance(config, DPOConfig) else "judged answer"
        raise TrainingError(
            f"There is no {what} of up to {limit} tokens to train on: collect more, or raise max_tokens."
        )
    if isinstance(config, KTOConfig) and len(labels := {row["label"] for row in rows}) == 1:
        there, lacking = ("up", "down") if labels == {True} else ("down", "up")
        raise TrainingError(f"All thumbs are {there}: KTO needs some that are {lacking}, too. Collect them first.")
