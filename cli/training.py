"""`honed train sft|reward|ppo|dpo|kto|all`: training runs, with an option for every field of their settings.

Owns how a run is asked for and what is said of it. What the options are is in `training/configs.py`; the runs are in
`training/runs.py`. Invariants: the commands are built when they are asked for, so that no other command waits for
them; nothing heavy is imported before the options are known to be good; under torchrun the first rank speaks for all,
and another one only of what it alone met with.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from honed.cli.failure import fail
from honed.cli.options import parameters, validated
from honed.cli.store import DatabaseUrl, opened

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from honed.training.configs import DataConfig, RunConfig, Stage

ALL = "all"
CIRCLE: tuple[Stage, ...] = ("sft", "reward", "ppo")  # what `all` runs, in this order

# Of RunConfig, what a whole circle has once; every other setting is each stage's own.
_ONCE = (
    "model", "output", "resume", "seed", "dtype", "device", "sharding", "lora", "lora_rank", "lora_alpha",
    "tokens_per_pass",
)  # fmt: skip
_MADE_BY_ALL = ("reward_model",)  # each stage gets what the one before made

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would read, take and write, and end.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="Show no progress; print nothing but the new checkpoint's folder.")
]


class _Stages(TyperGroup):
    """Builds a command the first time that it is asked for: their options need pydantic, which is slow to import."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  typer's signature
        from honed.training.configs import STAGES

        return [*STAGES, ALL]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in self.list_commands(ctx):
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(cmd_name)(_all() if cmd_name == ALL else _single(cmd_name))
            self.commands[cmd_name] = typer.main.get_command(single)
        return super().get_command(ctx, cmd_name)


train = typer.Typer(cls=_Stages, no_args_is_help=True, help="Train a better checkpoint on what the store holds.")


@train.callback()
def _train() -> None:
    """Train a better checkpoint on what the store or a file holds: one stage, or all of InstructGPT's."""


def _single(stage: Any) -> Callable[..., None]:
    """The function of one stage's command."""
    from honed.training.configs import CONFIGS, DataConfig, RunConfig

    model = CONFIGS[stage]

    def command(*, dry_run: bool, database_url: str | None, quiet: bool, **given: Any) -> None:
        _run({stage: validated(model, given)}, dry_run=dry_run, database_url=database_url, quiet=quiet)

    own = [name for name in model.model_fields if name not in RunConfig.model_fields]
    common = [name for name in RunConfig.model_fields if name not in DataConfig.model_fields]
    return _signed(
        command,
        inspect.cleandoc(model.__doc__ or ""),
        [
            *parameters(model, DataConfig.model_fields, panel="Data"),
            *parameters(model, own, panel="This stage"),
            *parameters(model, common, panel="Model and run"),
        ],
    )


def _all() -> Callable[..., None]:
    """The function of `honed train all`."""
    from honed.training.configs import CONFIGS, DataConfig, RunConfig

    once = [*DataConfig.model_fields, *_ONCE]
    own = {stage: _own_fields(CONFIGS[stage], once) for stage in CIRCLE}

    def command(*, dry_run: bool, database_url: str | None, quiet: bool, **given: Any) -> None:
        configs = {stage: _part(stage, CONFIGS[stage], given, once, own[stage]) for stage in CIRCLE}
        _run(configs, dry_run=dry_run, database_url=database_url, quiet=quiet)

    shared = [
        *parameters(RunConfig, DataConfig.model_fields, panel="Data"),
        *parameters(RunConfig, _ONCE, panel="Model and run"),
    ]
    shared = [each.replace(default=True) if each.name == "disjoint" else each for each in shared]
    for stage in CIRCLE:
        shared += parameters(CONFIGS[stage], own[stage], prefix=stage, panel=f"Stage {stage}")
    return _signed(
        command,
        "SFT, then a reward model, then PPO from the one against the other: InstructGPT's three steps.\n\n"
        "With --output NAME the checkpoints are NAME-sft, NAME-reward and NAME-ppo.",
        shared,
    )


def _own_fields(model: type[RunConfig], once: Iterable[str]) -> list[str]:
    return [name for name in model.model_fields if name not in (*once, *_MADE_BY_ALL)]


def _part(
    stage: Stage, model: type[RunConfig], given: Mapping[str, Any], once: Iterable[str], own: Iterable[str]
) -> RunConfig:
    """The settings of one stage, of what was typed for `all`."""
    values = {name: given[name] for name in once} | {name: given[f"{stage}_{name}"] for name in own}
    if values["output"] is not None:
        values["output"] = f"{values['output']}-{stage}"
    return validated(model, values, prefix=stage, prefixed=own)


def _signed(command: Callable[..., None], doc: str, options: list[inspect.Parameter]) -> Callable[..., None]:
    """`command` as typer has to see it: with these options and those of all commands here."""
    last = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (
            ("dry_run", False, DryRun),
            ("database_url", None, DatabaseUrl),
            ("quiet", False, Quiet),
        )
    ]
    command.__doc__ = doc
    command.__signature__ = inspect.Signature([*options, *last])  # type: ignore[attr-defined]  # functions may have one
    return command


def _run(configs: Mapping[Stage, RunConfig], *, dry_run: bool, database_url: str | None, quiet: bool) -> None:
    from honed.models.sources import honed_home
    from honed.training.planning.preflight import require_extra

    with explained():
        for config in configs.values():
            require_extra(config)
        home = honed_home()
        with store_for(configs.values(), database_url, home) as engine, loading_explained():
            lines = _rehearsed(configs, home, engine) if dry_run else _trained(configs, home, engine, quiet=quiet)
    if _is_first_rank():
        for line in lines:
            print(line)


def _rehearsed(configs: Mapping[Stage, RunConfig], home: Path, engine: Engine | None) -> list[str]:
    from honed.training.planning.dry_run import rehearse

    return rehearse(configs, home=home, engine=engine)


def _trained(configs: Mapping[Stage, RunConfig], home: Path, engine: Engine | None, *, quiet: bool) -> list[str]:
    from honed.training import runs

    show = _is_first_rank() and not quiet
    if len(configs) == 1:
        results = [runs.run(config, home=home, engine=engine, show=show) for config in configs.values()]
    else:
        results = runs.run_all(dict(configs), home=home, engine=engine, show=show)
    return [str(each.folder) for each in results] if quiet else [line for each in results for line in each.lines]


@contextmanager
def store_for(configs: Iterable[DataConfig], database_url: str | None, home: Path) -> Iterator[Engine | None]:
    """The store, where there is one: it notes new checkpoints too. None is made to read nothing from it. Of several
    ranks only the first has it."""
    from honed.server.store.database import StoreError
    from honed.server.store.database import database_url as url_of

    if not _is_first_rank():
        yield None
        return
    url = url_of(database_url, home)
    if url.drivername == "sqlite" and not Path(url.database or "").is_file():
        if any(_reads_store(config.data) for config in configs):
            raise StoreError(
                f"There is no store in {url.database}: serve a model or `honed import` data, name another with "
                "--database-url, or train on a file with --data FILE."
            )
        yield None
        return
    with opened(database_url) as engine:
        yield engine


def _reads_store(data: str) -> bool:
    """`store` or a snapshot's id; anything else is a file."""
    return data == "store" or re.fullmatch(r"data-[0-9a-f]{12}", data) is not None


@contextmanager
def explained() -> Iterator[None]:
    """What ends a command that trains or scores, as one line; what all ranks raise, only the first one says."""
    from honed.models.sources import SourceError
    from honed.server.store.database import StoreError
    from honed.server.store.exchange.files import FileError
    from honed.training.failures import TrainingError, is_said_by_first

    try:
        yield
    except (TrainingError, SourceError, StoreError, FileError) as error:
        if is_said_by_first(error):
            raise typer.Exit(1) from None
        raise fail(str(error) if _is_first_rank() else f"rank {os.environ['RANK']}: {error}") from None


@contextmanager
def loading_explained() -> Iterator[None]:
    """The same for what models refuse. Apart from `explained`, since naming their error imports torch. Transformers'
    own bars and tables stay out of sight: a run says itself what is worth knowing."""
    from transformers.utils import logging

    from honed.models.engine.runner import UnsupportedArchitectureError
    from honed.models.policy import PolicyError
    from honed.training.failures import TrainingError

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    except (PolicyError, UnsupportedArchitectureError) as error:
        raise TrainingError(str(error)) from error


def _is_first_rank() -> bool:
    """torchrun starts a process a rank and tells each which it is."""
    return os.environ.get("RANK", "0") == "0"
