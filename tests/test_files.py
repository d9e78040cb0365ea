"""Files of rows: streamed in, replaced whole, and a plain word for whatever the disk or a stranger's file does."""

import errno
import gzip
import io
import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.server.store.exchange import jsonl, parquet
from honed.server.store.exchange.files import FORMS, STDOUT, FileError, read_rows, write_rows

ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Grüße, 東京 😀\u2028\n"}, {"role": "assistant", "content": ""}]},
    {"id": "x", "messages": [{"role": "user", "content": "hi", "name": "ann"}]},
]


def refusal(path: Path) -> str:
    with pytest.raises(FileError) as refused:
        list(read_rows(path))
    return str(refused.value)


def file(folder: Path, data: bytes, name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def lines(data: bytes, **limits: int) -> list[tuple[int, Any]]:
    return list(jsonl.decode(io.BufferedReader(io.BytesIO(data)), **limits))


@pytest.mark.parametrize("form", FORMS)
def test_rows_come_back(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{form}"
    assert write_rows(path, iter(ROWS)) == 2
    assert [(line, without_nulls(row)) for line, row in read_rows(path)] == [(1, ROWS[0]), (2, ROWS[1])]
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_are_a_file_too(form: str, tmp_path: Path) -> None:
    assert write_rows(tmp_path / f"none{form}", []) == 0
    assert list(read_rows(tmp_path / f"none{form}")) == []


def test_a_form_is_told_by_the_first_bytes_not_by_the_name(tmp_path: Path) -> None:
    for form in FORMS:
        write_rows(tmp_path / f"rows{form}", ROWS)
        renamed = (tmp_path / f"rows{form}").rename(tmp_path / "rows.json")
        assert len(list(read_rows(renamed))) == 2


def test_json_lines_are_utf_8_without_escapes_and_gzip_has_no_clock(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", ROWS)
    text = (tmp_path / "a.jsonl").read_bytes().decode()
    assert "Grüße, 東京 😀\u2028\\n" in text
    assert text.count("\n") == 2
    write_rows(tmp_path / "b.jsonl.gz", ROWS)
    zipped = (tmp_path / "b.jsonl.gz").read_bytes()
    assert zipped[4:8] == bytes(4), "the same rows give the same bytes, whenever they are written"
    assert gzip.decompress(zipped).decode() == text


def test_standard_output(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert write_rows(STDOUT, ROWS) == 2
    assert [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()] == ROWS


def test_standard_output_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stdout = os.fdopen(writer, "w", encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(BrokenPipeError):
        write_rows(STDOUT, ROWS)
    with pytest.raises(BrokenPipeError):
        stdout.close()


def test_blank_lines_carriage_returns_and_a_byte_order_mark() -> None:
    assert lines(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"b": 2}') == [(1, {"a": 1}), (4, {"b": 2})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"hello", "the line is not JSON: Expecting value at column 1"),
        (b'{"a": 1} {"b": 2}', "the line is not JSON: Extra data at column 10"),
        (b"[1]", "the line is not a JSON object"),
        (b"null", "the line is not a JSON object"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b'{"a": "\xff"}', "the line is not UTF-8"),
        (b'{"a": "\0"}', "Invalid control character"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON that can be read"),
        (b'{"a": "' + b"x" * 20_000 + b'"}', "longer than 10000 bytes"),
    ],
    ids=lambda value: repr(value[:16]),
)
def test_a_bad_line_is_named_and_the_next_is_read(line: bytes, reason: str) -> None:
    first = b'{"pad": "' + b"x" * 5000 + b'"}\n'  # so that a NUL is not in the block that tells binary files
    limit = 10_000 if b"x" * 20_000 in line else 10**6
    (one, _), (two, said), (three, last) = lines(first + line + b'\n{"last": 1}\n', max_line_bytes=limit)
    assert (one, two, three, last) == (1, 2, 3, {"last": 1})
    assert reason in said


def test_a_line_at_the_limit_is_read_and_a_long_last_line_ends() -> None:
    row = b'{"a": "' + b"x" * 91 + b'"}'
    assert lines(row + b"\n" + row, max_line_bytes=len(row) + 1) == [(1, json.loads(row)), (2, json.loads(row))]
    assert lines(b"x" * 1000, max_line_bytes=10) == [(1, "the line is longer than 10 bytes")]
    with pytest.raises(jsonl.NotJsonLinesError, match="one JSON array"):
        lines(b"[" + b"x" * 1000, max_line_bytes=10)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'[{"messages": []},\n {}]', "is one JSON array: give JSON Lines, one object a line (`jq -c '.[]'"),
        (b'\n\n  [\n{"messages": []}]', "is one JSON array"),
        (b'{\n  "messages": []\n}\n', "is JSON over several lines"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is a binary file, or text in UTF-16"),
        ('{"a": 1}'.encode("utf-16"), "is a binary file, or text in UTF-16"),
        (gzip.compress(b'{"a": 1}\n' * 999)[:-9], "is a damaged gzip file"),
        (b"\x1f\x8b" + b"x" * 100, "is a damaged gzip file"),
        (gzip.compress(b'{"a": 1}\n' * 999)[:10] + b"\xff" * 50, "is a damaged gzip file"),
        (gzip.compress(b"\0"), "is a binary file"),
        (b"PAR1 and more that is no Parquet", "is Parquet that cannot be read after row 0"),
    ],
)
def test_a_file_that_is_something_else(data: bytes, words: str, tmp_path: Path) -> None:
    path = file(tmp_path, data)
    assert refusal(path).startswith(f"{path} {words}")


def test_rows_before_the_damage_are_read(tmp_path: Path) -> None:
    rows = read_rows(file(tmp_path, gzip.compress(b'{"a": 1}\n')[:-4]))
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(FileError, match="damaged gzip"):
        next(rows)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.jsonl") == f"{tmp_path / 'none.jsonl'} cannot be read: No such file or directory"
    assert refusal(tmp_path).endswith("cannot be read: Is a directory")


@settings(deadline=None)
@given(data=st.binary(max_size=200), kind=st.sampled_from([b"", b"PAR1", b"\x1f\x8b", b'{"a": 1}\n']))
def test_whatever_the_bytes_are_they_are_read_or_refused(
    data: bytes, kind: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = file(tmp_path_factory.getbasetemp(), kind + data)
    try:
        rows = list(read_rows(path))
    except FileError:
        return
    assert [line for line, _ in rows] == sorted({line for line, _ in rows})


@contextmanager
def disk_of(max_bytes: int) -> Iterator[None]:
    """The kernel refuses to let a file grow beyond that, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{form}"
    write_rows(path, ROWS)
    before = path.read_bytes()
    many = ({"prompt": os.urandom(5000).hex()} for _ in range(200))
    with disk_of(100_000), pytest.raises(FileError, match=f"cannot be written: {os.strerror(errno.EFBIG)}"):
        write_rows(path, many)
    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("form", FORMS)
def test_rows_that_fail_on_the_way_leave_nothing(form: str, tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / f"rows{form}", rows())
    assert names(tmp_path) == []


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    def rows() -> Iterator[dict[str, Any]]:
        yield ROWS[0]
        assert not path.exists()

    write_rows(path, rows())
    assert path.exists()


def test_a_replaced_file_keeps_its_permissions_and_a_link_its_target(tmp_path: Path) -> None:
    target = file(tmp_path, b"old")
    target.chmod(0o600)
    link = tmp_path / "link.jsonl"
    link.symlink_to(target)
    write_rows(link, ROWS)
    assert link.is_symlink()
    assert len(list(read_rows(target))) == 2
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name, words in [
        ("fifo.jsonl", "is no regular file: name a file, or use -"),
        ("folder.jsonl", "is no regular file"),
        ("none/rows.jsonl", f"cannot be written: make the folder {tmp_path / 'none'} first"),
        ("rows.csv", "has no known form: let its name end with .jsonl, .jsonl.gz, .parquet, or use -"),
        (f"{'x' * 250}.jsonl", "cannot be written: File name too long"),
    ]:
        with pytest.raises(FileError) as refused:
            write_rows(tmp_path / name, ROWS)
        assert words in str(refused.value)
    assert names(tmp_path) == ["fifo.jsonl", "folder.jsonl"]


def test_parquet_columns_are_those_of_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 3)
    rows: list[dict[str, Any]] = [{"prompt": [{"role": "user", "content": str(i)}]} for i in range(7)]
    rows.append({"id": "late", "prompt": [{"name": "ann", "role": "user", "content": "7"}]})
    path = tmp_path / "rows.parquet"
    assert write_rows(path, rows) == 8
    table = pq.ParquetFile(path)
    assert [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)] == [3, 3, 2]
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())])
    assert table.schema_arrow.names == ["prompt", "id"]
    assert table.schema_arrow.field("prompt").type.value_type == message
    assert table.schema_arrow.field("id").type == pa.string()
    assert [without_nulls(row) for _, row in read_rows(path)] == rows


def test_large_rows_make_small_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 100)
    write_rows(tmp_path / "rows.parquet", [{"prompt": "x" * 150}] * 3)
    assert pq.ParquetFile(tmp_path / "rows.parquet").num_row_groups == 3


@pytest.mark.parametrize("rows_per_group", [1, 10])
def test_parquet_refuses_texts_beside_messages(
    rows_per_group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", rows_per_group)
    rows: list[dict[str, Any]] = [{"prompt": "sky"}, {"prompt": [{"role": "user", "content": "hi"}]}]
    with pytest.raises(FileError, match="write two files, or JSON Lines"):
        write_rows(tmp_path / "rows.parquet", rows)
    assert names(tmp_path) == []


def test_parquet_columns_that_no_format_has_are_named_not_read(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array(["a"], pa.large_string()),
            "when": pa.array([1_700_000_000_000_000_001], pa.timestamp("ns")),
            "image": pa.array([{"bytes": b"\xff", "path": "p"}]),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    [(line, row)] = read_rows(tmp_path / "rows.parquet")
    assert (line, row) == (
        1,
        {"prompt": "a", "when": "(timestamp[ns])", "image": "(struct<bytes: binary, path: string>)"},
    )


def test_parquet_without_a_column_for_us_is_refused_not_empty(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([b"\xff"])}), tmp_path / "rows.parquet")
    assert "has no column of text, only image" in refusal(tmp_path / "rows.parquet")


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, [{"prompt": "x" * 1000 + str(i)} for i in range(1000)])
    whole = path.read_bytes()
    assert "is Parquet that cannot be read after row 0" in refusal(file(tmp_path, whole[:-100], "cut.parquet"))
    scratched = whole[:50] + bytes(200) + whole[250:]
    assert "is Parquet that cannot be read" in refusal(file(tmp_path, scratched, "scratched.parquet"))


def test_without_pyarrow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    write_rows(path, ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(path) == f"{path} needs pyarrow: pip install 'honed[parquet]'"
    with pytest.raises(FileError, match=r"pip install 'honed\[parquet\]'"):
        write_rows(tmp_path / "new.parquet", ROWS)
    assert names(tmp_path) == [path.name]


def test_the_formats_need_no_database_and_json_lines_no_pyarrow() -> None:
    modules = ", ".join(f"honed.server.store.exchange.{name}" for name in ("reading", "writing"))
    code = f"import sys, {modules}; print({{'sqlalchemy', 'pyarrow', 'pydantic', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
