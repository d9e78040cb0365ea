"""The journal: what a server has answered, on its own disk, until it is in the tables.

Each server appends JSON lines to segment files of its own and holds a lock on the one that it appends to; whoever
ingests reads on from the position that the tables hold. So a database that is away delays rows and loses none, and a
server that dies leaves its segments, whose locks the system frees, for the next one. The files hold what users wrote,
as they wrote it: they can be read by their owner only, and are deleted as soon as they are in the tables.

Invariants: a segment is only appended to, line by whole line; a last line without its end belongs to a server that died
while it wrote it, and was never answered for. Segments of one server sort by name in the order of writing.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".jsonl"
SEGMENT_BYTES = 16 * 2**20
READ_BYTES = 2**20


class Journal:
    """A server's end of the journal. Blocking, and touched by one thread."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self.owner = f"{int(time.time() * 1000):012x}-{secrets.token_hex(4)}"
        self._segment_bytes = segment_bytes
        self._count = 0
        self._file: int | None = None
        self._name = ""
        self._size = 0
        self._opened_s = 0.0

    def append(self, lines: Sequence[bytes]) -> tuple[str, int]:
        """Writes whole lines, all or none; the segment and its size afterwards. Raises OSError, ENOSPC included."""
        file = self._open()
        data = b"".join(line + b"\n" for line in lines)
        written = 0
        try:
            while written < len(data):
                written += os.write(file, data[written:])
        except OSError:
            os.ftruncate(file, self._size)
            raise
        self._size += len(data)
        position = self._name, self._size
        if self._size >= self._segment_bytes:
            self.close()
        return position

    def sync(self) -> None:
        """What was appended survives a power cut from here on."""
        if self._file is not None:
            os.fsync(self._file)

    @property
    def age_s(self) -> float | None:
        """How long the segment has been appended to; None where there is none."""
        return None if self._file is None else time.monotonic() - self._opened_s

    def close(self) -> None:
        """Lets go of the segment, which can be deleted when it was read; a later `append` begins another."""
        if self._file is not None:
            try:
                self.sync()
            finally:
                os.close(self._file)
                self._file = None

    def _open(self) -> int:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._name = f"{self.owner}-{self._count:06d}{SUFFIX}"
            self._count += 1
            self._size = 0
            hidden = self.folder / f".{self._name}.new"  # until it is locked: nobody may take it for abandoned
            self._file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            hidden.rename(self.folder / self._name)
            self._opened_s = time.monotonic()
            _sync_folder(self.folder)
        return self._file


def _sync_folder(folder: Path) -> None:
    """So that the name of a new segment survives a power cut as well."""
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of a segment, and the position (bytes) after them."""

    lines: list[bytes]
    end: int


def segments(folder: Path) -> list[Path]:
    """All segments, each owner's in the order of writing; older owners first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def read(path: Path, position: int) -> Chunk:
    """The whole lines from `position` on, about READ_BYTES of them, at least one where there is one."""
    data = b""
    with path.open("rb") as file:
        file.seek(position)
        while more := file.read(READ_BYTES):
            data += more
            if b"\n" in more:
                break
    end = data.rfind(b"\n") + 1
    return Chunk(data[:end].split(b"\n")[:-1], position + end)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """True while the block holds the lock of a segment that nobody appends to any more; False where it is in use or
    gone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        yield False
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield path.exists()
    finally:
        os.close(file)


def size_bytes(folder: Path) -> int:
    """What the journal takes on the disk."""
    total = 0
    for path in segments(folder):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # it was ingested meanwhile
            continue
    return total
