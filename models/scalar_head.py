"""A backbone and one number a token: the reward model and the critic.

Owns the head, the scale of its numbers, and how both are written beside the backbone's weights. Does not own training
it nor which token is asked: a reward is read at an answer's last token, a value before each.

Invariant: `forward` gives raw numbers; `normalised` gives those that everybody outside of training the reward model
uses, with the mean and the standard deviation that are saved with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

HEAD_FILE = "scalar_head.safetensors"


class ScalarModel(nn.Module):
    """`backbone`: a decoder without its output layer. The head computes in float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.get_text_config().hidden_size, 1, dtype=torch.float32)
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    @property
    def config(self) -> Any:
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def draw_head(self, seed: int) -> None:
        """A new head: weights of variance 1 / (width + 1), bias 0 (Huang et al. 2024, detail 11)."""
        generator = torch.Generator().manual_seed(seed)
        width = self.head.in_features
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(1, width, generator=generator) / (width + 1) ** 0.5)
            self.head.bias.zero_()

    def forward(self, keep: Tensor, **inputs: Any) -> Tensor:
        """Raw numbers (len(keep),) at the places `keep` of a flat batch; `inputs` are the backbone's."""
        hidden = self.backbone(**inputs, use_cache=False).last_hidden_state[0, keep]
        numbers: Tensor = self.head(hidden.float())[:, 0].clone()  # a view would lose the hooks of FSDP
        return numbers

    def normalised(self, raw: Tensor) -> Tensor:
        return (raw - self.mean) / self.std

    def set_scale(self, mean: float, std: float) -> None:
        """What `normalised` takes for 0 and for 1."""
        assert std > 0
        self.mean.fill_(mean)
        self.std.fill_(std)

    def save_pretrained(self, folder: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """`state_dict`: of the whole model, where the weights are not the module's own."""
        state = dict(self.state_dict() if state_dict is None else state_dict)
        prefix = "backbone."
        backbone = {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}
        self.backbone.save_pretrained(folder, state_dict=backbone)
        head = {name: each.contiguous() for name, each in state.items() if not name.startswith(prefix)}
        save_file(head, folder / HEAD_FILE)


def is_scalar_model(folder: Path) -> bool:
    return (folder / HEAD_FILE).is_file()


def load_scalar_model(folder: Path, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> ScalarModel:
    """A saved one, or one with a new head, drawn by `seed`, on the backbone of a causal language model."""
    backbone = AutoModel.from_pretrained(folder, dtype=dtype, local_files_only=True)
    model = ScalarModel(backbone)
    if is_scalar_model(folder):
        missing = model.load_state_dict(load_file(folder / HEAD_FILE), strict=False).missing_keys
        if lost := [name for name in missing if not name.startswith("backbone.")]:
            raise ValueError(f"{folder / HEAD_FILE} lacks {', '.join(lost)}: train or copy the reward model again.")
    else:
        model.draw_head(seed)
    return model.to(device).train(False)
