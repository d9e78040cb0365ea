"""The gate: is a candidate policy better than the incumbent?

Both answer prompts of users that nothing was trained on. A reward model that the candidate was not trained against
judges the answers, with their length taken out of it (promotion never goes by the score that was optimised: Gao et al.
2022, arXiv:2210.10760), and what a candidate may have lost on the way is measured beside that; then people are asked,
if they are to be. Owns the order of the work, the result's keys and its files; what is asked, counted and decided is in
`evaluation/`. Invariants: one model is in memory at a time; the same settings, data, machine and words of people give
the same result; its numbers are finite.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from sqlalchemy import Engine

from honed.models.policy import choose_device
from honed.models.sources import hub_name
from honed.server.store.exchange.files import write_rows
from honed.training.evaluation.answering import Said, Turn, take_turn
from honed.training.evaluation.config import DIGITS, EvaluationConfig
from honed.training.evaluation.external import Judge, Pair
from honed.training.evaluation.judging import judge
from honed.training.evaluation.measures import compared, external_win_rate, win_rates
from honed.training.evaluation.page import write_page
from honed.training.evaluation.party import Member, Party, gather
from honed.training.evaluation.people import ask
from honed.training.evaluation.questions import Questions, load_questions
from honed.training.evaluation.statistics import Duel, duel
from honed.training.evaluation.task import Task, Tasks, set_tasks
from honed.training.evaluation.verdict import decide, rules
from honed.training.failures import TrainingError
from honed.training.groups import texts_of
from honed.training.reports.findings import RUN_FILE
from honed.training.reports.report import REPORT_FILE

EVALUATION_FILE: Final = "evaluation.json"
__all__ = ["ANSWERS_FILE", "EVALUATION_FILE", "REPORT_FILE", "EvaluationConfig", "evaluate", "output_folder"]

ANSWERS_FILE: Final = "answers.jsonl"
_JUDGED: Final = ("text", "score")


def evaluate(config: EvaluationConfig, *, home: Path, engine: Engine | None, show: bool) -> dict[str, Any]:
    """Measures, decides, and writes `runs/OUTPUT/`: evaluation.json (what is returned), answers.jsonl and report.html.
    `show`: says on standard error what it is at.

    Raises TrainingError, SourceError, PolicyError and StoreError, each with a message that says what to do.
    """
    folder = output_folder(config, home)
    party = gather(config, home, engine)
    external = Judge(config.judge_url, str(config.judge_name), config.judge_key_env) if config.judge_url else None
    device = choose_device(config.device)
    questions = load_questions(config, party, engine)
    tasks = set_tasks(config, party, questions)
    count = len(tasks.prompts)

    def turn(policy: Member, task: Task, judged: Sequence[Sequence[Said]] | None) -> Turn:
        _say(f"{policy.name} answers {count} prompts and {len(task.instructions)} instructions", show=show)
        taken = take_turn(policy.folder, task, config, device, judged)
        _let_go()
        return taken

    ours = turn(party.candidate, tasks.candidate, None)
    theirs = turn(party.incumbent, tasks.incumbent, ours.answers if tasks.same_tokens else [])
    both = [[*some, *others] for some, others in zip(ours.answers, theirs.answers, strict=True)]
    _say(f"{party.judge.name} judges {2 * config.samples * count} answers", show=show)
    scores = judge(party.judge.folder, tasks.prompts, both, config, device)
    rows = list(_rows(tasks, ours, theirs, scores, config.samples))
    measured = win_rates([_duel(row) for row in rows], config.seed) | compared(ours, theirs, tasks)
    measured["external"] = None
    if external is not None:
        _say(f"{config.judge_name} judges {config.samples * count} pairs, in both orders", show=show)
        measured["external"] = _asked_outside(external, config, tasks, rows)
    result = _result(config, party, questions, tasks, _rounded(measured))
    if config.people and result["promote"] and engine is not None:
        result = ask(engine, result, tasks.prompts, rows)
    _write(folder, result, rows)
    return result


def output_folder(config: EvaluationConfig, home: Path) -> Path:
    """Raises TrainingError where a training run has it."""
    folder = home / "runs" / (config.output or f"{Path(config.candidate).name}-evaluation")
    if (folder / RUN_FILE).is_file():
        raise TrainingError(f"{folder.name} is a training run, which has a report of its own: name another --output.")
    return folder


def _result(
    config: EvaluationConfig, party: Party, questions: Questions, tasks: Tasks, measured: dict[str, Any]
) -> dict[str, Any]:
    promote, reasons = decide(rules(measured, config))
    return {
        "candidate": party.candidate.as_json(),
        "incumbent": party.incumbent.as_json(),
        "judge": party.judge.as_json(),
        "promote": promote,
        "reasons": reasons,
        **measured,
        "people": None,
        "data": {
            "id": questions.dataset.id,
            "prompts": len(tasks.prompts),
            "trained_on": questions.seen,
            "too_long": tasks.too_long,
            "not_looked_at": list(questions.unknown),
        },
        "settings": _settings(config),
    }


def _settings(config: EvaluationConfig) -> dict[str, Any]:
    """Those that anyone may read: models by their names, not by where they lie, and nothing of the second judge's
    server."""
    names = {name: getattr(config, name) for name in ("candidate", "incumbent", "judge_model")}
    own = config.model_dump(mode="json", exclude={"judge_url", "judge_key_env"})
    return own | {name: hub_name(given) or Path(given).name for name, given in names.items()}


def _rows(
    tasks: Tasks, ours: Turn, theirs: Turn, scores: Sequence[Sequence[float]], samples: int
) -> Iterator[dict[str, Any]]:
    """What answers.jsonl has: a row a prompt."""
    for example, some, others, judged in zip(tasks.prompts, ours.answers, theirs.answers, scores, strict=True):
        row: dict[str, Any] = {
            "prompt": texts_of(example.record.prompt),
            "candidate": _answers(some, judged[:samples]),
            "incumbent": _answers(others, judged[samples:]),
        }
        row["share"] = round(_duel(row).share, DIGITS)
        yield row


def _answers(said: Sequence[Said], scores: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"text": each.text, "score": round(score, DIGITS), "tokens": len(each.ids), "ended": each.ended}
        for each, score in zip(said, scores, strict=True)
    ]


def _duel(row: dict[str, Any]) -> Duel:
    texts, scores = ([[each[key] for each in row[side]] for side in ("candidate", "incumbent")] for key in _JUDGED)
    return duel(*texts, *scores)


def _asked_outside(external: Judge, config: EvaluationConfig, tasks: Tasks, rows: Sequence[Any]) -> dict[str, Any]:
    """Each of the candidate's answers against one of the incumbent's."""
    pairs = [
        Pair(example.record.prompt, one["text"], other["text"])
        for example, row in zip(tasks.prompts, rows, strict=True)
        for one, other in zip(row["candidate"], row["incumbent"], strict=True)
    ]
    rate = external_win_rate(external.compare(pairs), config.samples, config.seed)
    return rate | {"model": config.judge_name}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, DIGITS) if isinstance(value, float) else value


def _write(folder: Path, result: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # it has what users asked
    write_rows(folder / ANSWERS_FILE, rows)
    write_page(folder, result, rows)
    partial = folder / f".{EVALUATION_FILE}.partial"
    partial.write_text(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(folder / EVALUATION_FILE)


def _let_go() -> None:
    """Models hold themselves in cycles: what is not collected would be beside the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _say(text: str, *, show: bool) -> None:
    if show:
        print(text, file=sys.stderr, flush=True)
