"""Records -> rows, exactly as TRL 1.16 reads them without conversion.

Owns what a row of each kind holds, for https://huggingface.co/docs/trl/dataset_formats. Does not choose records nor
write files. Invariant: `reading.py` makes the same record of each row.

A prompt that is a text gives TRL's standard form, strings, and any other its conversational form: TRL trains on either,
but not on both in one data set. Keys without a value are left out. `datasets` takes the keys of a JSON Lines file from
its first 10 MB: a larger file whose only ids come later is one that it refuses. So give ids to all records of a file or
to none, or write Parquet, which has no such rule.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Literal, TypeAlias

from honed.server.store.exchange.records import Answer, Demonstration, Message, Prompt, Ranking, Thumb, is_text, message

Row: TypeAlias = dict[str, Any]
What: TypeAlias = Literal["demonstrations", "pairs", "rankings", "thumbs", "prompts", "completions"]


def prompt_row(record: Prompt) -> Row:
    """TRL's prompt-only."""
    return _identified(record.external_id) | {"prompt": _prompt(record.prompt)}


def demonstration_row(record: Demonstration) -> Row:
    """TRL's language modelling, or prompt-completion where the prompt is a text."""
    if is_text(record.prompt):
        row = {"prompt": _prompt(record.prompt), "completion": record.answer}
    else:
        row = {"messages": [*_prompt(record.prompt), dict(message("assistant", record.answer))]}
    return _identified(record.external_id) | row


def completion_row(record: Demonstration) -> Row:
    """TRL's prompt-completion: what a model answered, apart from what it was asked."""
    return _identified(record.external_id) | {
        "prompt": _prompt(record.prompt),
        "completion": _completion(record.prompt, record.answer),
    }


def thumb_row(record: Thumb) -> Row:
    """TRL's unpaired preference."""
    return _identified(record.external_id) | {
        "prompt": _prompt(record.prompt),
        "completion": _completion(record.prompt, record.answer),
        "label": record.label,
    }


def pair_rows(record: Ranking) -> Iterator[Row]:
    """TRL's preference: every pair of answers of which one is better, the best first. All have the ranking's id.

    Left out are ties, and pairs of the same text, which prefer nothing.
    """
    in_order = sorted(record.answers, key=lambda answer: answer.rank)
    for better, worse in combinations(in_order, 2):
        if better.rank < worse.rank and better.text != worse.text:
            yield _identified(record.external_id) | {
                "prompt": _prompt(record.prompt),
                "chosen": _completion(record.prompt, better.text),
                "rejected": _completion(record.prompt, worse.text),
            }


def ranking_row(record: Ranking) -> Row:
    """The whole ranking, in a row of our own: TRL has none of more than two answers."""
    row = _identified(record.external_id) | {
        "prompt" if is_text(record.prompt) else "messages": _prompt(record.prompt),
        "answers": [_answer(answer) for answer in record.answers],
    }
    return row if record.demonstration is None else row | {"demonstration": record.demonstration}


def _identified(external_id: str | None) -> Row:
    return {} if external_id is None else {"id": external_id}


def _prompt(prompt: Sequence[Message]) -> Any:
    return prompt[0]["content"] if is_text(prompt) else [dict(each) for each in prompt]


def _completion(prompt: Sequence[Message], text: str) -> Any:
    return text if is_text(prompt) else [dict(message("assistant", text))]


def _answer(answer: Answer) -> Row:
    sourced = {} if answer.source is None else {"source": answer.source}
    return {"text": answer.text, **sourced, "rank": answer.rank}
