"""Both policies' turns -> the numbers of the result, by its keys.

Owns what is counted over what: win rates by prompt, shares over all answers. Invariant: every number is finite, or None
with a `reason` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from honed.training.evaluation.answering import Said, Turn
from honed.training.evaluation.external import Outcome
from honed.training.evaluation.instructions import Instruction
from honed.training.evaluation.statistics import Duel, length_controlled, rate_of
from honed.training.evaluation.task import OTHER_TOKENS, Tasks
from honed.training.evaluation.wording import is_refusal, repetition


def win_rates(duels: Sequence[Duel], seed: int) -> dict[str, Any]:
    """`win_rate` and `length_controlled`."""
    shares = [each.share for each in duels]
    return {
        "win_rate": rate_of(shares, seed),
        "length_controlled": asdict(length_controlled(duels, seed)),
    }


def external_win_rate(outcomes: Sequence[Outcome], samples: int, seed: int) -> dict[str, Any]:
    """`samples` outcomes a prompt, in the order of the prompts."""
    by_prompt = [outcomes[start : start + samples] for start in range(0, len(outcomes), samples)]
    shares = [fmean(each.won for each in some) for some in by_prompt]
    unusable = sum(each.unusable for each in outcomes)
    return rate_of(shares, seed) | {"unusable": unusable}


def compared(candidate: Turn, incumbent: Turn, tasks: Tasks) -> dict[str, Any]:
    """`kl`, `loss`, `refusals`, `repetition`, `instructions` and `lengths`."""
    return {
        "kl": _kl(candidate, incumbent, tasks),
        "loss": _loss(candidate, incumbent, tasks),
        "refusals": _shares(candidate, incumbent, lambda each: float(is_refusal(each.text))),
        "repetition": _shares(candidate, incumbent, lambda each: repetition(each.ids)),
        "instructions": _instructions(candidate, incumbent, tasks),
        "lengths": _lengths(candidate, incumbent),
    }


def _kl(candidate: Turn, incumbent: Turn, tasks: Tasks) -> dict[str, Any]:
    """Of the candidate to the incumbent on the candidate's answers, k1 an answer. The standard error is by prompt."""
    if not tasks.same_tokens:
        return {"mean": None, "standard_error": None, "reason": OTHER_TOKENS}
    by_prompt = [
        fmean(ours - theirs for ours, theirs in zip(some, others, strict=True))
        for some, others in zip(candidate.logprobs, incumbent.logprobs, strict=True)
    ]
    return {"mean": fmean(by_prompt), "standard_error": stdev(by_prompt) / math.sqrt(len(by_prompt))}


def _loss(candidate: Turn, incumbent: Turn, tasks: Tasks) -> dict[str, Any]:
    ours, theirs = candidate.loss, incumbent.loss
    if ours is None or theirs is None:
        return {"candidate": None, "incumbent": None, "rise": None, "reason": tasks.why_no_loss}
    return {"candidate": ours, "incumbent": theirs, "rise": ours - theirs, "of": tasks.text_from}


def _shares(candidate: Turn, incumbent: Turn, share: Callable[[Said], float]) -> dict[str, float]:
    ours, theirs = (fmean(share(each) for some in turn.answers for each in some) for turn in (candidate, incumbent))
    return {"candidate": ours, "incumbent": theirs, "rise": ours - theirs}


def _instructions(candidate: Turn, incumbent: Turn, tasks: Tasks) -> dict[str, Any]:
    """The standard error is of the difference, paired by instruction."""
    asked = tasks.instructions
    if not asked:
        nothing = dict.fromkeys(("candidate", "incumbent", "difference", "standard_error"))
        return {**nothing, "reason": tasks.why_no_instructions}
    ours, theirs = (_followed(asked, turn) for turn in (candidate, incumbent))
    differences = [x - y for x, y in zip(ours, theirs, strict=True)]
    return {
        "candidate": fmean(ours),
        "incumbent": fmean(theirs),
        "difference": fmean(differences),
        "standard_error": stdev(differences) / math.sqrt(len(differences)),
        "asked": len(asked),
        "worse": [each.name for each, change in zip(asked, differences, strict=True) if change < 0],
        "better": [each.name for each, change in zip(asked, differences, strict=True) if change > 0],
    }


def _followed(asked: Sequence[Instruction], turn: Turn) -> list[float]:
    """Of each instruction, the share of the answers that follow it."""
    return [
        fmean(each.is_followed(answer.text) for answer in some) for each, some in zip(asked, turn.followed, strict=True)
    ]


def _lengths(candidate: Turn, incumbent: Turn) -> dict[str, Any]:
    """`ratio`: of the characters; None where the incumbent's answers have none."""
    ours, theirs = _length(candidate), _length(incumbent)
    ratio = ours["characters"] / theirs["characters"] if theirs["characters"] else None
    return {"candidate": ours, "incumbent": theirs, "ratio": ratio}


def _length(turn: Turn) -> dict[str, float]:
    """Means over the answers."""
    answers = [each for some in turn.answers for each in some]
    return {
        "characters": fmean(len(each.text) for each in answers),
        "tokens": fmean(len(each.ids) for each in answers),
        "ended": fmean(each.ended for each in answers),
    }
