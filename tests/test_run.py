"""What one run computes in and how much at once."""

from __future__ import annotations

import pytest
import torch

from honed.training import run
from honed.training.configs import SFTConfig


@pytest.mark.parametrize(
    ("chosen", "computed"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),  # small gradients would vanish
    ],
)
def test_nothing_is_trained_in_float16(
    chosen: torch.dtype, computed: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "choose_dtype", lambda *_: chosen)
    assert run.compute_dtype(SFTConfig(), torch.device("cpu")) == computed
