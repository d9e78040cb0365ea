"""Ids that sort by time: a prefix that says of what, the milliseconds since 1970, and random digits.

Lists go by id, so their order is that of making without a second column. (As UUID version 7 has it, RFC 9562,
section 5.7; in hexadecimal digits, as OpenAI's clients expect no dashes.)
"""

from __future__ import annotations

import re
import secrets
import time

_TIME_DIGITS = 12
_RANDOM_DIGITS = 20
_ID = re.compile(rf"[a-z]+-([0-9a-f]{{{_TIME_DIGITS}}})[0-9a-f]{{{_RANDOM_DIGITS}}}")


def new_id(prefix: str, *, at_s: float | None = None) -> str:
    """`prefix` is a lower-case word such as `chatcmpl`; `at_s` (Unix seconds) is now unless it is given."""
    milliseconds = int((time.time() if at_s is None else at_s) * 1000)
    return f"{prefix}-{milliseconds:0{_TIME_DIGITS}x}{secrets.token_hex(_RANDOM_DIGITS // 2)}"


def age_s(identifier: str) -> float | None:
    """Seconds since the id was made; None where it is not one of these."""
    found = _ID.match(identifier)
    return None if found is None else time.time() - int(found[1], 16) / 1000
