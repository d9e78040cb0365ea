"""Linear layers on a CPU over weights in oneDNN's own blocked layout, made once instead of at every product.

With few rows a product spends its time on reading the weights, and the blocked layout is read faster: a decoding step
of the default model took 61, 66 and 130 ms at 1, 4 and 16 sequences, and 79, 131 and 168 ms without (float32, 2 cores,
AVX2, one run). The price is a second copy of the weights, which does not follow the first: who trains a model must not
pack it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def can_pack(model: nn.Module) -> bool:
    """True for the formats of a CPU that packing was measured to pay for."""
    weight = next(model.parameters())
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_bfloat16())


def has_bfloat16() -> bool:
    """Whether oneDNN has products in bfloat16 for this CPU."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def packed_bytes(model: nn.Module) -> int:
    """What the second copy takes."""
    return sum(layer.weight.nbytes for layer in _linear_layers(model))


@torch.inference_mode()
def pack(model: nn.Module) -> None:
    """Replaces the forward pass of every linear layer; the weights themselves stay."""
    for layer in _linear_layers(model):
        layer.forward = _packed(layer)  # type: ignore[method-assign, assignment]  # modules look `forward` up on themselves


def unpack(model: nn.Module) -> None:
    """Takes `pack` back. Nothing happens to layers that are not packed."""
    for layer in _linear_layers(model):
        vars(layer).pop("forward", None)


def _linear_layers(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if type(module) is nn.Linear]


def _packed(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The layer's forward pass. The operators are those that torch's compiler packs with; it has no public ones."""
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())  # noqa: SLF001
    bias = None if layer.bias is None else layer.bias.detach()

    def forward(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # noqa: SLF001
        return out

    return forward
