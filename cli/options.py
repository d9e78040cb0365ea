"""Options of commands that are made of a pydantic model's fields, and the words for what the model refuses.

Owns how a field is typed on a command line: `learning_rate` is `--learning-rate`, a bool is a pair `--lora/--no-lora`,
numbers that belong together are one word with commas. Knows no model in particular. Invariant: a field that is added
to a model is an option of its command, with the field's own description and default, and no line here changes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_origin

import typer

from honed.cli.failure import fail

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

ModelT = TypeVar("ModelT", bound="BaseModel")


def option_name(field: str, prefix: str = "") -> str:
    """`learning_rate` as it is typed: `--learning-rate`, and with the prefix `sft` `--sft-learning-rate`."""
    return "--" + "-".join(filter(None, (prefix, field.replace("_", "-"))))


def parameters(
    model: type[BaseModel], fields: Iterable[str], *, prefix: str = "", panel: str | None = None
) -> Iterator[inspect.Parameter]:
    """The parameters of a command function, one a field, that typer makes options of; `panel` is where help lists them.

    A parameter is called as the field, and with a prefix `PREFIX_FIELD`.
    """
    for name in fields:
        field = model.model_fields[name]
        option = typer.Option(_declaration(name, prefix, field), help=field.description, rich_help_panel=panel)
        yield inspect.Parameter(
            f"{prefix}_{name}" if prefix else name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else _typed(field.default),
            annotation=Annotated[str if _is_tuple(field) else field.annotation, option],
        )


def validated(
    model: type[ModelT], given: Mapping[str, Any], *, prefix: str = "", prefixed: Iterable[str] = ()
) -> ModelT:
    """The model of what was typed. Whatever it refuses ends the command with one line that names the options.

    `prefixed`: the fields whose options have the prefix.
    """
    from pydantic import ValidationError

    values = {name: _split(value) if _is_tuple(model.model_fields[name]) else value for name, value in given.items()}
    names = {name: option_name(name, prefix if name in set(prefixed) else "") for name in model.model_fields}
    try:
        return model(**values)
    except ValidationError as error:
        problems = dict.fromkeys(_problem(model, each["loc"], each["msg"], names) for each in error.errors())
        raise fail("; ".join(problems)) from None


def _declaration(name: str, prefix: str, field: FieldInfo) -> str:
    option = option_name(name, prefix)
    return f"{option}/--no-{option.removeprefix('--')}" if field.annotation is bool else option


def _is_tuple(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _typed(default: Any) -> Any:
    """A default as somebody would type it."""
    return ",".join(f"{each:g}" for each in default) if isinstance(default, tuple) else default


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _problem(model: type[BaseModel], location: tuple[int | str, ...], message: str, names: Mapping[str, str]) -> str:
    """What pydantic says, with options in the place of fields. A rule about several fields names them itself."""
    said = message.removeprefix("Value error, ")
    if location:
        name = str(location[0])
        field = model.model_fields[name]
        if _is_tuple(field):
            said = f"write {len(field.default)} numbers with commas, as in {_typed(field.default)}"
        return f"{names[name]}: {said[:1].lower()}{said[1:]}"
    # A name without an underscore (`data`, `clip`) may be a word of the sentence.
    return re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda found: names.get(found[0], found[0]), said)
