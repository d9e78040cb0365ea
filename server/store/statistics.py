"""What is in the store, in numbers: completions, prompts, feedback, labeling, what was redacted, how it grows.

Owns the counts; the measures of agreement are in `agreement.py`, what each labeler did is in `labelers.py`, and how all
of it looks in `cli/statistics.py`. Writes nothing. Invariant: what is asked of `completions` is answered by an index,
or looks up what was judged, one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import sqrt
from typing import Any, Final

from sqlalchemy import Connection, Integer, cast, distinct, func, select, text

from honed.server.store.agreement import Agreement, agreement
from honed.server.store.categories import INSTRUCTGPT_SHARES
from honed.server.store.database import is_sqlite
from honed.server.store.labelers import judgements, progress
from honed.server.store.labeling import SOURCE as LABELING
from honed.server.store.pairs import SOURCES as PAIRS
from honed.server.store.tables import (
    Base,
    Checkpoint,
    Completion,
    Erasure,
    Feedback,
    Message,
    Snapshot,
    Target,
)

DAYS: Final = 14

_Z: Final = 1.959964  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True, slots=True)
class Proportion:
    """`hits` of `total` are so; the share is from `low` to `high`, by default with 95 % confidence (Wilson 1927)."""

    hits: float
    total: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionCounts:
    """`users` are those that clients name. `conversations`: prompts that no later prompt goes on from."""

    total: int
    trainable: int
    retrievable: int
    by_source: dict[str, int]
    users: int
    conversations: int
    messages: int


@dataclass(frozen=True, slots=True)
class CategoryCount:
    """Of the prompts that a training may use. Shares are of 1; `instructgpt` is that of InstructGPT's prompts."""

    category: str
    prompts: int
    share: float
    instructgpt: float | None


@dataclass(frozen=True, slots=True)
class PolicyCounts:
    """`thumbs`: those that point up; None where there are none."""

    policy_id: str
    completions: int
    feedback: int
    thumbs: Proportion | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackCounts:
    """`by_kind`: kind -> source -> count. `judged`: completions of the server that any feedback is about."""

    total: int
    by_kind: dict[str, dict[str, int]]
    judged: Proportion | None
    thumbs: Proportion | None
    policies: list[PolicyCounts]  # in the order of their ids


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelerCounts:
    labeler: str
    leased: int
    ranked: int
    skipped: int
    all_bad: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelingCounts:
    """`open` and `done` are tasks, the other counts what labelers did with them."""

    open: int
    done: int
    leased: int
    ranked: int
    skipped: int
    all_bad: int
    labelers: list[LabelerCounts]
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class DayCounts:
    """Of a day in UTC."""

    day: date
    completions: int
    feedback: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """`redactions`: kind -> how many were found. `growth`: the last days, today's last."""

    completions: CompletionCounts
    categories: list[CategoryCount]
    feedback: FeedbackCounts
    labeling: LabelingCounts
    redactions: dict[str, int]
    growth: list[DayCounts]
    snapshots: int
    checkpoints: int
    erasures: int


def statistics(connection: Connection, *, now: datetime, days: int = DAYS) -> Statistics:
    completions, categories = _completions(connection)
    return Statistics(
        completions=completions,
        categories=categories,
        feedback=_feedback(connection, completions.by_source.get("server", 0)),
        labeling=_labeling(connection, now),
        redactions=_redactions(connection),
        growth=_growth(connection, now.astimezone(UTC).date(), days),
        snapshots=_count(connection, Snapshot),
        checkpoints=_count(connection, Checkpoint),
        erasures=_count(connection, Erasure),
    )


def proportion(hits: float, total: int, z: float = _Z) -> Proportion | None:
    """With Wilson's interval, `z` standard errors wide on each side; None of nothing. A tie may be half a hit: that
    varies less, so the interval is rather too wide."""
    if not total:
        return None
    share = hits / total
    center = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    reach = z * sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / (1 + z**2 / total)
    return Proportion(hits, total, share, max(0.0, center - reach), min(1.0, center + reach))


def _completions(connection: Connection) -> tuple[CompletionCounts, list[CategoryCount]]:
    """All that is counted by what a completion is, in one query."""
    kinds = (Completion.category, Completion.source, Completion.trainable, Completion.retrievable)
    rows = connection.execute(select(*kinds, func.count()).group_by(*kinds)).all()
    prompts = _summed((row[0], row[-1]) for row in rows if row.trainable and row.source not in (LABELING, *PAIRS))
    messages = _count(connection, Message)
    counts = CompletionCounts(
        total=sum(row[-1] for row in rows),
        trainable=sum(row[-1] for row in rows if row.trainable),
        retrievable=sum(row[-1] for row in rows if row.retrievable),
        by_source=_summed((row.source, row[-1]) for row in rows),
        users=_distinct(connection, Completion.user_hash),
        conversations=messages - _distinct(connection, Message.parent_id),
        messages=messages,
    )
    return counts, _categories(prompts)


def _categories(prompts: dict[str, int]) -> list[CategoryCount]:
    """InstructGPT's in its order, and then those that another version of ours may have known."""
    total = sum(prompts.values()) or 1
    instructgpt = {category: round(percent / 100, 3) for category, percent in INSTRUCTGPT_SHARES.items()}
    names = [*instructgpt, *(name for name in prompts if name not in instructgpt)]
    return [
        CategoryCount(name, prompts.get(name, 0), prompts.get(name, 0) / total, instructgpt.get(name)) for name in names
    ]


def _feedback(connection: Connection, server_completions: int) -> FeedbackCounts:
    groups = (Feedback.kind, Feedback.source, Feedback.policy_id, Feedback.number)
    rows = connection.execute(select(*groups, func.count()).group_by(*groups)).all()
    by_kind: dict[str, dict[str, int]] = {}
    for kind in sorted({row.kind for row in rows}):
        by_kind[kind] = _summed((row.source, row[-1]) for row in rows if row.kind == kind)
    return FeedbackCounts(
        total=sum(row[-1] for row in rows),
        by_kind=by_kind,
        judged=proportion(_judged(connection), server_completions),
        thumbs=_thumbs(rows),
        policies=_policies(connection, rows),
    )


def _judged(connection: Connection) -> int:
    """Completions of the server that were judged, the ones that a comparison or a ranking is over included."""
    about = select(Feedback.completion_id).union(select(Target.completion_id))
    judged = select(func.count()).where(Completion.source == "server", Completion.id.in_(about))
    return connection.execute(judged).scalar_one()


def _thumbs(rows: Iterable[Any]) -> Proportion | None:
    thumbs = [row for row in rows if row.kind == "thumb"]
    return proportion(sum(row[-1] for row in thumbs if row.number), sum(row[-1] for row in thumbs))


def _policies(connection: Connection, rows: Sequence[Any]) -> list[PolicyCounts]:
    by_policy = select(Completion.policy_id, func.count()).group_by(Completion.policy_id)
    found = []
    for policy_id, completions in connection.execute(by_policy.order_by(Completion.policy_id)):
        mine = [row for row in rows if row.policy_id == policy_id]
        found.append(PolicyCounts(policy_id, completions, sum(row[-1] for row in mine), _thumbs(mine)))
    return found


def _labeling(connection: Connection, now: datetime) -> LabelingCounts:
    work = progress(connection, now=now)
    return LabelingCounts(
        open=work.open,
        done=work.done,
        **_states(work.total),
        labelers=[LabelerCounts(labeler=name, **_states(counts)) for name, counts in work.labelers.items()],
        agreement=agreement(judgements(connection)),
    )


def _states(counts: Counter[Any]) -> dict[str, int]:
    return {state: counts[state] for state in ("leased", "ranked", "skipped", "all_bad")}


def _redactions(connection: Connection) -> dict[str, int]:
    each = func.json_each if is_sqlite(connection) else func.jsonb_each_text
    pairs = each(Completion.redactions).table_valued("key", "value", name="pairs", joins_implicitly=True)
    # Written out, not bound: a partial index is used where its condition is in the query word for word.
    found = text("completions.redactions <> '{}'")
    count = func.sum(cast(pairs.c.value, Integer))
    query = select(pairs.c.key, count).select_from(Completion).where(found)
    return _summed((kind, number) for kind, number in connection.execute(query.group_by(pairs.c.key)))


def _growth(connection: Connection, today: date, days: int) -> list[DayCounts]:
    first = today - timedelta(days=days - 1)
    completions, feedback = (_by_day(connection, table, first) for table in (Completion, Feedback))
    dates = [first + timedelta(days=number) for number in range(days)]
    return [DayCounts(day, completions.get(str(day), 0), feedback.get(str(day), 0)) for day in dates]


def _by_day(connection: Connection, table: type[Completion] | type[Feedback], first: date) -> dict[str, int]:
    """`date` of SQLite takes a time's first ten characters, PostgreSQL's the session's zone: both are UTC."""
    day = func.date(table.created)
    since = datetime.combine(first, time(), UTC)
    rows = connection.execute(select(day, func.count()).where(table.created >= since).group_by(day))
    return {str(found): count for found, count in rows}


def _distinct(connection: Connection, column: Any) -> int:
    return connection.execute(select(func.count(distinct(column)))).scalar_one()


def _count(connection: Connection, table: type[Base]) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def _summed(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """By name, in the order of the names."""
    sums: Counter[str] = Counter()
    for name, count in pairs:
        sums[name] += count
    return dict(sorted(sums.items()))
