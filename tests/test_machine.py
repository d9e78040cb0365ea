"""What is measured of this machine: of the right kind and within what can be; no speeds are compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest
import torch

from honed.models.policy import PolicyError, choose_dtype
from honed.training import run as training_run
from honed.training.configs import SFTConfig
from honed.training.planning import machine
from honed.training.planning.machine import matmul_speed, this_machine

CPU = SFTConfig(device="cpu", dtype="float32")


def test_numbers_and_passes_are_those_of_the_settings(tmp_path: Path) -> None:
    found = this_machine(CPU, tmp_path)
    assert (found.device, found.number_bytes, found.tokens_per_pass, found.ranks) == ("cpu", 4, 512, 1)
    other = this_machine(CPU.model_copy(update={"dtype": "bfloat16", "tokens_per_pass": 99}), tmp_path)
    assert (other.number_bytes, other.tokens_per_pass) == (2, 99)
    native = this_machine(CPU.model_copy(update={"dtype": "auto"}), tmp_path).number_bytes
    assert native == choose_dtype("auto", torch.device("cpu")).itemsize
    with pytest.raises(PolicyError, match="choose auto"):
        this_machine(SFTConfig(device="abacus"), tmp_path)


def test_where_only_float16_is_native_float32_is_trained_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "choose_dtype", lambda *_: torch.float16)
    assert this_machine(CPU, tmp_path).number_bytes == 4


def test_free_memory_is_shared_by_the_ranks_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    assert this_machine(CPU, tmp_path).free_memory == 1000
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    found = this_machine(CPU, tmp_path)
    assert (found.free_memory, found.ranks) == (250, 8)


def test_a_disk_is_looked_at_before_its_folder_is_there(tmp_path: Path) -> None:
    found = this_machine(CPU, tmp_path / "not" / "yet")
    assert 0 < found.free_disk <= shutil.disk_usage(tmp_path).total
    assert not (tmp_path / "not").exists()


def test_speed_is_what_was_multiplied_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that says that every product takes 1 ms."""
    products: list[int] = []

    def timed(left: torch.Tensor, right: torch.Tensor, times: int, device: torch.device) -> float:
        assert (left.shape, right.shape, left.dtype, device.type) == ((3, 4), (4, 5), torch.float32, "cpu")
        products.append(times)
        return times / 1000

    monkeypatch.setattr(machine, "_timed", timed)
    assert matmul_speed(CPU, rows=3, width=4, inner=5, limit_s=0.02) == pytest.approx(2 * 3 * 4 * 5 * 1000)
    assert products == [1, 1, 2, 4, 8]


def test_a_product_takes_time() -> None:
    assert matmul_speed(CPU, rows=8, width=8, inner=8, limit_s=0.001) > 0
