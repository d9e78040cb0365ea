"""Parquet: bytes -> rows and rows -> bytes, in row groups, through pyarrow.

Owns how rows become columns. The one module that imports pyarrow, an optional extra, and only when it is called. Opens
no file but a temporary one. Invariant: memory holds one row group. Where a row does not have a key, its column is null.
"""

import importlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from honed.server.store.exchange.jsonl import Row
from honed.server.store.exchange.jsonl import encode as encode_line
from honed.server.store.exchange.records import shown

ROWS_PER_GROUP = 5000
MAX_GROUP_BYTES = 32 * 2**20  # of JSON
ROWS_PER_BATCH = 256  # read at once


class ParquetError(Exception):
    """What cannot be read as Parquet or written as such, and what to do."""


def decode(stream: BinaryIO) -> Iterator[tuple[int, Row]]:
    """Each row with its number from 1. Raises ParquetError.

    A column that no format of ours can use (bytes, and nanoseconds, which Python has no type for) is not read: its
    rows hold the name of its type.
    """
    pyarrow, parquet = _pyarrow()
    count = 0
    try:
        file = parquet.ParquetFile(stream)
        unread = {f.name: f"({f.type})" for f in file.schema_arrow if "binary" in str(f.type) or "[ns" in str(f.type)}
        columns = [name for name in file.schema_arrow.names if name not in unread]
        if unread and not columns:
            raise ParquetError(f"has no column of text, only {shown(', '.join(unread))}")
        for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=columns):
            for row in batch.to_pylist():
                count += 1
                yield count, row | unread
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise ParquetError(f"is Parquet that cannot be read after row {count}: {_first_line(error)}") from error


def encode(rows: Iterable[Mapping[str, Any]], stream: BinaryIO, folder: Path) -> int:
    """Writes all rows and returns how many. In `folder` they wait until the columns of all of them are known.

    Raises ParquetError where one column would have to hold texts and lists, and OSError as the disk gives it.
    """
    pyarrow, parquet = _pyarrow()
    with tempfile.TemporaryFile(dir=folder) as spool:
        schema = pyarrow.schema([])
        sizes: list[int] = []
        for group in _groups(rows):
            spool.writelines(encode_line(row) for row in group)
            schema = _with_columns_of(schema, group)
            sizes.append(len(group))
        spool.seek(0)
        with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
            for size in sizes:
                values = [json.loads(line) for line in islice(spool, size)]
                columns = pyarrow.array(values, type=pyarrow.struct(list(schema)))
                writer.write_batch(pyarrow.RecordBatch.from_struct_array(columns))
    return sum(sizes)


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    group: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(encode_line(row))
        if len(group) == ROWS_PER_GROUP or size >= MAX_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _with_columns_of(schema: Any, group: list[Mapping[str, Any]]) -> Any:
    """An Arrow schema that also holds these rows."""
    pyarrow, _ = _pyarrow()
    try:
        found = pyarrow.schema(list(pyarrow.array(group).type))
        return pyarrow.unify_schemas([schema, found], promote_options="permissive")
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ParquetError(
            "cannot hold prompts that are texts beside prompts that are messages: write two files, or JSON Lines "
            f"({_first_line(error)})"
        ) from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ParquetError("needs pyarrow: pip install 'honed[parquet]'") from error


def _first_line(error: Exception) -> str:
    return shown(str(error).partition("\n")[0], max_chars=200)
