"""JSON Lines: bytes -> rows and a row -> bytes.

Owns what a line may be: one JSON object in UTF-8 (RFC 8259), at most `MAX_LINE_BYTES` long. Opens no file. Invariants:
whatever the bytes are, memory holds one line of them, and each line that is not blank gives a row or a reason.
"""

import gzip
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn, TypeAlias

Row: TypeAlias = dict[str, Any]
Peekable: TypeAlias = io.BufferedReader | gzip.GzipFile

MAX_LINE_BYTES = 16 * 2**20
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LOOK_AHEAD = 4096


class NotJsonLinesError(ValueError):
    """The file is something else as a whole; the message says what, and what to do."""


def decode(stream: Peekable, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, Row | str]]:
    """Each line's number from 1 and its object, or the reason why it is none. Raises NotJsonLinesError at the start."""
    if b"\0" in stream.peek(_LOOK_AHEAD)[:_LOOK_AHEAD]:
        raise NotJsonLinesError("is a binary file, or text in UTF-16: give JSON Lines in UTF-8")
    line = 0
    is_first = True
    while raw := stream.readline(max_line_bytes + 1):
        line += 1
        text = (raw.removeprefix(_BYTE_ORDER_MARK) if line == 1 else raw).strip()
        if text and is_first:
            _check_first(text)
            is_first = False
        if len(raw) > max_line_bytes:
            _skip_line(stream, raw)
            yield line, f"the line is longer than {max_line_bytes} bytes"
        elif text:
            yield line, _parse(text)


def encode(row: Mapping[str, Any]) -> bytes:
    """One line, in UTF-8 and without escapes where JSON needs none."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _skip_line(stream: Peekable, part: bytes) -> None:
    while part and not part.endswith(b"\n"):
        part = stream.readline(len(part))


def _check_first(text: bytes) -> None:
    if text.startswith(b"["):
        raise NotJsonLinesError(
            "is one JSON array: give JSON Lines, one object a line (`jq -c '.[]' FILE > FILE.jsonl` makes them)"
        )
    if text == b"{":
        raise NotJsonLinesError(
            "is JSON over several lines: give JSON Lines, one object a line (`jq -c . FILE > FILE.jsonl` makes them)"
        )


def _parse(text: bytes) -> Row | str:
    try:
        value = json.loads(text.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        return "the line is not UTF-8"
    except RecursionError:
        return "the line is nested too deeply"
    except json.JSONDecodeError as error:
        return f"the line is not JSON: {error.msg} at column {error.colno}"
    except ValueError as error:  # NaN, or a number of more digits than Python reads
        return f"the line is not JSON that can be read: {error}"
    return value if isinstance(value, dict) else "the line is not a JSON object"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
