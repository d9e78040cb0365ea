"""`honed bench URL`: measures any OpenAI-compatible endpoint under closed-loop load.

Owns the options, the table and the JSON; the load and its arithmetic are in load.py. Invariant: standard
output holds nothing but JSON lines, and only under `--json -`; the table and the progress go to standard
error.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from honed.clients.endpoint import EndpointError, list_models, open_client, printable
from honed.clients.load import Level, Load, Report, report, run

_INTERRUPTED = 130  # 128 + SIGINT, as shells count it
_LEVELS = "1,4,16"
# Narrow enough for 80 columns; the JSON holds the rest.
_COLUMNS = {
    "concurrency": "clients",
    "errors": "errors",
    "output_tokens_per_s": "output\ntok/s",
    "total_tokens_per_s": "total\ntok/s",
    "requests_per_s": "req/s",
    "ttft_p50_ms": "TTFT\np50 ms",
    "ttft_p99_ms": "TTFT\np99 ms",
    "itl_p50_ms": "ITL\np50 ms",
    "itl_p99_ms": "ITL\np99 ms",
    "mean_output_tokens": "mean\ntokens",
}


def bench(
    url: Annotated[str, typer.Argument(help="The endpoint, with or without /v1.")],
    model: Annotated[str | None, typer.Option(help="Model id.", show_default="the first of /v1/models")] = None,
    concurrency: Annotated[
        list[str] | None,
        typer.Option(help="Clients at once: a number, a list, repeatable.", show_default=_LEVELS),
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests a level; one a client at least.")] = 32,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    prompt_words: Annotated[int, typer.Option(min=1, help="Words of a prompt's own.")] = 40,
    shared_prefix: Annotated[int, typer.Option(min=0, help="Words that all prompts begin with.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    ignore_eos: Annotated[bool, typer.Option(help="Ask for max-tokens always; not every peer can.")] = False,
    api_key: Annotated[str | None, typer.Option(envvar="HONED_API_KEY", help="Bearer key.")] = None,
    warmup: Annotated[int, typer.Option(min=1, help="Requests before each level that do not count.")] = 1,
    seed: Annotated[int, typer.Option(help="Chooses the words of the prompts.")] = 0,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="A JSON line a level; - is standard output.")
    ] = None,
) -> None:
    """Measure an OpenAI-compatible endpoint: tokens/s and waiting times at each level of concurrency."""
    console = Console(stderr=True)
    levels = _levels(concurrency or [_LEVELS])
    reports: list[Report] = []
    try:
        load = Load(
            url=url,
            model=model or _first_model(url, api_key),
            api_key=api_key,
            requests=requests,
            warmup=warmup,
            max_tokens=max_tokens,
            prompt_words=prompt_words,
            shared_prefix_words=shared_prefix,
            temperature=temperature,
            ignore_eos=ignore_eos,
            seed=seed,
        )
        with _json_lines(json_file) as file:
            interrupted = _measure(load, levels, reports, file, console)
    except (EndpointError, OSError) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    console.print(_table(load.model, reports))
    for message in dict.fromkeys(one.first_error for one in reports if one.first_error):
        console.print(printable(message), style="red", markup=False, highlight=False, soft_wrap=True)
    if interrupted:
        console.print("interrupted: requests that were still running are in no number", style="dim")
        raise typer.Exit(_INTERRUPTED)
    if any(one.errors for one in reports):
        raise typer.Exit(1)


def _measure(load: Load, levels: list[int], reports: list[Report], file: TextIO | None, console: Console) -> bool:
    """Runs level after level into `reports`; True where Ctrl-C ended it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for concurrency in levels:
            task = progress.add_task(f"{concurrency} at once", total=max(load.requests, concurrency))
            level = Level(concurrency, on_outcome=partial(progress.advance, task))
            interrupted = False
            try:
                asyncio.run(run(load, level))
            except KeyboardInterrupt:
                interrupted = True
            progress.remove_task(task)
            if level.outcomes:
                reports.append(report(load.model, level))
                if file:
                    print(json.dumps(asdict(reports[-1]), ensure_ascii=False), file=file, flush=True)
            if interrupted:
                return True
    return False


def _levels(given: list[str]) -> list[int]:
    try:
        levels = [int(number) for text in given for number in text.split(",")]
    except ValueError:
        levels = []
    if not levels or min(levels) < 1:
        raise typer.BadParameter(
            f"{','.join(given)!r} is no list of numbers from 1 on, such as {_LEVELS}",
            param_hint="--concurrency",
        )
    return levels


def _first_model(url: str, api_key: str | None) -> str:
    with open_client(url, api_key) as client:
        return list_models(client)[0]


@contextmanager
def _json_lines(name: str | None) -> Iterator[TextIO | None]:
    if name is None:
        yield None
    elif name == "-":
        yield sys.stdout
    else:
        with Path(name).open("w", encoding="utf-8") as file:
            yield file


def _table(model: str, reports: list[Report]) -> Table:
    table = Table(title=Text(printable(model)), title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in _COLUMNS.values():
        table.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
    for one in reports:
        row = asdict(one)
        table.add_row(*("-" if row[name] is None else f"{row[name]}" for name in _COLUMNS))
    return table
