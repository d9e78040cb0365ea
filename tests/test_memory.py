"""How much memory policies take, and how it is shared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from fakes import save_tiny_policy, tiny_model

from honed.models.policy import PolicyError, load_policy
from honed.server.memory import GIB, first_cache_bytes, further_cache_bytes, weight_bytes

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Bytes of this computer and of its GPU."""
    free = {"cpu": 64 * GIB, "cuda": 80 * GIB}
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(free["cpu"])))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free["cuda"]), 80 * GIB))
    return free


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_counted_before_they_are_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    """The file has float32."""
    folder = save_tiny_policy(tmp_path / "tiny")
    model = load_policy(folder, dtype=str(dtype).removeprefix("torch."), device="cpu").model
    assert weight_bytes(folder, dtype) == sum(weight.nbytes for weight in model.parameters())


def test_other_files_count_as_they_are(tmp_path: Path) -> None:
    torch.save(tiny_model().state_dict(), tmp_path / "pytorch_model.bin")
    size = (tmp_path / "pytorch_model.bin").stat().st_size
    assert weight_bytes(tmp_path, torch.bfloat16) == size


def test_damaged_weights_say_so(tmp_path: Path) -> None:
    weights = save_tiny_policy(tmp_path / "tiny") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(PolicyError, match="damaged"):
        weight_bytes(tmp_path / "tiny", torch.float32)


@pytest.mark.parametrize(("gib", "expected"), [(64, 4), (8, 2)])
def test_the_first_takes_a_quarter_of_a_computer_and_at_most_4(
    free: dict[str, float], gib: float, expected: float
) -> None:
    free["cpu"] = gib * GIB
    assert first_cache_bytes(CPU, 10**9, policies=2) == expected * GIB


@pytest.mark.parametrize(
    ("weights", "policies", "expected"),
    [
        (16, 1, 64 * 0.85),
        (16, 2, (64 * 0.85 - 16) / 2),
        (8, 3, (64 * 0.85 - 16) / 3),
        (16, 3, (64 * 0.85 - 16) / 2),  # three would leave less than half of it to caches
        (32, 2, 64 * 0.85),  # and here, so would two
    ],
)
def test_a_gpu_is_shared_in_equal_parts(free: dict[str, float], weights: float, policies: int, expected: float) -> None:
    free["cuda"] = 64 * GIB
    assert first_cache_bytes(GPU, int(weights * GIB), policies) == pytest.approx(expected * GIB)


@pytest.mark.parametrize(("weights", "policies"), [(16, 2), (8, 3), (5, 4), (0.3, 2)])
def test_so_that_all_of_them_get_as_much(free: dict[str, float], weights: float, policies: int) -> None:
    free["cuda"] -= weights * GIB
    first = first_cache_bytes(GPU, int(weights * GIB), policies)
    free["cuda"] -= first
    for _ in range(policies - 1):
        assert further_cache_bytes(GPU, int(weights * GIB), promised=0, first=first) == first
        free["cuda"] -= weights * GIB + first
    assert free["cuda"] > 0.1 * 80 * GIB, "what a step computes has room"
    assert further_cache_bytes(GPU, int(weights * GIB), promised=0, first=first) < first


@pytest.mark.parametrize(
    ("gib", "expected"),
    [
        (20, 4),
        (15, 4),  # half of what the weights and the promised cache leave
        (11, 2),
        (9, 1),
        (8.9, 0),  # less than a quarter of the first one's
        (3, 0),
    ],
)
def test_one_beside_the_first_takes_what_is_left_of_a_computer(
    free: dict[str, float], gib: float, expected: float
) -> None:
    free["cpu"] = gib * GIB
    assert further_cache_bytes(CPU, 3 * GIB, promised=4 * GIB, first=4 * GIB) == expected * GIB
