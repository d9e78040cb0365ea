"""A conversation as files write it -> messages: OpenAI's and ShareGPT's lists, hh-rlhf's transcripts.

Owns the names of roles and how a transcript is cut into turns. Whether the messages make a prompt, `records.py` says.
Invariant: what is not text (tool calls, images) is refused by name, and never left out.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from honed.server.store.exchange.records import Message, RecordError, message, shown

_ROLES: Final = {role: role for role in ("system", "developer", "user", "assistant")}
# ShareGPT's `from`.
_SPEAKERS: Final = _ROLES | {"human": "user", **dict.fromkeys(("gpt", "chatgpt", "bing", "bard"), "assistant")}
_TOOLS: Final = ("tool", "function", "function_call", "function_response", "observation")
_CALLS: Final = ("tool_calls", "function_call", "audio")

# The start of a turn in a transcript. hh-rlhf does not escape these words where a text contains them.
_TURN: Final = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def messages(value: object, path: str, ignored: set[str]) -> tuple[Message, ...]:
    """OpenAI's messages, `role` and `content`, or ShareGPT's, `from` and `value`. Adds to `ignored` keys it skips.

    Raises RecordError, which names the place by `path`, such as `messages[0]`.
    """
    if not isinstance(value, list) or not value:
        raise RecordError(f"'{path}' must be a list of at least one message, but it is {described(value)}")
    return tuple(_message(item, f"{path}[{index}]", f"{path}[].", ignored) for index, item in enumerate(value))


def is_transcript(text: str) -> bool:
    """Whether a text is a whole dialogue in the manner of hh-rlhf."""
    first = _TURN.match(text)
    return first is not None and first[1] == "Human" and "\n\nAssistant:" in text


def transcript(text: str) -> tuple[Message, ...]:
    """The turns of a dialogue for which `is_transcript` holds, without the space around them.

    Turns alternate, so a `Human:` in a human turn and an `Assistant:` in an assistant's are a part of the text. (In
    hh-rlhf they are dialogues that a model went on to invent in its answer.) The other speaker's mark on a paragraph
    of its own always begins a turn: a text that quotes one cannot be told from a dialogue.
    """
    starts: list[re.Match[str]] = []
    for mark in _TURN.finditer(text):
        if not starts or mark[1] != starts[-1][1]:
            starts.append(mark)
    ends = [mark.start() for mark in starts[1:]] + [len(text)]
    return tuple(
        message("user" if mark[1] == "Human" else "assistant", text[mark.end() : end].strip())
        for mark, end in zip(starts, ends, strict=True)
    )


def answer(turns: tuple[Message, ...], path: str) -> str:
    """The text of a list that must be one assistant message."""
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        roles = shown(", ".join(turn["role"] for turn in turns))
        raise RecordError(
            f"'{path}' must be one message of the assistant after the prompt, but it is: {roles or 'none'}"
        )
    return turns[0]["content"]


def after_prompt(turns: tuple[Message, ...], path: str) -> tuple[tuple[Message, ...], str]:
    """A whole conversation -> its prompt and its last answer."""
    if not turns or turns[-1]["role"] != "assistant":
        raise RecordError(f"the last message of '{path}' must be the assistant's")
    return turns[:-1], turns[-1]["content"]


def is_answer(turn: Mapping[str, Any]) -> bool:
    """Whether it is the assistant's, of OpenAI's or ShareGPT's, before it is known to be a message at all."""
    speaker = turn.get("role") or turn.get("from")
    return isinstance(speaker, str) and _SPEAKERS.get(speaker) == "assistant"


def string(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"'{path}' must be a string, but it is {described(value)}")
    return value


def note_ignored(value: Mapping[str, Any], known: Collection[str], path: str, ignored: set[str]) -> None:
    """Adds the keys that a format does not have. A key that is null says nothing: Parquet has it in every row."""
    ignored.update(f"{path}{shown(str(key))}" for key in value if key not in known and value[key] is not None)


def described(value: object) -> str:
    """A value in words, short whatever its size."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the string '{shown(value)}'" if value else "an empty string"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "an object" if isinstance(value, dict) else f"of the type {type(value).__name__}"


def _message(value: object, path: str, below: str, ignored: set[str]) -> Message:
    if not isinstance(value, dict):
        raise RecordError(f"'{path}' must be an object with a role and a content, but it is {described(value)}")
    role_key, content_key, roles = (
        ("from", "value", _SPEAKERS) if "from" in value and value.get("role") is None else ("role", "content", _ROLES)
    )
    for key in _CALLS:
        if value.get(key):
            raise RecordError(f"'{path}.{key}' is unsupported: honed stores text only")
    role = _role(value.get(role_key), f"{path}.{role_key}", roles)
    content = _content(value.get(content_key), f"{path}.{content_key}")
    name = value.get("name")
    note_ignored(value, (role_key, content_key, "name", *_CALLS), below, ignored)
    return message(role, content, None if name is None else string(name, f"{path}.name"))


def _role(value: object, path: str, roles: Mapping[str, str]) -> str:
    if isinstance(value, str) and value in roles:
        return roles[value]
    if isinstance(value, str) and value in _TOOLS:
        raise RecordError(f"'{path}' is '{value}', which is unsupported: honed stores text only, no tool calls")
    raise RecordError(f"'{path}' must be one of {', '.join(roles)}, but it is {described(value)}")


def _content(value: object, path: str) -> str:
    """A text, or parts that are texts; several parts are separated by line breaks, as the server reads them."""
    if not isinstance(value, list):
        return string(value, path)
    return "\n".join(_part(part, f"{path}[{index}]") for index, part in enumerate(value))


def _part(value: object, path: str) -> str:
    if not isinstance(value, dict):
        raise RecordError(f"'{path}' must be an object with a type, but it is {described(value)}")
    kind = value.get("type")
    if kind != "text":
        raise RecordError(f"'{path}' is {_kind(kind)}, which is unsupported: honed stores text only")
    return string(value.get("text"), f"{path}.text")


def _kind(kind: object) -> str:
    return f"a part of the type '{shown(kind)}'" if isinstance(kind, str) else "a part without a type"
