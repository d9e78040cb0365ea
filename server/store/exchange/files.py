"""Files of rows: which form a file has, and how it is read and replaced.

Owns opening, gzip, atomic writes and the words for what the disk and the file refuse. Does not know what a row means
(`reading.py`, `writing.py`). Invariants: files are streamed; a file stands under its name only once all rows are on
the disk, and a write that fails leaves nothing. (One that is killed leaves at most a hidden `.NAME.HEX.partial`.)
"""

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import uuid4

from honed.server.store.exchange import jsonl, parquet
from honed.server.store.exchange.jsonl import Row
from honed.server.store.exchange.records import shown

STDOUT: Final = Path("-")
FORMS: Final = (".jsonl", ".jsonl.gz", ".parquet")

_GZIP: Final = b"\x1f\x8b"
_PARQUET: Final = b"PAR1"


class FileError(Exception):
    """A file that cannot be read or written as a whole; the message names it and says what to do."""


def read_rows(path: Path) -> Iterator[tuple[int, Row | str]]:
    """Each row's number from 1 and its object, or the reason why it is none. Its first bytes tell a file's form.

    Raises FileError: at the first step, or, where the file is damaged, once the rows before are given out.
    """
    try:
        with path.open("rb") as stream:
            start = stream.peek(len(_PARQUET))
            if start.startswith(_PARQUET):
                yield from parquet.decode(stream)
            elif start.startswith(_GZIP):
                with gzip.open(stream) as unzipped:
                    yield from jsonl.decode(unzipped)
            else:
                yield from jsonl.decode(stream)
    except (jsonl.NotJsonLinesError, parquet.ParquetError) as error:
        raise FileError(f"{_named(path)} {error}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileError(f"{_named(path)} is a damaged gzip file ({error}): fetch it again") from error
    except OSError as error:
        raise FileError(f"{_named(path)} cannot be read: {error.strerror or error}") from error


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes all rows in the form that the name ends with, or as JSON Lines to standard output for `-`.

    Returns how many rows there were. A file of that name is replaced, and its permissions stay. Raises FileError, and
    BrokenPipeError where nobody reads standard output any more.
    """
    try:
        if path == STDOUT:
            return _write_lines(rows, sys.stdout.buffer)
        form = next((form for form in FORMS if path.name.lower().endswith(form)), None)
        if form is None:
            raise FileError(f"{_named(path)} has no known form: let its name end with {', '.join(FORMS)}, or use -")
        target = Path(os.path.realpath(path))  # a link goes on to point where it pointed
        with _replaced(target) as stream:
            if form == ".parquet":
                return parquet.encode(rows, stream, target.parent)
            if form == ".jsonl":
                return _write_lines(rows, stream)
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as zipped:  # same rows, same bytes
                return _write_lines(rows, zipped)
    except parquet.ParquetError as error:
        raise FileError(f"{_named(path)} {error}") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(f"{_named(path)} cannot be written: {error.strerror or error}") from error


def _write_lines(rows: Iterable[Mapping[str, Any]], stream: BinaryIO | gzip.GzipFile) -> int:
    count = 0
    for row in rows:
        stream.write(jsonl.encode(row))
        count += 1
    stream.flush()
    return count


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well, and is gone when it does not."""
    if path.exists() and not path.is_file():
        raise FileError(f"{_named(path)} is no regular file: name a file, or use - for standard output")
    if not path.parent.is_dir():
        raise FileError(f"{_named(path)} cannot be written: make the folder {_named(path.parent)} first")
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")
    try:
        with partial.open("xb") as stream:
            if path.exists():
                partial.chmod(stat.S_IMODE(path.stat().st_mode))
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def _fsync(folder: Path) -> None:
    """A rename is on the disk when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _named(path: Path) -> str:
    return "standard output" if path == STDOUT else shown(str(path), max_chars=300)
