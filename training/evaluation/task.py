"""What a policy is to do in an evaluation, as token ids of its own: prompts, instructions, texts.

Owns which of the questions fit all three, both policies and the judge. Loads tokenizers and no weights. Invariant: both
policies get the same prompts and instructions in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from honed.models.chat import ChatTemplateError
from honed.models.policy import load_tokenizer
from honed.server.store.exchange.records import Message, message
from honed.training.data.datasets import Example
from honed.training.encoding import Encoder
from honed.training.evaluation.config import LEAST, EvaluationConfig
from honed.training.evaluation.instructions import INSTRUCTIONS, Instruction
from honed.training.evaluation.party import Member, Party
from honed.training.evaluation.questions import Questions
from honed.training.failures import TrainingError
from honed.training.groups import demonstrations
from honed.training.planning.estimates import read_shape
from honed.training.planning.preflight import vocabulary_digest
from honed.training.pretraining import text_tree
from honed.training.scoring import judge_encoder
from honed.training.texts import read_texts
from honed.training.trees import Tree

LEAST_INSTRUCTIONS: Final = 5
OTHER_TOKENS: Final = "The policies have different tokens."


@dataclass(frozen=True, slots=True)
class Task:
    """One policy's, as ids. `texts`: to measure the loss on; empty where there are none."""

    prompts: tuple[tuple[int, ...], ...]
    instructions: tuple[tuple[int, ...], ...]
    texts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Tasks:
    """What is asked, and as either policy reads it. `why_no_*`: a sentence where something cannot be measured.
    `too_long`: prompts that left no room. `same_tokens`: what one policy writes the other reads as it is."""

    prompts: tuple[Example, ...]
    instructions: tuple[Instruction, ...]
    candidate: Task
    incumbent: Task
    text_from: str | None
    why_no_loss: str
    why_no_instructions: str
    same_tokens: bool
    too_long: int


def set_tasks(config: EvaluationConfig, party: Party, questions: Questions) -> Tasks:
    """Raises TrainingError where too few prompts fit, and PolicyError for a tokenizer that cannot be read."""
    members = (party.candidate, party.incumbent)
    encoders = [_encoder(member, config) for member in members]
    prompts, ids, too_long = _prompts(questions, encoders, judge_encoder(party.judge.folder), config)
    instructions, asked, why_no_instructions = _instructions(encoders, config)
    same_tokens = len({vocabulary_digest(member.folder) for member in members}) == 1
    text_from, texts, why_no_loss = _texts(config, questions, encoders)
    if not same_tokens:
        text_from, texts, why_no_loss = None, [(), ()], OTHER_TOKENS
    ours, theirs = (Task(*each) for each in zip(ids, asked, texts, strict=True))
    return Tasks(
        prompts=tuple(prompts),
        instructions=tuple(instructions),
        candidate=ours,
        incumbent=theirs,
        text_from=text_from,
        why_no_loss=why_no_loss,
        why_no_instructions=why_no_instructions,
        same_tokens=same_tokens,
        too_long=too_long,
    )


def _encoder(member: Member, config: EvaluationConfig) -> Encoder:
    most = min(config.max_tokens, read_shape(member.folder).context_length)
    return Encoder(load_tokenizer(member.folder), most, most)


def _room(encoder: Encoder, ids: tuple[int, ...], config: EvaluationConfig) -> bool:
    return 0 < len(ids) <= encoder.max_tokens - config.max_new_tokens


def _prompts(
    questions: Questions, encoders: Sequence[Encoder], judge: Encoder, config: EvaluationConfig
) -> tuple[list[Example], list[tuple[tuple[int, ...], ...]], int]:
    """Those that fit, with the ids of each policy."""
    kept: dict[tuple[int, ...], tuple[Example, list[tuple[int, ...]]]] = {}
    too_long = 0
    for example in questions.prompts:
        if len(kept) == config.max_prompts:
            break
        prompt = example.record.prompt
        ids = [_rendered(encoder, prompt) for encoder in encoders]
        fits = all(_room(encoder, each, config) for encoder, each in zip(encoders, ids, strict=True))
        if not fits or judge.tree(prompt, ["."]) is None:
            too_long += 1
        else:
            kept.setdefault(ids[0], (example, ids))
    if len(kept) < LEAST:
        raise TrainingError(
            f"{len(kept)} of {len(questions.prompts)} held-out prompts can be asked, and an evaluation needs {LEAST}: "
            f"{too_long} leave no room for an answer, and --max-prompts is {config.max_prompts}. Raise that or "
            "--max-tokens, or lower --max-new-tokens."
        )
    by_policy = [tuple(ids[number] for _, ids in kept.values()) for number in range(len(encoders))]
    return [example for example, _ in kept.values()], by_policy, too_long


def _rendered(encoder: Encoder, prompt: Sequence[Message]) -> tuple[int, ...]:
    try:
        return encoder.prompt(prompt)
    except ChatTemplateError as error:
        raise TrainingError(str(error)) from error


def _instructions(
    encoders: Sequence[Encoder], config: EvaluationConfig
) -> tuple[list[Instruction], list[tuple[tuple[int, ...], ...]], str]:
    kept: list[tuple[Instruction, list[tuple[int, ...]]]] = []
    nothing: list[tuple[tuple[int, ...], ...]] = [(), ()]
    for instruction in INSTRUCTIONS:
        try:
            ids = [encoder.prompt([message("user", instruction.prompt)]) for encoder in encoders]
        except ChatTemplateError as error:
            return [], nothing, str(error)
        if all(_room(encoder, each, config) for encoder, each in zip(encoders, ids, strict=True)):
            kept.append((instruction, ids))
    if len(kept) < LEAST_INSTRUCTIONS:
        return [], nothing, f"{len(kept)} of {len(INSTRUCTIONS)} instructions leave room for an answer."
    by_policy = [tuple(ids[number] for _, ids in kept) for number in range(len(encoders))]
    return [instruction for instruction, _ in kept], by_policy, ""


def _texts(
    config: EvaluationConfig, questions: Questions, encoders: Sequence[Encoder]
) -> tuple[str | None, list[tuple[Tree, ...]], str]:
    """Where they are from, as either policy reads them, and why there are none."""
    if config.text is not None:
        texts = read_texts(Path(config.text))[: config.max_prompts]
        trees = [_cut(encoder, texts) for encoder in encoders]
        if not all(trees):
            raise TrainingError(f"{config.text} has no texts: give others with --text, or leave it out.")
        return Path(config.text).name, trees, ""
    found = questions.demonstrations[: config.max_prompts]
    trees = [tuple(demonstrations(found, encoder)) for encoder in encoders]
    if all(trees):
        return f"demonstrations of the {found[0].split} split", trees, ""
    return None, [(), ()], questions.why_none or "No held-out demonstration leaves room for its answer."


def _cut(encoder: Encoder, texts: Sequence[str]) -> tuple[Tree, ...]:
    """The beginning of each text; those of one token predict nothing."""
    ids = (tuple(encoder.tokenizer.encode(text))[: encoder.max_tokens] for text in texts)
    return tuple(text_tree(each) for each in ids if len(each) > 1)
