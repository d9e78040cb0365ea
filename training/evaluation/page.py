"""report.html of an evaluation: the verdict, what it goes by, and the answers to be looked at.

Owns what is in it and in which order; the HTML and the plot are those of `reports/`. Invariant: the same result and
answers make the same bytes, and a report is there whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from honed.training.reports import page, plots
from honed.training.reports.numbers import number, percent, said
from honed.training.reports.report import REPORT_FILE

_OPEN, _MOST = 6, 40  # samples
_MOST_CHARS: Final = 3000
_NOT_MEASURED: Final = "not measured"
_VERDICTS: Final = {True: ("passed", ""), False: ("refused", ""), None: ("open", " before people have judged it")}
_HEADS: Final = ("measure", "candidate", "incumbent", "difference or interval", "limit")


def write_page(folder: Path, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
    """`rows`: of answers.jsonl."""
    names = f"{result['candidate']['name']} against {result['incumbent']['name']}"
    verdict, rest = _VERDICTS[result["promote"]]
    parts = [
        page.masthead(
            f"The gate · {names}",
            verdict,
            f"{result['candidate']['name']} is {'' if result['promote'] else 'not '}to be promoted{rest}",
            f"judged by {result['judge']['name']} on {number(result['data']['prompts'])} held-out prompts",
        ),
        "".join(page.paragraph(reason) for reason in result["reasons"]),
        page.section("What was measured", page.table(_HEADS, _measures(result)) + _not_measured(result)),
        page.section("How much better, prompt by prompt", page.figures([_histogram(rows)])),
        _samples(result, rows),
        page.section("Settings and data", page.table(("", ""), _settings(result))),
    ]
    partial = folder / f".{REPORT_FILE}.partial"
    partial.write_text(page.document(f"{names}: evaluation", "\n".join(parts)), encoding="utf-8")
    return partial.replace(folder / REPORT_FILE)


def _measures(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    limits = result["settings"]
    over = f"low over {percent(limits['min_win_rate'])}"
    yield "win rate, ties a half", percent(result["win_rate"]["mean"]), "", _between(result["win_rate"]), ""
    controlled = result["length_controlled"]
    yield "win rate at equal lengths", percent(controlled["mean"]), "", _between(controlled), over
    if (outside := result["external"]) is not None:
        note = f"{_between(outside)}, {number(outside['unusable'])} replies unusable"
        yield f"win rate by {outside['model']}", percent(outside["mean"]), "", note, over
    if (people := result["people"]) is not None:
        if "mean" in people:
            yield "win rate by people", percent(people["mean"]), "", _between(people), over
        else:
            yield "win rate by people", "", "", f"{number(people['waiting'])} prompts wait for labelers", over
    loss, kl, lengths = result["loss"], result["kl"], result["lengths"]
    label = f"loss on {loss.get('of', 'held-out text')}, nats a token"
    yield _row(label, loss, "rise", number, limits["max_loss_rise"])
    yield _row("answers that refuse", result["refusals"], "rise", percent, limits["max_refusal_rise"])
    yield _row("phrases that repeat", result["repetition"], "rise", percent, limits["max_repetition_rise"])
    yield _row(
        "instructions followed", result["instructions"], "difference", percent, limits["max_instruction_drop"], "−"
    )
    far = _NOT_MEASURED if kl["mean"] is None else f"± {number(1.96 * kl['standard_error'])}"
    yield "KL from the incumbent, nats an answer", number(kl["mean"]), "", far, number(limits["max_kl"])
    for key, say in (("characters", number), ("tokens", number), ("ended", percent)):
        label = "answers that ended by themselves" if key == "ended" else f"{key} an answer"
        ours, theirs = lengths["candidate"][key], lengths["incumbent"][key]
        ratio = f"{number(lengths['ratio'])} times" if key == "characters" and lengths["ratio"] is not None else ""
        most = f"{number(limits['max_length_ratio'])} times" if key == "characters" and ratio else ""
        yield label, say(ours), say(theirs), ratio, most if limits["max_length_ratio"] is not None else ""


def _row(
    label: str, measured: Mapping[str, Any], key: str, say: Any, limit: float, sign: str = "+"
) -> tuple[str, str, str, str, str]:
    change = measured[key]
    moved = _NOT_MEASURED if change is None else ("+" if change > 0 else "") + say(change)
    return label, say(measured["candidate"]), say(measured["incumbent"]), moved, f"{sign}{say(limit)}"


def _not_measured(result: Mapping[str, Any]) -> str:
    """Why not, of what was not."""
    reasons = (f"{key}: {result[key]['reason']}" for key in ("loss", "instructions", "kl") if "reason" in result[key])
    return "".join(page.paragraph(f"Not measured: {reason}") for reason in reasons)


def _between(rate: Mapping[str, float]) -> str:
    return f"{percent(rate['low'])} to {percent(rate['high'])}"


def _histogram(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    title = "Difference of the scores"
    differences = [_mean_score(row["candidate"]) - _mean_score(row["incumbent"]) for row in rows]
    svg = plots.histogram("differences", title, differences, x_label="candidate less incumbent", unit="prompts")
    return title, "Of the mean scores of a prompt's answers. To the right of the line the candidate is better.", svg


def _mean_score(answers: Sequence[Mapping[str, Any]]) -> float:
    return fmean(each["score"] for each in answers)


def _samples(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The first answers of each, in the order in which prompts were drawn: nobody chose them."""
    shown = [_sample(result, row) for row in rows[:_MOST]]
    markup = "".join(shown[:_OPEN])
    if rest := shown[_OPEN:]:
        markup += page.details(f"{len(rest)} more", "".join(rest))
    if (left := len(rows) - len(shown)) > 0:
        markup += page.paragraph(f"{number(left)} more are in answers.jsonl.")
    return page.section("The same prompts to both", markup)


def _sample(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    ours, theirs = row["candidate"][0], row["incumbent"][0]
    change = ours["score"] - theirs["score"]
    sides = [
        page.side(result[who]["name"], _cut(each["text"]), f"score {said('score', each['score'])}", change=way)
        for who, each, way in (("incumbent", theirs, 0.0), ("candidate", ours, change))
    ]
    return page.sample(_cut(row["prompt"]), *sides)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}…"


def _settings(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in result["data"].items():
        yield name.replace("_", " "), _json(value)
    for name, value in result["settings"].items():
        if value is not None:
            yield name, _json(value)


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
