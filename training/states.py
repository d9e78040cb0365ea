"""States: what a run that is cut off goes on from. A folder `state-STEP` in the run's folder, written by all ranks.

Owns how a state is written, found and dropped. Written by torch's distributed checkpoints, so that another number of
ranks can read it. Invariant: a folder of that name is whole; a write that dies leaves a hidden one that nothing reads.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from honed.training.distributed import Ranks
from honed.training.learner import State

TRAINER_FOLDER = "trainer"  # where TRL keeps its states, in a run's folder
_NAME = re.compile(r"state-(\d+)")
KEPT = 1  # the newest; another is there only while one is written


def save_state(folder: Path, step: int, state: State, ranks: Ranks) -> None:
    """Writes the state after `step`, then drops older ones."""
    final = folder / f"state-{step:06d}"
    partial = folder / f".state-{step:06d}.partial"
    if ranks.is_first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    ranks.barrier()
    with _quiet():
        save(state, storage_writer=FileSystemWriter(partial, sync_files=True), no_dist=ranks.size == 1)
    ranks.barrier()
    if ranks.is_first:
        partial.rename(final)
        for old in _found(folder)[:-KEPT]:
            shutil.rmtree(old)
    ranks.barrier()


def newest_step(folder: Path) -> int | None:
    """The step after which the newest state was written; None where there is none."""
    found = _found(folder)
    return int(found[-1].name.removeprefix("state-")) if found else None


def load_state(folder: Path, step: int, state: State, ranks: Ranks) -> None:
    """Reads the state after `step` into the tensors of `state`."""
    with _quiet():
        reader = FileSystemReader(folder / f"state-{step:06d}")
        load(state, storage_reader=reader, no_dist=ranks.size == 1)


def drop_states(folder: Path) -> None:
    """All of them: the run has ended."""
    for old in [*_found(folder), *folder.glob(".state-*.partial")]:
        shutil.rmtree(old)


def _found(folder: Path) -> list[Path]:
    """The states, oldest first: by number, since a name can have more digits than it is filled up to."""
    paths = (path for path in folder.glob("state-*") if path.is_dir())
    numbered = [(int(match[1]), path) for path in paths if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns that it is not distributed, which was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed.checkpoint")
        yield
