"""Rankings and thumbs -> the tokenized rows of TRL's trainers for DPO and KTO.

Owns which pairs a ranking has, and what KTO needs beside its thumbs: weights and mixed pairs. Invariant: prompts and
answers have the ids that the server would compute (`encoding.py`); TRL's own rendering would put the newline that many
templates have after an answer behind its end, and take the boundary of prompt and answer where their tokens part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from honed.server.store.exchange.records import Ranking, Thumb
from honed.training.configs import DPOConfig, KTOConfig
from honed.training.encoding import Encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from honed.training.data.datasets import Example

Row: TypeAlias = dict[str, Any]  # prompt_ids; chosen_ids and rejected_ids, or completion_ids and label

_BALANCE: Final = (1.0, 4 / 3)  # KTO, equation 8: good thumbs to bad ones, each times its weight


def rows_of(
    config: DPOConfig | KTOConfig, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, limit: int
) -> list[Row]:
    """What a stage trains on of these, a prompt and an answer of up to `limit` tokens together."""
    encoder = Encoder(tokenizer, max_tokens=limit, answer_tokens=limit)
    records = [example.record for example in examples]
    if isinstance(config, DPOConfig):
        return [row for record in records if isinstance(record, Ranking) for row in pairs(record, encoder)]
    return [row for record in records if isinstance(record, Thumb) for row in thumbs(record, encoder)]


def pairs(record: Ranking, encoder: Encoder) -> Iterator[Row]:
    """TRL's tokenized preferences of a ranking: every pair of answers of which one is better.

    Left out are ties, pairs of which nothing different fits into the limit, and all where the prompt alone fills it.
    """
    ranked = sorted(record.answers, key=lambda answer: answer.rank)
    tree = encoder.tree(record.prompt, [answer.text for answer in ranked])
    if tree is None:
        return
    for (better, chosen), (worse, rejected) in combinations(zip(ranked, tree.answers, strict=True), 2):
        if better.rank < worse.rank and chosen != rejected:
            yield {"prompt_ids": list(tree.prompt), "chosen_ids": list(chosen), "rejected_ids": list(rejected)}


def thumbs(record: Thumb, encoder: Encoder) -> Iterator[Row]:
    """TRL's tokenized answer with a label; none where the prompt alone fills the limit."""
    tree = encoder.tree(record.prompt, [record.answer])
    if tree is not None:
        yield {"prompt_ids": list(tree.prompt), "completion_ids": list(tree.answers[0]), "label": record.label}


def padded_tokens(row: Row) -> int:
    """What a row takes of a pass in which it is the longest; TRL pads both answers of a pair to the same length."""
    if "label" in row:
        return len(row["prompt_ids"]) + len(row["completion_ids"])
    return 2 * (len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])))


def balanced_weights(rows: list[Row]) -> dict[str, float]:
    """The rarer label weighs more, as little more as brings the balance into the range of KTO's equation 8."""
    good = sum(row["label"] for row in rows)
    balance = good / (len(rows) - good)
    low, high = _BALANCE
    return {"desirable_weight": max(1.0, low / balance), "undesirable_weight": max(1.0, balance / high)}


def with_other_answers(rows: list[Row], size: int) -> Iterator[Row]:
    """Each thumb with the answer of another of its pass, from which KTO estimates the divergence."""
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        before = some[-1] if len(some) > 1 else rows[start - 1]
        for row in some:
            yield row | {"KL_completion_ids": before["completion_ids"]}
            before = row
