"""`honed evaluate`: the gate, with an option for every field of its settings.

Owns how it is asked for and what is said of its verdict; what is measured is `training/evaluate.py`'s. Invariants: the
options are built when they are asked for, so that no other command waits for them; the exit status tells a verdict from
an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import typer.main
from typer.core import TyperCommand

from honed.cli.options import parameters, validated
from honed.cli.store import DatabaseUrl
from honed.cli.training import explained, loading_explained, store_for

if TYPE_CHECKING:
    from honed.training.evaluation.config import EvaluationConfig

NOT_BETTER, NOT_DECIDED = 3, 4  # exit statuses; 2 is that of what was typed wrong

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


class Evaluate(TyperCommand):
    """A command whose options are those of another, which is built the first time that they are asked for: they need
    pydantic, which is slow to import."""

    @cached_property
    def _built(self) -> Any:
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(self.name)(_command())
        return typer.main.get_command(single)

    @property
    def params(self) -> Any:
        return self._built.params

    @params.setter
    def params(self, _: Any) -> None:
        """The function below has none."""

    def invoke(self, ctx: Any) -> Any:
        return self._built.invoke(ctx)


def evaluate() -> None:
    """Is a candidate better than the policy in service? Exit status 0: yes; 3: no; 4: labelers are asked; 1: error."""


def _command() -> Any:
    from honed.training.configs import DataConfig
    from honed.training.evaluation.config import EvaluationConfig

    def command(*, database_url: str | None, quiet: bool, **given: Any) -> None:
        _evaluate(validated(EvaluationConfig, given), database_url, quiet=quiet)

    data = [name for name in DataConfig.model_fields if name != "judge"]
    own = [name for name in EvaluationConfig.model_fields if name not in DataConfig.model_fields]
    limits = [name for name in own if name.startswith(("min_", "max_")) and name not in _SIZES]
    last = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (("database_url", None, DatabaseUrl), ("quiet", False, Quiet))
    ]
    command.__doc__ = evaluate.__doc__
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # functions may have one
        [
            *parameters(EvaluationConfig, [name for name in own if name not in limits], panel="Who and how"),
            *parameters(EvaluationConfig, limits, panel="What it takes"),
            *parameters(EvaluationConfig, data, panel="Data"),
            *last,
        ]
    )
    return command


_SIZES: Final = ("max_prompts", "max_new_tokens", "max_tokens")


def _evaluate(config: EvaluationConfig, database_url: str | None, *, quiet: bool) -> None:
    from honed.models.sources import honed_home

    with explained():
        home = honed_home()
        with store_for([config], database_url, home) as engine, loading_explained():
            from honed.training.evaluate import REPORT_FILE, evaluate, output_folder

            result = evaluate(config, home=home, engine=engine, show=not quiet)
            report = output_folder(config, home) / REPORT_FILE
    for line in verdict_lines(result, report):
        print(line)
    if not result["promote"]:
        raise typer.Exit(NOT_DECIDED if result["promote"] is None else NOT_BETTER)


_VERDICTS: Final = {
    True: "is better than",
    False: "is not to take the place of",
    None: "waits for labelers, by all else it is better than",
}


def verdict_lines(result: Mapping[str, Any], report: Path) -> list[str]:
    """The verdict, why, and the main numbers."""
    from honed.training.reports.numbers import number, percent

    def between(rate: Mapping[str, Any]) -> str:
        return f"{percent(rate['mean'])}  (95 % interval {percent(rate['low'])} to {percent(rate['high'])})"

    def said(people: Mapping[str, Any]) -> str:
        return f"{number(people['judged'])} prompts judged, {number(people['waiting'])} wait for labelers"

    def change(measured: Mapping[str, Any], say: Any) -> str:
        if measured["candidate"] is None:
            return f"not measured: {measured['reason']}"
        return f"{say(measured['incumbent'])} -> {say(measured['candidate'])}"

    kl, people = result["kl"]["mean"], result["people"]
    rows = [
        ("Win rate", between(result["win_rate"])),
        ("At equal lengths", between(result["length_controlled"])),
        *([(f"By {result['external']['model']}", between(result["external"]))] if result["external"] else []),
        *([("By people", between(people) if "mean" in people else said(people))] if people else []),
        ("KL", "not measured" if kl is None else f"{number(kl)} nats an answer"),
        ("Loss", change(result["loss"], number)),
        ("Refusals", change(result["refusals"], percent)),
        ("Repetition", change(result["repetition"], percent)),
        ("Instructions", change(result["instructions"], percent)),
        ("Prompts", number(result["data"]["prompts"])),
        ("Report", str(report)),
    ]
    better = _VERDICTS[result["promote"]]
    width = max(len(label) for label, _ in rows)
    return [
        f"{result['candidate']['name']} {better} {result['incumbent']['name']}.",
        *(f"  {reason}." for reason in result["reasons"]),
        *(f"  {label:{width}}  {value}" for label, value in rows),
    ]
