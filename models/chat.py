"""Messages to token ids: the one renderer, for serving, supervised training and rollouts alike.

Owns how a conversation becomes a prompt, with the chat template of the tokenizer's own checkpoint. Does not
parse answers back, and does not escape a special token's literal that a message contains: it becomes that
token, as in the text that the model was trained on.

Invariant: the same tokenizer and messages give the same ids, whoever asks.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTemplateError(ValueError):
    """Messages that this model's chat template cannot render; the message says what to do."""


def render_chat(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """The prompt's token ids; with `add_generation_prompt` it ends where the assistant's answer begins.

    The role `developer` (OpenAI's newer name) is always rendered as `system`, which every template knows.
    Lone surrogates become U+FFFD. Raises ChatTemplateError.
    """
    conversation = [_message(message) for message in messages]
    try:
        template = tokenizer.get_chat_template()
    except ValueError:
        raise ChatTemplateError(
            "This model has no chat template: send a prompt to /v1/completions, or serve a chat model."
        ) from None
    try:
        text = tokenizer.apply_chat_template(
            conversation,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except (TemplateError, TypeError) as error:
        raise ChatTemplateError(
            f"The model's chat template refuses these messages: {error}. Change their roles or order."
        ) from error
    # The template writes the special tokens itself; the tokenizer must not add a second BOS.
    return list(tokenizer.encode(str(text), add_special_tokens=False))


def replace_lone_surrogates(text: str) -> str:
    """`text` with U+FFFD for each half of a surrogate pair: JSON allows them, UTF-8 and tokenizers do not."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _message(message: Mapping[str, str]) -> dict[str, str]:
    clean = {key: replace_lone_surrogates(value) for key, value in message.items()}
    if clean.get("role") == "developer":
        clean["role"] = "system"
    return clean
