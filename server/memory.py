"""How much memory policies take and how much there is: a GPU's own, or else the computer's.

Decides how large each policy's key/value cache is. The first, which is in service, takes its part when the server
starts and keeps it; one that is loaded beside it takes as much where that is left, so that a promotion changes nothing
in what the server holds, and less where it is not, down to SMALLEST of it. Invariant: what has been promised is not
promised again, though a computer's cache takes memory only as it fills.
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Final

import psutil
import torch
from safetensors import SafetensorError, safe_open

from honed.models.checkpoint import weight_files
from honed.models.policy import PolicyError

GIB: Final = 2**30
GPU_SHARE: Final = 0.85  # of what is free; the rest is for what a step computes
SMALLEST: Final = 0.25  # of the first policy's cache


def free_bytes(device: torch.device) -> int:
    """What is free on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def weight_bytes(folder: Path, dtype: torch.dtype) -> int:
    """What the checkpoint's weights take once they are loaded as `dtype`, by the headers of their files. Raises
    PolicyError where those cannot be read."""
    size = 0
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            size += path.stat().st_size  # what numbers it holds cannot be seen without reading it
            continue
        try:
            with safe_open(path, framework="pt") as file:
                size += dtype.itemsize * sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise PolicyError(f"The weights in {folder} are damaged: fetch the model again. ({error})") from error
    return size


def first_cache_bytes(device: torch.device, weights: int, policies: int) -> int:
    """For the policy in service, once its `weights` (bytes) are loaded, on a server of up to so many `policies`.

    Of a GPU most of what is free, in equal parts for all of them, after the others' weights; where those would take
    more than half, for fewer, in the end for this one alone. Of a computer, which has other uses, a quarter and at most
    4 GiB.
    """
    free = free_bytes(device)
    if device.type != "cuda":
        return min(4 * GIB, free // 4)
    whole = int(free * GPU_SHARE)
    for number in range(policies, 1, -1):
        others = (number - 1) * weights
        if others <= whole // 2:
            return (whole - others) // number
    return whole


def further_cache_bytes(device: torch.device, weights: int, *, promised: int, first: int) -> int:
    """For a policy beside others: as much as the `first` has, or less; 0 where it does not fit.

    `promised`: the caches of those that are loaded, in bytes. Half of what a computer has left stays free.
    """
    if device.type == "cuda":
        left = int((free_bytes(device) - weights) * GPU_SHARE)  # caches are taken at once there
    else:
        left = (free_bytes(device) - promised - weights) // 2
    cache = min(first, left)
    return cache if cache >= first * SMALLEST and cache > 0 else 0


def give_back() -> None:
    """Hands memory that was freed back to the system: allocators keep it otherwise, on a computer nearly all of it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it; others keep less
    if trim is not None:
        trim(0)
