"""When two prompts are one: InstructGPT's rule that prompts with a long common prefix are duplicates, as a key.

Owns the key and what it is computed from. Does not look a key up, and does not choose which of the duplicates
stays. InstructGPT (Ouyang et al. 2022, section 3.2) gives no length: PREFIX_CHARS is ours.

Invariant: a key is a function of the messages alone: the same in every process and on every platform, and in
every Python for characters of Unicode 14 (Python 3.11) and before. Stored keys depend on every line here: a change
is a migration. Whitespace is what `str.split` takes for it.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

PREFIX_CHARS: Final = 200

_SYSTEM: Final = ("system", "developer")

# This many words reach past the prefix even when all are single letters, 101 with 100 spaces between them.
_ENOUGH_WORDS: Final = PREFIX_CHARS // 2 + 1

# And this many characters do, however NFKC composes them: at most four become one. The bound is for safety:
# sorting a run of combining marks, as NFKC has to, takes time that grows with the square of its length.
_ENOUGH_CHARS: Final = 5 * PREFIX_CHARS


def prefix_key(messages: Sequence[Mapping[str, str]]) -> int:
    """A signed 64-bit integer, the same for two prompts iff their first PREFIX_CHARS characters are the same.

    Characters are counted over the contents of all messages, after NFKC, case folding and the collapse of
    whitespace; where one message ends, and whose the next is, counts as well. Shorter prompts are the same iff
    they are equal. System (and developer) messages are left out, because all requests of an application share
    them; where there are no others, they are the prompt.

    A hash rather than MinHash (as of datasketch): a key is found by an ordinary index in any database, two servers
    agree on it without shared state, nothing has a threshold to be tuned, and keys are uniform over the int64
    range, so that `key >= :random ORDER BY key` is a sample. What that misses: prompts that differ in a single
    early character, such as a name or a date, and rewordings. What it unites: few-shot prompts that share a long
    head and differ in the question at their end, as InstructGPT's rule does. Two different prefixes share a key
    with probability 2**-64, and a prefix that holds a run of hundreds of combining marks may get two keys.
    """
    digest = blake2b(_prefix(messages).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _prefix(messages: Sequence[Mapping[str, str]]) -> str:
    """What is hashed. The separators are whitespace to `str.split`, so no normalised content has them."""
    parts: list[str] = []
    room = PREFIX_CHARS
    for message in [m for m in messages if m["role"] not in _SYSTEM] or messages:
        if not room:
            break
        role = "system" if message["role"] in _SYSTEM else message["role"]
        text = _normalised(message["content"])[:room]
        parts += ("\x1e", role, "\x1f", text)
        room -= len(text)
    return "".join(parts)


def _normalised(text: str) -> str:
    """NFKC, case-folded, whitespace collapsed; of a long text a beginning that is longer than the prefix."""
    start = " ".join(text.split(maxsplit=_ENOUGH_WORDS)[:_ENOUGH_WORDS])[:_ENOUGH_CHARS]
    # Again, because NFKC makes new spaces: the spacing accent U+00B4 becomes a space and a combining accent.
    return " ".join(unicodedata.normalize("NFKC", start).casefold().split())
