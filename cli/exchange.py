"""`honed import` and `honed export`: human data into the store, training data out of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from honed.cli.failure import fail
from honed.cli.store import DatabaseUrl, opened
from honed.server.store.exchange.writing import What

if TYPE_CHECKING:
    from honed.server.store.exchange.exporting import Exported
    from honed.server.store.exchange.importing import Imported, Survey

Format = Literal["jsonl", "parquet"]
NAMES: Mapping[Format, tuple[str, ...]] = {"jsonl": (".jsonl", ".jsonl.gz"), "parquet": (".parquet",)}
STDOUT = Path("-")


def import_(
    files: Annotated[list[Path], typer.Argument(help="JSON Lines, the same gzipped, or Parquet.", metavar="FILE...")],
    skip_malformed: Annotated[
        bool, typer.Option("--skip-malformed", help="Leave malformed lines out; otherwise nothing is imported.")
    ] = False,
    keep_personal_data: Annotated[
        bool, typer.Option("--keep-personal-data", help="Redact nothing: for data that is public anyway.")
    ] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Store demonstrations, rankings, pairs, thumbs and prompts from files. What is there already is not stored again.

    Personal data and secrets in texts are redacted; ids and sources of answers are kept as they are.
    """
    from honed.server.store.exchange.files import FileError
    from honed.server.store.exchange.importing import import_files, survey

    try:
        found = survey(files)
        _show_malformed(found)
        if found.malformed and not skip_malformed:
            raise fail(
                f"{_counted(found.malformed, 'line')} cannot be read, so nothing was imported: correct them, or leave "
                "them out with --skip-malformed."
            )
        with opened(database_url) as engine:
            done = import_files(engine, files, skip_malformed=skip_malformed, keep_personal_data=keep_personal_data)
    except FileError as error:
        raise fail(str(error)) from None
    _show_imported(found, done)


def export(
    what: Annotated[What, typer.Option(help="What each row is.")],
    format_: Annotated[Format, typer.Option("--format", help="How rows are written.")] = "jsonl",
    output: Annotated[
        Path, typer.Option(help="A file that ends with .jsonl, .jsonl.gz or .parquet; - is standard output.")
    ] = STDOUT,
    text: Annotated[bool, typer.Option("--text", help="What has text prompts, instead of chats.")] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Write what may be trained on, in the rows that TRL reads. A file appears when all of it is written."""
    from honed.server.store.exchange.exporting import export as run
    from honed.server.store.exchange.files import FileError

    _check_name(output, format_)
    try:
        with opened(database_url) as engine:
            done = run(engine, what, output, text=text)
    except FileError as error:
        raise fail(str(error)) from None
    _show_exported(done, text=text)


def _check_name(output: Path, format_: Format) -> None:
    if output == STDOUT:
        if format_ == "parquet":
            raise fail("Parquet does not go to standard output: name a file with --output FILE.parquet.")
    elif not output.name.lower().endswith(NAMES[format_]):
        other = next((form for form, names in NAMES.items() if output.name.lower().endswith(names)), None)
        advice = f"give --format {other}" if other else f"let its name end with {' or '.join(NAMES[format_])}"
        raise fail(f"{output} is no name of a {format_} file: {advice}.")


def _show_malformed(found: Survey) -> None:
    for row in found.first_malformed:
        _note(f"{row.path}:{row.line}: {row.reason}")
    if more := found.malformed - len(found.first_malformed):
        _note(f"... and {_counted(more, 'line')} more")


def _show_imported(found: Survey, done: Imported) -> None:
    if found.ignored_keys:
        _note("Keys that no format has were left out: " + _listed(found.ignored_keys))
    known = f"; {done.known} {'was' if done.known == 1 else 'were'} there already" if done.known else ""
    print(f"Imported {_counted(done.records, 'record')}{known}.")
    if done.redacted:
        print(f"Redacted in {done.redacted} of them: {_listed(done.redactions)}.")
    if found.malformed:
        print(f"Left out {_counted(found.malformed, 'malformed line')}.")


def _show_exported(done: Exported, *, text: bool) -> None:
    _note(f"Wrote {_counted(done.rows, 'row')}.")
    if done.other_form:
        left, advice = ("chats", "leave --text out") if text else ("text prompts", "give --text")
        _note(f"Left out {done.other_form} with {left}: to write those, {advice}.")
    if done.inexpressible:
        _note(f"Left out {done.inexpressible} that no row can say; the first: {done.reason}.")


def _note(message: str) -> None:
    typer.echo(message, err=True)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
