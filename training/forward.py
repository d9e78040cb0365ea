"""Packed trees through a model: logits of a policy, numbers of a scalar model.

Owns how the mask of a packed batch reaches transformers' models, sliding windows included, and the check that a model
gives a packed batch the numbers that it gives each sequence alone. Invariant: dropout is off, unless the caller put
it on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from honed.models.scalar_head import ScalarModel
from honed.training.failures import TrainingError
from honed.training.trees import Packed, Tree, pack

ATTENTION = "sdpa"  # an engine that shares the model has set its own
_SLIDING = "sliding_attention"


def policy_logits(model: PreTrainedModel, packed: Packed) -> Tensor:
    """Logits (N, vocabulary) of each answer token's distribution, in the model's number format."""
    logits: Tensor = model(**_inputs(model.config, packed), use_cache=False, logits_to_keep=packed.predictors).logits[0]
    return logits


def scalar_numbers(model: ScalarModel, packed: Packed, keep: Tensor) -> Tensor:
    """Raw numbers (len(keep),) of a reward model or a critic at the places `keep`."""
    numbers: Tensor = model(keep, **_inputs(model.config, packed))
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
    together = _outputs(backbone, **_inputs(backbone.config, packed))[packed.predictors]
    alone = [torch.tensor([tree.prompt + answer], device=backbone.device) for tree in trees for answer in tree.answers]
    lengths = [len(answer) for tree in trees for answer in tree.answers]
    singles = [_outputs(backbone, input_ids=ids)[-n - 1 : -1] for ids, n in zip(alone, lengths, strict=True)]
    apart = torch.cat(singles)
    error = float((together - apart).norm() / apart.norm())
    if not error < (1e-3 if backbone.dtype == torch.float32 else 1e-1):
        raise TrainingError(
            f"{type(backbone).__name__} gives packed sequences other numbers than single ones (by {error:.1%}): it "
            "cannot be trained here. Take a decoder with full or sliding-window attention, such as Llama or Qwen."
        )


def _outputs(model: PreTrainedModel, **inputs: Any) -> Tensor:
    """Logits, or hidden states where the model has no output layer: (T, width), in float32."""
    output = model(**inputs, use_cache=False)
    found: Tensor = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return found[0].float()


def _inputs(config: Any, packed: Packed) -> dict[str, Any]:
    return {
        "input_ids": packed.ids,
        "position_ids": packed.positions,
        "attention_mask": _masks(config.get_text_config(), packed),
    }


def _masks(config: Any, packed: Packed) -> Tensor | dict[str, Tensor]:
    """One mask, or one for each kind of layer where there are several."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [])
    if _SLIDING in kinds:
        return {"full_attention": packed.mask, _SLIDING: _within(packed, window)}
    if kinds or window is None or not getattr(config, "use_sliding_window", True):
        return packed.mask
    return _within(packed, window)


def _within(packed: Packed, window: int | None) -> Tensor:
    if window is None:
        return packed.mask
    distance = packed.positions[0][:, None] - packed.positions[0][None, :]
    return packed.mask & (distance < window)
