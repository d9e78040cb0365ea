"""Raw bodies -> requests, or one `ServerError` that says, in OpenAI's words, all that is wrong with them.

Owns JSON parsing and the mapping of pydantic's errors to OpenAI's codes and dotted paths. Does not know what
a request means: bounds and refusals are in the wire types. Invariant: whatever the bytes are, `parse_request`
returns a request or raises `InvalidRequest`, and nothing of the body is quoted at length.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from honed.server.errors import (
    MAX_PROBLEM_CHARS,
    MAX_PROBLEMS,
    InvalidJson,
    InvalidRequest,
    InvalidType,
    InvalidValue,
    MissingParameter,
    OutOfRange,
    UnknownParameter,
    UnsupportedParameter,
    UnsupportedValue,
)
from honed.server.wire.request import RequestPart

RequestT = TypeVar("RequestT", bound=RequestPart)

MAX_QUOTED_CHARS = 40
MAX_NAME_CHARS = 60

_ERRORS: Final[Mapping[str, type[InvalidRequest]]] = {
    kind.code: kind
    for kind in (InvalidType, InvalidValue, MissingParameter, UnsupportedParameter, UnsupportedValue)
    if kind.code is not None
}
_EXPECTED: Final = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}
# pydantic's error type -> (OpenAI's name of the bound, our words, the bound's key in the error's context)
_BOUNDS: Final = {
    "greater_than": ("below_min_value", ">", "gt"),
    "greater_than_equal": ("below_min_value", ">=", "ge"),
    "less_than": ("above_max_value", "<", "lt"),
    "less_than_equal": ("above_max_value", "<=", "le"),
    "too_short": ("below_min_length", "at least", "min_length"),
    "too_long": ("above_max_length", "at most", "max_length"),
    "string_too_short": ("below_min_length", "at least", "min_length"),
    "string_too_long": ("above_max_length", "at most", "max_length"),
}
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class Problem(NamedTuple):
    """One thing that is wrong: OpenAI's code, the dotted path, and a sentence about it."""

    code: str
    param: str | None
    message: str


def parse_request(model: type[RequestT], raw: bytes, *, strict: bool) -> tuple[RequestT, list[str]]:
    """The request in `raw`, and the dotted paths of the keys that nobody knows.

    Raises `InvalidRequest` or one of its subclasses; with `strict`, unknown keys are refused too.
    """
    return parse_object(model, parse_json_object(raw), strict=strict)


def parse_object(model: type[RequestT], value: Mapping[str, Any], *, strict: bool) -> tuple[RequestT, list[str]]:
    """Like `parse_request`, of what is no JSON any more, or was none: the fields of a form."""
    try:
        request = model.model_validate(value)
    except ValidationError as exc:
        raise _refusal([_problem(error, value) for error in _shown(exc)], exc.error_count()) from None
    unknown = list(_unknown_keys(request, ""))
    if unknown and strict:
        raise _refusal([_unknown(key) for key in unknown[:MAX_PROBLEMS]], len(unknown))
    return request, unknown


def parse_tagged(
    models: Mapping[str, type[RequestT]], tag: str, raw: bytes, *, strict: bool
) -> tuple[RequestT, list[str]]:
    """Like `parse_request`, with the type among `models` that the member `tag` of the object names."""
    kind = parse_json_object(raw).get(tag)
    if kind is None:
        raise MissingParameter(f"Missing required parameter: '{tag}'.", param=tag)
    if not isinstance(kind, str) or kind not in models:
        choices = ", ".join(f"'{name}'" for name in models)
        raise InvalidValue(f"Invalid '{tag}': expected one of {choices}, but got {_described(kind)}.", param=tag)
    return parse_request(models[kind], raw, strict=strict)


def parse_json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw` (RFC 8259: UTF-8, no NaN, no half surrogates). Raises `InvalidJson`."""
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
        if _SURROGATE_ESCAPE.search(raw):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise InvalidJson("The body is nested too deeply.") from None
    except UnicodeError:
        raise InvalidJson("The body is not valid Unicode in UTF-8.") from None
    except ValueError as exc:
        # JSONDecodeError, or a number of more digits than Python reads.
        raise InvalidJson(f"The body is not valid JSON: {str(exc)[:MAX_PROBLEM_CHARS]}.") from None
    if not isinstance(value, dict):
        raise InvalidJson(f"The body must be a JSON object, but it is {_described(value)}.")
    return value


def warning_header(unknown: Sequence[str]) -> dict[str, str]:
    """The header that tells a client which of its keys were ignored; none where none were."""
    if not unknown:
        return {}
    names = [_shortened(name, MAX_QUOTED_CHARS) for name in unknown[:MAX_PROBLEMS]]
    more = f" and {len(unknown) - MAX_PROBLEMS} more" if len(unknown) > MAX_PROBLEMS else ""
    text = f"ignored unknown parameters: {', '.join(names)}{more}"
    printable = "".join(char if " " <= char <= "~" else "?" for char in text)
    return {"x-honed-warning": printable}


def _unknown(key: str) -> Problem:
    return Problem("unknown_parameter", key, f"Unknown parameter: '{_shortened(key, MAX_NAME_CHARS)}'.")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _shown(exc: ValidationError) -> list[ErrorDetails]:
    return exc.errors(include_url=False)[:MAX_PROBLEMS]


def _refusal(problems: Sequence[Problem], count: int) -> InvalidRequest:
    """One error for all: the first problem names code and param, the message lists them."""
    first = problems[0]
    sentences = [_shortened(problem.message, MAX_PROBLEM_CHARS) for problem in problems[:MAX_PROBLEMS]]
    if count > len(sentences):
        sentences.append(f"(And {count - len(sentences)} more problems.)")
    kind = UnknownParameter if first.code == "unknown_parameter" else _ERRORS.get(first.code, OutOfRange)
    return kind(" ".join(sentences), param=first.param, code=first.code)


def _problem(error: ErrorDetails, body: Any) -> Problem:
    kind, context = error["type"], error.get("ctx", {})
    location = error["loc"]
    if kind == "honed" and context["field"] is not None:
        location = (*location, context["field"])
    path = _dotted(location, body, keep_last=kind == "missing" or kind == "honed")
    name = f"'{_shortened(path, MAX_NAME_CHARS)}'" if path else "the body"
    return Problem(*_explained(error, name, path))


def _explained(error: ErrorDetails, name: str, path: str) -> tuple[str, str | None, str]:
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    param = path or None
    if kind == "missing" or context.get("code") == "missing_required_parameter":
        return "missing_required_parameter", param, f"Missing required parameter: {name}."
    if kind == "honed":
        prefix = _PREFIXES.get(context["code"], "Invalid")
        return context["code"], param, f"{prefix} {name}: {context['message']}."
    if kind in _EXPECTED:
        sentence = f"Invalid type for {name}: expected {_EXPECTED[kind]}, but got {_described(value)} instead."
        return "invalid_type", param, sentence
    if kind in _BOUNDS:
        code, sentence = _out_of_range(error)
        return code, param, f"Invalid {name}: {sentence}."
    return "invalid_value", param, f"Invalid {name}: {error['msg']}, but got {_described(value)}."


_PREFIXES: Final = {
    "unsupported_parameter": "Unsupported parameter",
    "unsupported_value": "Unsupported value for",
}


def _out_of_range(error: ErrorDetails) -> tuple[str, str]:
    bound_name, words, key = _BOUNDS[error["type"]]
    context, value = error["ctx"], error["input"]
    bound = context[key]
    if key in ("min_length", "max_length"):
        kind = "string" if error["type"].startswith("string") else "array"
        if kind == "array" and not value:
            return "empty_array", "expected an array of at least one item, but got an empty one"
        unit = "characters" if kind == "string" else "items"
        return f"{kind}_{bound_name}", f"expected {words} {bound} {unit}, but got {len(value)}"
    # By the field, not by the value: a temperature of 3 is a decimal that is too large.
    kind = "decimal" if isinstance(bound, float) else "integer"
    return f"{kind}_{bound_name}", f"expected a value {words} {_number(bound)}, but got {_described(value)}"


def _number(bound: float) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def _dotted(location: Sequence[str | int], body: Any, *, keep_last: bool) -> str:
    """OpenAI's path, such as `messages[0].role`. What is not in the body, the name of a union's branch, is
    left out.
    """
    path, here = "", body
    for position, key in enumerate(location):
        if isinstance(here, list) and isinstance(key, int) and key < len(here):
            path, here = f"{path}[{key}]", here[key]
        elif isinstance(here, dict) and key in here:
            path, here = _joined(path, str(key)), here[str(key)]
        elif keep_last and position == len(location) - 1:
            path = _joined(path, str(key))
    return path


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _described(value: Any) -> str:
    """A value in words, short whatever its size."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return f"the string {json.dumps(_shortened(value, MAX_QUOTED_CHARS), ensure_ascii=False)}"
    if isinstance(value, int | float):
        digits = str(value)
        return digits if len(digits) <= MAX_QUOTED_CHARS else f"a number of {len(digits)} digits"
    return "an array" if isinstance(value, list) else "an object"


def _shortened(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def _unknown_keys(part: BaseModel, path: str) -> Iterator[str]:
    """The dotted paths of all keys that no wire type declares, wherever in the request they are."""
    for key in part.model_extra or {}:
        yield _joined(path, key)
    for name in type(part).model_fields:
        value = getattr(part, name)
        here = _joined(path, name)
        if isinstance(value, BaseModel):
            yield from _unknown_keys(value, here)
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            for index, item in enumerate(value):
                yield from _unknown_keys(item, f"{here}[{index}]")
