"""Which candidates are taken, and into which split: InstructGPT's rules (arXiv:2203.02155, section 3.2, appendix A).

Owns what is left out and why; the hashes are in `splits.py`. Two differences: judgements of the same prompt are all
kept, since each says something, and share its split; only prompts to be answered again are there once. And a prompt
that several users asked belongs to the one who asked it first: what was judged of another's is left out where that
user is in another split. Where a file to measure on is given, its prompts are held out, but for those that are trained
on. A judge (`DataConfig.judge`) learns from the test split alone, which it splits again.
Invariant: no prompt and no user is in two splits, and none is a judge's and any other run's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from honed.server.store.exchange.records import Demonstration, Ranking, Record, Thumb
from honed.training.configs import DataConfig, Stage
from honed.training.data.offers import Candidate, Offer
from honed.training.data.splits import STAGE_GROUPS, Split, assign, assign_judge, group_of, unit_of

# Why a candidate is left out.
DUPLICATE: Final = "duplicate"
OVER_LIMIT: Final = "over the limit of prompts a user"
OTHER_SPLIT: Final = "of a prompt that is another user's, in another split"
OTHER_STAGE: Final = "of a prompt that is another stage's"
TRAINED_ON: Final = "to measure on, of a prompt that is trained on"
NOT_JUDGES: Final = "of a prompt that is not the judge's"

Chosen: TypeAlias = list[tuple[Candidate, Split]]


def choose(offer: Offer, config: DataConfig, stage: Stage) -> Chosen:
    """The candidates that are taken, each with its split; the others are counted in `offer.left_out`."""
    left_out = offer.left_out
    candidates = _within_limit(_without_duplicates(offer.candidates, stage, left_out), config.max_per_user, left_out)
    owners = {each.prefix: unit_of(each.owner, each.prefix) for each in candidates}
    sizes = Counter(owners.values())
    units = {unit_of(each.user, each.prefix): 0 for each in candidates} | sizes
    how = units, config.test, config.validation, config.split_seed
    splits: Mapping[str, Split | None] = assign_judge(*how) if config.judge else assign(*how)
    chosen: Chosen = []
    for each in candidates:
        split = splits[owners[each.prefix]]
        if each.user is not None and splits[unit_of(each.user, each.prefix)] != split:
            left_out[OTHER_SPLIT] += 1
        elif split is None:
            left_out[NOT_JUDGES] += 1
        elif split == "train" and not _is_for(stage, each.prefix, config):
            left_out[OTHER_STAGE] += 1
        else:
            chosen.append((each, split))
    return chosen


def choose_given(offer: Offer, held_out: Offer, config: DataConfig, stage: Stage) -> Chosen:
    """All candidates of `offer` for training, and for validation those of `held_out` whose prompts are not among them:
    a number that is measured on what was learned says nothing. The others are counted in `offer.left_out`."""
    trained = choose(offer, config.model_copy(update={"validation": 0.0, "test": 0.0}), stage)
    prompts = {each.prefix for each, _ in trained}
    measured = _without_duplicates(held_out.candidates, stage, offer.left_out)
    kept = [each for each in measured if each.prefix not in prompts]
    if len(kept) < len(measured):
        offer.left_out[TRAINED_ON] += len(measured) - len(kept)
    return [*trained, *((each, "validation") for each in kept)]


def _without_duplicates(candidates: Sequence[Candidate], stage: Stage, left_out: Counter[str]) -> list[Candidate]:
    """Of prompts to be answered again, and of demonstrations, the first. Who judges answers as another did confirms
    them: rankings and thumbs all stay."""
    if stage not in ("ppo", "sft"):
        return list(candidates)
    seen: set[object] = set()
    kept = []
    for each in candidates:
        key = each.prefix if stage == "ppo" else json.dumps(said(each.record))
        if key in seen:
            left_out[DUPLICATE] += 1
        else:
            seen.add(key)
            kept.append(each)
    return kept


def _within_limit(candidates: Sequence[Candidate], most: int, left_out: Counter[str]) -> list[Candidate]:
    """Of a user's prompts those with the lowest keys, which is a random choice, and the same for all stages."""
    asked: dict[str, set[int]] = {}
    for each in candidates:
        if each.user is not None:
            asked.setdefault(each.user, set()).add(each.prefix)
    allowed = {user: set(sorted(prefixes)[:most]) for user, prefixes in asked.items()}
    kept = [each for each in candidates if each.user is None or each.prefix in allowed[each.user]]
    if len(kept) < len(candidates):
        left_out[OVER_LIMIT] += len(candidates) - len(kept)
    return kept


def _is_for(stage: Stage, prefix: int, config: DataConfig) -> bool:
    if config.judge or not config.disjoint:  # no other stage reads a judge's prompts
        return True
    return group_of(prefix, config.stage_shares, config.split_seed) == STAGE_GROUPS[stage]


def said(record: Record) -> list[Any]:
    """All that is learned from a record, and by whom its answers are."""
    prompt = [[each["role"], each["content"], each.get("name")] for each in record.prompt]
    if isinstance(record, Ranking):
        answers = [[answer.text, answer.rank, answer.source] for answer in record.answers]
        return ["ranking", prompt, answers, record.demonstration]
    if isinstance(record, Thumb):
        return ["thumb", prompt, record.answer, record.label]
    if isinstance(record, Demonstration):
        return ["demonstration", prompt, record.answer]
    return ["prompt", prompt]
