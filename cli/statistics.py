"""`honed stats`: what is in the store, as tables for a person or as one JSON object for a program.

Owns how it looks; the numbers are `server/store/statistics.py`'s. Invariant: a table that would be empty is left out,
and names that clients chose cannot do anything to the terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from honed.cli.store import DatabaseUrl, opened
from honed.clients.endpoint import printable

if TYPE_CHECKING:
    from honed.server.store.agreement import LabelerAgreement, Share
    from honed.server.store.statistics import FeedbackCounts, LabelingCounts, Proportion, Statistics

MAX_DAYS = 366

_NONE = "-"
_BAR_CHARS = 16


def stats(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    days: Annotated[int, typer.Option(min=1, max=MAX_DAYS, help="Days of growth to show.")] = 14,
    database_url: DatabaseUrl = None,
) -> None:
    """Show what is in the store: completions, prompts, feedback, labelers, redactions, growth."""
    from honed.server.store.database import reading
    from honed.server.store.statistics import statistics

    with opened(database_url) as engine, reading(engine) as connection:
        found = statistics(connection, now=datetime.now(UTC), days=days)
    if as_json:
        print(json.dumps(asdict(found), default=str))
        return
    console = Console()
    for table in _tables(found):
        if table.row_count:
            console.print(table)
            console.print()


def _tables(found: Statistics) -> Iterator[Table]:
    yield _completions(found)
    yield _prompts(found)
    yield from _feedback(found.feedback)
    yield from _labeling(found.labeling)
    yield _pairs("Redacted", found.redactions.items())
    yield _growth(found)


def _completions(found: Statistics) -> Table:
    counts = found.completions
    return _pairs(
        "Stored",
        [
            ("completions", counts.total),
            *((f"  of {source}", count) for source, count in counts.by_source.items()),
            ("  trainable", counts.trainable),
            ("  retrievable", counts.retrievable),
            ("users", counts.users),
            ("conversations", counts.conversations),
            ("messages", counts.messages),
            ("snapshots", found.snapshots),
            ("checkpoints", found.checkpoints),
            ("erasures", found.erasures),
        ],
    )


def _prompts(found: Statistics) -> Table:
    table = _table("Prompts for training", "category", "prompts", "share", "InstructGPT")
    if any(row.prompts for row in found.categories):
        for row in found.categories:
            _add(table, row.category, row.prompts, _percent(row.share), _percent(row.instructgpt))
    return table


def _feedback(counts: FeedbackCounts) -> Iterator[Table]:
    sources = sorted({source for by_source in counts.by_kind.values() for source in by_source})
    table = _table("Feedback", "kind", *sources)
    for kind, by_source in counts.by_kind.items():
        _add(table, kind, *(by_source.get(source, 0) for source in sources))
    yield table
    shares = _table("Shares", "", "of", "share", "95 %")
    for name, share in (("completions judged", counts.judged), ("thumbs up", counts.thumbs)):
        if share is not None:
            _add(shares, name, share.total, _percent(share.share), _interval(share))
    yield shares
    policies = _table("Policies", "policy", "completions", "feedback", "up", "down", "share up", "95 %")
    for policy in counts.policies:
        thumbs = policy.thumbs
        up, down = (int(thumbs.hits), int(thumbs.total - thumbs.hits)) if thumbs else (0, 0)
        shown = _percent(thumbs.share if thumbs else None)
        _add(policies, policy.policy_id, policy.completions, policy.feedback, up, down, shown, _interval(thumbs))
    yield policies


def _labeling(counts: LabelingCounts) -> Iterator[Table]:
    table = _pairs("Labeling", [])
    if counts.open or counts.done:
        measured = counts.agreement
        for name, value in (
            ("open tasks", counts.open),
            ("done tasks", counts.done),
            ("leased", counts.leased),
            ("ranked", counts.ranked),
            ("skipped", counts.skipped),
            ("all bad", counts.all_bad),
            ("agreement", _value(measured.pairwise)),
            ("  95 %", _interval(measured.pairwise)),
            ("  with ties", _value(measured.pairwise_with_ties)),
            ("Krippendorff's alpha", _decimal(measured.alpha)),
        ):
            _add(table, name, value)
    yield table
    yield _labelers(counts)


def _labelers(counts: LabelingCounts) -> Table:
    measures = ("agrees", "alpha\nwithout", "longer\nwins", "first\nwins", "ties")
    table = _table("Labelers", "labeler", "ranked", "skipped", "all\nbad", *measures)
    measured = {one.labeler: _measures(one) for one in counts.agreement.labelers}
    for one in counts.labelers:
        _add(table, one.labeler, one.ranked, one.skipped, one.all_bad, *measured.get(one.labeler, [_NONE] * 5))
    return table


def _measures(one: LabelerAgreement) -> list[str]:
    return [
        _value(one.agreement),
        _decimal(one.alpha_without),
        _value(one.prefers_longer),
        _value(one.prefers_first),
        _percent(one.tie_rate),
    ]


def _growth(found: Statistics) -> Table:
    table = _table("Growth, days in UTC", "day", "completions", "", "feedback", "")
    most_completions = max(day.completions for day in found.growth)
    most_feedback = max(day.feedback for day in found.growth)
    for day in found.growth:
        completions, feedback = _bar(day.completions, most_completions), _bar(day.feedback, most_feedback)
        _add(table, str(day.day), day.completions, completions, day.feedback, feedback)
    return table


def _table(title: str, first: str, *others: str) -> Table:
    """The first column has names, the others numbers."""
    has_headings = any((first, *others))
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=has_headings)
    table.add_column(Text(first), vertical="bottom", overflow="fold")
    for heading in others:
        table.add_column(Text(printable(heading)), justify="right", vertical="bottom", no_wrap=True)
    return table


def _pairs(title: str, rows: Iterable[tuple[str, int]]) -> Table:
    table = _table(title, "", "")
    for name, count in rows:
        _add(table, name, count)
    return table


def _add(table: Table, name: str, *values: int | str | RenderableType) -> None:
    cells = (f"{value:,}" if isinstance(value, int) else value for value in values)
    table.add_row(Text(printable(name)), *cells)


def _bar(count: int, most: int) -> ProgressBar:
    return ProgressBar(total=most or 1, completed=count, width=_BAR_CHARS, finished_style="bar.complete")


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{share:.1%}"


def _decimal(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"


def _value(share: Share | None) -> str:
    return _percent(None if share is None else share.value)


def _interval(share: Proportion | Share | None) -> str:
    return _NONE if share is None else f"{100 * share.low:.1f}-{share.high:.1%}"
