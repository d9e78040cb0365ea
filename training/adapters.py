"""Low-rank adapters (LoRA, arXiv:2106.09685) in a model, by peft: put in, switched off, and folded into the weights.

With the adapters off, a policy is the one that it started from: a reference that costs no memory.
Invariant: what is saved is a whole model; an adapter never leaves the training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from honed.training.failures import TrainingError

ADAPTER = "default"
_BASE = ".base_layer"


def add_adapters(module: nn.Module, *, rank: int, alpha: float, seed: int) -> None:
    """Puts adapters on all linear layers but the output's, and freezes what was there. A scalar head stays trainable.

    Raises TrainingError where peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise TrainingError("--lora needs peft: pip install 'honed[train]'.") from error
    backbone = getattr(module, "backbone", module)
    torch.manual_seed(seed)
    scale: Any = alpha  # peft takes any number, whatever it is annotated with
    is_transposed = any(isinstance(each, Conv1D) for each in backbone.modules())  # GPT-2's layers
    config = LoraConfig(r=rank, lora_alpha=scale, target_modules="all-linear", fan_in_fan_out=is_transposed)
    inject_adapter_in_model(config, backbone, ADAPTER)


def has_adapters(module: nn.Module) -> bool:
    return any(".lora_" in name for name, _ in module.named_parameters())


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """The model as it was before the adapters, for the block."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [each for each in module.modules() if isinstance(each, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


@torch.no_grad()
def fold_adapters(module: nn.Module) -> float:
    """Puts what the adapters learned into the weights, in their number format, and takes the adapters out.

    The share of it that is left after rounding, from 0 to 1: in bfloat16, changes of less than 1 / 256 of a weight are
    lost, and with them most of what small learning rates learn.
    """
    from peft.tuners.lora import Linear

    wanted = kept = 0.0
    for name, layer in list(module.named_modules()):
        if isinstance(layer, Linear):
            base = layer.get_base_layer()
            weight = base.get_parameter("weight")
            delta, before = layer.get_delta_weight(ADAPTER).float(), weight.clone().float()
            weight.copy_(before + delta)
            wanted += float((delta * delta).sum())
            kept += float((delta * (weight.float() - before)).sum())
            module.set_submodule(name, base)
    return kept / wanted if wanted else 1.0


@torch.no_grad()
def folded_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of the model without adapters whose weights do what those with them do."""
    from peft.tuners.lora import Linear

    state = {name: each for name, each in module.state_dict().items() if ".lora_" not in name}
    for name, layer in module.named_modules():
        if isinstance(layer, Linear):
            weight = state[f"{name}{_BASE}.weight"]
            state[f"{name}{_BASE}.weight"] = (weight.float() + layer.get_delta_weight(ADAPTER).float()).to(weight.dtype)
    return {name.replace(_BASE, ""): each for name, each in state.items()}
