"""The messages of a chat request.

Text only: other content parts, and the roles that carry tool results, are refused by name. Invariant: every
message has a text. `name` is handed to the chat template, which may or may not show it to the model.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, Tag, model_validator
from pydantic import Discriminator as UnionBranch

from honed.server.wire.request import RequestPart
from honed.server.wire.sampling import string_or_list
from honed.server.wire.unsupported import Unsupported, problem

UNSUPPORTED_ROLES = ("tool", "function")
UNSUPPORTED_PARTS = ("image_url", "input_audio", "file", "video_url", "audio_url")


def _supported_role(value: Any) -> Any:
    if value in UNSUPPORTED_ROLES:
        raise problem("unsupported_value", f"messages of the role '{value}' are not supported by this server")
    return value


class ContentPart(RequestPart):
    """What the parts of a content have in common: a part that is not text is refused before its fields are
    looked at.
    """

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("type") in UNSUPPORTED_PARTS:
            message = f"parts of the type '{value['type']}' are not supported by this server, only 'text'"
            raise problem("unsupported_value", message, field="type")
        return value


class TextPart(ContentPart):
    type: Literal["text"]
    text: str


class RefusalPart(ContentPart):
    """A refusal of an assistant, sent back as history; read as text."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


def _part_kind(value: Any) -> str:
    return "refusal" if isinstance(value, dict) and value.get("type") == "refusal" else "text"


Content = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[TextPart], Field(fail_fast=True, min_length=1), Tag("list")],
    UnionBranch(string_or_list),
]
AssistantPart = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[RefusalPart, Tag("refusal")], UnionBranch(_part_kind)
]
AssistantContent = Annotated[
    Annotated[str, Tag("string")] | Annotated[list[AssistantPart], Field(fail_fast=True, min_length=1), Tag("list")],
    UnionBranch(string_or_list),
]


def _joined(content: str | list[TextPart] | list[TextPart | RefusalPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


class InstructionMessage(RequestPart):
    """A message of the system, the developer or the user."""

    role: Annotated[Literal["system", "developer", "user"], BeforeValidator(_supported_role)]
    content: Content
    name: str | None = None

    @property
    def text(self) -> str:
        """The content; several parts are separated by line breaks."""
        return _joined(self.content)


class AssistantMessage(RequestPart):
    """An earlier answer, as the client sends it back."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: Annotated[Any, Unsupported([])] = None
    function_call: Annotated[Any, Unsupported()] = None
    audio: Annotated[Any, Unsupported()] = None
    annotations: Annotated[Any, Unsupported([])] = None

    @property
    def text(self) -> str:
        """The content, or the refusal that stands in its place."""
        return _joined(self.content if self.content is not None else self.refusal or "")

    @model_validator(mode="after")
    def _has_one_text(self) -> Self:
        if self.content is None and self.refusal is None:
            raise problem("missing_required_parameter", "", field="content")
        if self.content is not None and self.refusal is not None:
            raise problem("invalid_value", "a message has a content or a refusal, not both", field="refusal")
        return self


def _message_kind(value: Any) -> str:
    return "assistant" if isinstance(value, dict) and value.get("role") == "assistant" else "instruction"


Message = Annotated[
    Annotated[InstructionMessage, Tag("instruction")] | Annotated[AssistantMessage, Tag("assistant")],
    UnionBranch(_message_kind),
]


def for_template(message: Message) -> dict[str, str]:
    """The message as chat templates read it: role, content and, where it has one, its name."""
    named = {} if message.name is None else {"name": message.name}
    return {"role": message.role, "content": message.text, **named}
