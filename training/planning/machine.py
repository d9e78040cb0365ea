"""What this machine has for a run: numbers it computes in, free memory and disk, and how fast it multiplies.

Measures, and decides nothing (`preflight.py` does). Invariant: measuring takes about a second and writes nothing.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from honed.models.policy import choose_device
from honed.training.configs import RunConfig
from honed.training.run import TOKENS_PER_PASS, compute_dtype

PROBE_S = 1.0


@dataclass(frozen=True, slots=True)
class Machine:
    """`free_memory` (bytes) is what one of `ranks` may take on `device`; `free_disk` (bytes) is where runs are written.
    `number_bytes`: of a number that is computed in."""

    device: str
    number_bytes: int
    tokens_per_pass: int
    free_memory: int
    free_disk: int
    ranks: int = 1


def this_machine(config: RunConfig, home: Path) -> Machine:
    """Raises PolicyError where the settings name a device or numbers that are not here."""
    device = choose_device(config.device)
    return Machine(
        device=str(device),
        number_bytes=compute_dtype(config, device).itemsize,
        tokens_per_pass=config.tokens_per_pass or TOKENS_PER_PASS[device.type],
        free_memory=free_memory(device),
        free_disk=shutil.disk_usage(_existing(home)).free,
        ranks=int(os.environ.get("WORLD_SIZE", "1")),
    )


def matmul_speed(config: RunConfig, *, rows: int, width: int, inner: int, limit_s: float = PROBE_S) -> float:
    """Operations a second of (rows, width) @ (width, inner) in the numbers and on the device of the settings; a product
    and its addition are two. Multiplies for `limit_s`, at least twice."""
    device = choose_device(config.device)
    dtype = compute_dtype(config, device)
    left = torch.randn(rows, width, device=device).to(dtype)
    right = torch.randn(width, inner, device=device).to(dtype)
    _timed(left, right, 1, device)  # the first has libraries to load
    times, elapsed_s = 1, _timed(left, right, 1, device)
    total_s = elapsed_s
    while total_s < limit_s / 2:
        times *= 2
        elapsed_s = _timed(left, right, times, device)
        total_s += elapsed_s
    return 2.0 * rows * width * inner * times / elapsed_s


def _timed(left: torch.Tensor, right: torch.Tensor, times: int, device: torch.device) -> float:
    started_s = time.perf_counter()
    for _ in range(times):
        torch.mm(left, right)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(time.perf_counter() - started_s, 1e-9)


def free_memory(device: torch.device) -> int:
    """Bytes that one process of this machine may take on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there: on the same disk, as a rule."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())
