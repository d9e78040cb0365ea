"""Packed trees through a model: logits of a policy, numbers of a scalar model.

Owns what transformers' models are asked with, and the check that a model gives a packed batch the numbers that it gives
each sequence alone. Invariant: dropout is off, unless the caller put it on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from honed.models.scalar_head import ScalarModel
from honed.training.attention import ATTENTION
from honed.training.failures import TrainingError
from honed.training.trees import Packed, Tree, pack

_TAKE_ANOTHER = "take a decoder with full or sliding-window attention, such as Llama or Qwen."


def policy_logits(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Logits (N, vocabulary) of each answer token's distribution, in the model's number format."""
    logits: Tensor = model(**_inputs(packed), use_cache=False, logits_to_keep=packed.predictors).logits[0]
    return logits


def scalar_numbers(model: ScalarModel, packed: Packed, keep: Tensor) -> Tensor:
    """Raw numbers (len(keep),) of a reward model or a critic at the places `keep`."""
    numbers: Tensor = model(keep, **_inputs(packed))
    return numbers


@torch.no_grad()
def check_packing(model: PreTrainedModel | ScalarModel) -> None:
    """Raises TrainingError where a packed batch's numbers differ from those of its sequences alone: a policy's logits,
    or the hidden states below a scalar head."""
    backbone = model.backbone if isinstance(model, ScalarModel) else model
    vocabulary = int(model.config.get_text_config().vocab_size)
    draw = [(vocabulary // 3 + 7 * i) % vocabulary for i in range(40)]
    trees = [
        Tree(tuple(draw[:9]), (tuple(draw[9:16]), tuple(draw[16:21]))),
        Tree(tuple(draw[21:33]), (tuple(draw[33:]),)),
    ]
    packed = pack(trees, backbone.device)
    together = _outputs(backbone, **_inputs(packed))[packed.predictors]
    backbone.set_attn_implementation("eager")  # transformers' plainest attention, which knows every part of a model
    alone = [torch.tensor([tree.prompt + answer], device=backbone.device) for tree in trees for answer in tree.answers]
    lengths = [len(answer) for tree in trees for answer in tree.answers]
    singles = [_outputs(backbone, input_ids=ids)[-n - 1 : -1] for ids, n in zip(alone, lengths, strict=True)]
    backbone.set_attn_implementation(ATTENTION)
    apart = torch.cat(singles)
    if _slides(backbone.config.get_text_config()) and packed.layout.windows == {None}:
        raise TrainingError(f"{type(backbone).__name__} keeps its sliding window from its attention: {_TAKE_ANOTHER}")
    error = float((together - apart).norm() / apart.norm())
    if not error < (1e-3 if backbone.dtype == torch.float32 else 1e-1):
        raise TrainingError(
            f"{type(backbone).__name__} gives packed sequences other numbers than single ones (by {error:.1%}): it "
            f"cannot be trained here: {_TAKE_ANOTHER}"
        )


def _slides(config: Any) -> bool:
    """Whether some layers look back no further than a window, by the config alone."""
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return window is not None and "sliding_attention" in kinds


def _outputs(model: PreTrainedModel, **inputs: Any) -> Tensor:
    """Logits, or hidden states where the model has no output layer: (T, width), in float32."""
    output = model(**inputs, use_cache=False)
    found: Tensor = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return found[0].float()


def _inputs(packed: Packed) -> dict[str, Any]:
    return {"input_ids": packed.ids, "position_ids": packed.positions, "layout": packed.layout}
