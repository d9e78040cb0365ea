"""The processes of one training run: who this one is, and what they tell each other.

Started by torchrun, a run has several ranks; else it has one, and nothing here communicates. Each rank plans the same
work from the same data and does its share; gradients are summed, and what rollouts brought is given to all.
Invariant: every rank calls everything here equally often and in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Any, Final, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from honed.models.policy import choose_device
from honed.training.failures import SAID_BY_FIRST, TrainingError

T = TypeVar("T")

# What the others wait for while the first rank fetches a model, tokenizes or saves; NCCL's own 10 minutes are too few.
PATIENCE: Final = timedelta(hours=6)
_BUCKET_ELEMENTS = 2**25  # gradients are summed in pieces of 128 MiB of float32


@dataclass(frozen=True, slots=True)
class Ranks:
    """`rank` of `size`, computing on `device`."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's items; of a number that is a multiple of `size`, all ranks get equally many."""
        return list(items[self.rank :: self.size])

    def gather(self, own: Sequence[T]) -> list[T]:
        """The items of all ranks, in the order that `share` took them from. They must be picklable."""
        if self.size == 1:
            return list(own)
        parts: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, list(own))
        longest = max(map(len, parts))
        return [part[i] for i in range(longest) for part in parts if i < len(part)]

    def sum(self, *numbers: float) -> list[float]:
        """Each number, summed over the ranks."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(each) for each in total.tolist()]

    def sum_in_place(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes its sum over the ranks."""
        if self.size == 1:
            return
        for same, group in groupby(tensors, key=lambda tensor: tensor.dtype):
            for bucket in _buckets(group):
                flat = torch.cat([tensor.flatten() for tensor in bucket])
                assert flat.dtype == same
                dist.all_reduce(flat)
                parts = flat.split([tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def first(self, make: Callable[[], T]) -> T:
        """What the first rank makes, or raises, on all ranks. It must be picklable."""
        if self.size == 1:
            return make()
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = make()
            except Exception as error:  # whatever it is, it is raised below, where the others hear of it too
                told[1] = error
        dist.broadcast_object_list(told)
        if told[1] is not None:
            if not self.is_first:
                told[1].add_note(SAID_BY_FIRST)
            raise told[1]
        return cast(T, told[0])

    def together(self, make: Callable[[], T]) -> T:
        """What `make` gives on this rank. A TrainingError of one is raised on all, which would wait for it else."""
        if self.size == 1:
            return make()
        made, failures = None, []
        try:
            made = make()
        except TrainingError as error:
            failures.append(error)
        if failures := self.gather(failures):
            raise failures[0]
        return cast(T, made)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel()
        if size >= _BUCKET_ELEMENTS:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


@contextmanager
def ranks_of(device: str) -> Iterator[Ranks]:
    """The ranks that torchrun started, connected for the block; or the one process that there is.

    Inside of another such block its connection is used: torchrun's ranks can be connected once only, since the
    addresses of the first time stay in their store.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks(choose_device(device))
        return
    local = int(os.environ["LOCAL_RANK"])
    place = choose_device(f"cuda:{local}" if device in ("auto", "cuda") and torch.cuda.is_available() else device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if dist.is_initialized():
        yield Ranks(place, dist.get_rank(), size)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(place, dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
