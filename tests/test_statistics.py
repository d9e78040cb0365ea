"""`honed stats`: every number against a store that was filled for it, on both databases, and what is printed of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any

import pytest
from completions import add
from labeling_tasks import make_task, ranking_of, say, take, taken
from sqlalchemy import Connection, Engine, event, insert, update
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from honed.cli import app
from honed.server.store import feedback
from honed.server.store.agreement import agreement
from honed.server.store.categories import CATEGORIES, INSTRUCTGPT_SHARES
from honed.server.store.database import reading, writing
from honed.server.store.feedback import Kind, NewFeedback, RankedAnswer
from honed.server.store.labelers import judgements
from honed.server.store.statistics import DayCounts, Proportion, Statistics, proportion, statistics
from honed.server.store.tables import Checkpoint, Completion, Erasure, Feedback, Snapshot

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def found(engine: Engine, *, now: datetime = NOW, days: int = 3) -> Statistics:
    with reading(engine) as connection:
        return statistics(connection, now=now, days=days)


def judge(engine: Engine, completion_id: str, kind: Kind = "thumb", **fields: Any) -> str:
    given: dict[str, Any] = {
        "completion_id": completion_id,
        "choice": 0,
        "kind": kind,
        "source": "user",
        "key_id": "key-1",
    }
    with writing(engine) as connection:
        return feedback.add(connection, NewFeedback(**given | fields), scope=None).id


def thumbs(engine: Engine, completion_id: str, *, up: int, down: int, source: str = "user") -> None:
    for number in [1] * up + [0] * down:
        judge(engine, completion_id, number=number, source=source)


def change(engine: Engine, table: Any, row_id: str, **values: Any) -> None:
    """What no function of the store would write."""
    with writing(engine) as connection:
        connection.execute(update(table).where(table.id == row_id).values(**values))


def plan_of(engine: Engine, work: Callable[[Connection], object]) -> list[str]:
    """How SQLite answers each of the queries that `work` makes, in their order."""
    asked: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    with reading(engine) as connection:
        event.listen(engine, "before_cursor_execute", listen)
        work(connection)
        event.remove(engine, "before_cursor_execute", listen)
        return [
            "\n".join(row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters))
            for statement, parameters in asked
        ]


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [  # Wilson's interval, from Brown, Cai and DasGupta's formula (2001, equation 4) by hand
        (8, 10, 0.490162, 0.943318),
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (500, 1000, 0.469070, 0.530930),
    ],
)
def test_wilsons_interval(hits: int, total: int, low: float, high: float) -> None:
    assert proportion(hits, total) == Proportion(
        hits, total, hits / total, pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6)
    )


def test_a_proportion_of_nothing_is_none() -> None:
    assert proportion(0, 0) is None


def test_an_empty_store(store: Engine) -> None:
    empty = found(store)
    assert asdict(empty.completions) == {
        "total": 0, "trainable": 0, "retrievable": 0, "by_source": {}, "users": 0, "conversations": 0, "messages": 0,
    }  # fmt: skip
    assert [row.prompts for row in empty.categories] == [0] * len(CATEGORIES)
    assert (empty.feedback.total, empty.feedback.by_kind, empty.feedback.policies) == (0, {}, [])
    assert empty.feedback.judged is None
    assert empty.feedback.thumbs is None
    assert (empty.labeling.open, empty.labeling.done, empty.labeling.labelers) == (0, 0, [])
    assert empty.labeling.agreement.pairwise is None
    assert empty.redactions == {}
    assert empty.growth == [DayCounts(date(2026, day[0], day[1]), 0, 0) for day in ((2, 28), (3, 1), (3, 2))]
    assert (empty.snapshots, empty.checkpoints, empty.erasures) == (0, 0, 0)


def test_completions_by_what_they_are(store: Engine) -> None:
    add(store, "One", trainable=False, user="ann")
    add(store, "Two", retrievable=False, user="ann")
    add(store, "Three", source="import", retrievable=False, user="ben")
    add(store, "Four", source="labeling")
    counts = found(store).completions
    assert (counts.total, counts.trainable, counts.retrievable) == (4, 3, 2)
    assert counts.by_source == {"import": 1, "labeling": 1, "server": 2}
    assert counts.users == 2


def test_a_conversation_that_goes_on_is_one(store: Engine) -> None:
    hi, hello = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
    add(store, messages=[hi])
    add(store, messages=[hi, hello, hi])
    add(store, messages=[hi, hello, {"role": "user", "content": "bye"}])
    add(store, "Another")
    counts = found(store).completions
    assert (counts.messages, counts.conversations) == (5, 3), "two ways on from the first prompt, and the other one"


def test_categories_are_of_the_prompts_that_training_may_use(store: Engine) -> None:
    fields = [
        {"source": "server"}, {"source": "import"}, {"source": "labeling"}, {"trainable": False}, {"source": "server"},
    ]  # fmt: skip
    for number, (given, category) in enumerate(zip(fields, ["chat", "chat", "chat", "chat", "rewrite"], strict=True)):
        change(store, Completion, add(store, f"Prompt {number}", **given), category=category)
    rows = {row.category: row for row in found(store).categories}
    assert tuple(rows) == CATEGORIES
    assert {name: row.prompts for name, row in rows.items() if row.prompts} == {"chat": 2, "rewrite": 1}
    assert rows["chat"].share == pytest.approx(2 / 3)
    assert {name: row.instructgpt for name, row in rows.items()} == pytest.approx(
        {name: percent / 100 for name, percent in INSTRUCTGPT_SHARES.items()}
    )


def test_a_category_that_nobody_knows_any_more_is_counted(store: Engine) -> None:
    change(store, Completion, add(store), category="poetry")
    last = found(store).categories[-1]
    assert (last.category, last.prompts, last.share, last.instructgpt) == ("poetry", 1, 1.0, None)


def test_feedback_by_kind_and_source(store: Engine) -> None:
    one = add(store, "One")
    thumbs(store, one, up=2, down=1)
    thumbs(store, one, up=0, down=1, source="automatic")
    judge(store, one, "rating", number=7)
    judge(store, one, "comment", text="Good.", source="labeler")
    counts = found(store).feedback
    assert counts.total == 6
    assert counts.by_kind == {
        "comment": {"labeler": 1}, "rating": {"user": 1}, "thumb": {"automatic": 1, "user": 3},
    }  # fmt: skip
    assert counts.thumbs == proportion(2, 4)


def test_completions_are_judged_once_and_in_comparisons_too(store: Engine) -> None:
    one, two, three = (add(store, "The same prompt") for _ in range(3))
    add(store, "Not judged")
    imported = [add(store, "From a file", source="import") for _ in range(2)]
    thumbs(store, one, up=2, down=0)
    targets = [RankedAnswer(one, 0, 1), RankedAnswer(two, 0, 2)]
    judge(store, one, "comparison", targets=targets)
    for completion_id in imported:
        judge(store, completion_id, number=1)
    assert found(store).feedback.judged == proportion(2, 4), f"{one} and {two}, but not {three}"


def test_thumbs_by_policy(store: Engine) -> None:
    old, new, silent = (add(store, policy_id=f"ckpt-{name}") for name in ("a", "b", "c"))
    add(store, policy_id="ckpt-b")
    thumbs(store, old, up=1, down=3)
    thumbs(store, new, up=2, down=0)
    judge(store, silent, "rating", number=4)
    rows = [(row.policy_id, row.completions, row.feedback, row.thumbs) for row in found(store).feedback.policies]
    assert rows == [
        ("ckpt-a", 1, 4, proportion(1, 4)),
        ("ckpt-b", 2, 2, proportion(2, 2)),
        ("ckpt-c", 1, 1, None),
    ]


def fill_labeling(engine: Engine) -> None:
    """Two tasks, the one ranked by two labelers, the other skipped by one and leased by the other."""
    task = make_task(engine, "One", wanted=2)
    for labeler, groups in {"ann": [("Paris.",), ("London.",)], "ben": [("London.",), ("Paris.",)]}.items():
        lease = taken(engine, labeler, NOW)
        rest = [(answer.text,) for answer in lease.answers if answer.text not in ("Paris.", "London.")]
        say(engine, task.id, labeler, now=NOW, ranking=ranking_of(lease, *groups, *sorted(rest)))
    make_task(engine, "Two")
    say(engine, taken(engine, "ann", NOW).task_id, "ann", "skip", now=NOW)
    assert take(engine, "ben", NOW) is not None


def test_labeling(store: Engine) -> None:
    fill_labeling(store)
    counts = found(store).labeling
    assert (counts.open, counts.done) == (1, 1)
    assert (counts.leased, counts.ranked, counts.skipped, counts.all_bad) == (1, 2, 1, 0)
    assert [(one.labeler, one.leased, one.ranked, one.skipped) for one in counts.labelers] == [
        ("ann", 0, 1, 1), ("ben", 1, 1, 0),
    ]  # fmt: skip
    with reading(store) as connection:
        assert counts.agreement == agreement(judgements(connection))
    assert counts.agreement.pairwise is not None
    assert (counts.agreement.pairwise.value, counts.agreement.pairwise.pairs) == (pytest.approx(5 / 6), 6)


def test_redactions_are_summed(store: Engine) -> None:
    for number, redactions in enumerate(({"email": 2, "phone": 1}, {"email": 1}, {})):
        change(store, Completion, add(store, f"Prompt {number}"), redactions=redactions)
    assert found(store).redactions == {"email": 3, "phone": 1}


def test_redactions_as_ingest_stores_them(store: Engine) -> None:
    add(store, "Write to jane.miller@gmail.com, and to john.smith@gmail.com.")
    add(store, "Hello")
    assert found(store).redactions == {"email": 2}


def test_growth_is_by_day_in_utc(store: Engine) -> None:
    for moment in (
        datetime(2026, 2, 27, 23, 59, 59, 999_000, UTC),  # before the first day
        datetime(2026, 2, 28, tzinfo=UTC),
        datetime(2026, 2, 28, 23, 59, 59, 999_000, UTC),
        datetime(2026, 3, 2, 11, 59, tzinfo=UTC),
    ):
        completion_id = add(store, f"At {moment}", created_s=moment.timestamp())
    change(store, Feedback, judge(store, completion_id), created=datetime(2026, 3, 1, 0, 0, 0, 1, UTC))
    change(store, Feedback, judge(store, completion_id), created=datetime(2026, 2, 1, tzinfo=UTC))
    assert found(store).growth == [
        DayCounts(date(2026, 2, 28), 2, 0), DayCounts(date(2026, 3, 1), 0, 1), DayCounts(date(2026, 3, 2), 1, 0),
    ]  # fmt: skip
    assert found(store, days=1).growth == [DayCounts(date(2026, 3, 2), 1, 0)]


def test_what_became_of_it(store: Engine) -> None:
    snapshot = {"id": "s", "created": NOW, "what": "pairs", "settings": {}, "rows": 0, "erased": 0}
    checkpoint = {
        "id": "c", "created": NOW, "name": "c", "stage": "sft", "folder": "x", "settings": {}, "metrics": {},
    }  # fmt: skip
    erasure = {"id": "e", "created": NOW, "user_hash": None, "completions": 0, "feedback": 0, "checkpoints": {}}
    with writing(store) as connection:
        connection.execute(insert(Snapshot), snapshot)
        connection.execute(insert(Checkpoint), [checkpoint, checkpoint | {"id": "d"}])
        connection.execute(insert(Erasure), [erasure | {"id": str(number)} for number in range(3)])
    counts = found(store)
    assert (counts.snapshots, counts.checkpoints, counts.erasures) == (1, 2, 3)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_completions_are_counted_from_indices(store: Engine) -> None:
    """A million rows are read in a second; a million rows by way of an index are not."""
    plans = plan_of(store, lambda connection: statistics(connection, now=NOW, days=3))
    about = [line for plan in plans for line in plan.splitlines() if " completions" in line]
    covered = {line.split(" INDEX ")[1].split(" ")[0] for line in about if "COVERING INDEX" in line}
    assert covered >= {
        "ix_completions_counted",
        "ix_completions_created",
        "ix_completions_policy_id_id",
        "ix_completions_redacted",
        "ix_completions_user_hash_id",
    }
    assert not [line for line in about if "SCAN completions" in line and "INDEX" not in line]
    judged = [line for line in about if "sqlite_autoindex_completions_1 (id=?)" in line]
    assert len(judged) == 1, "those that feedback is about are looked up"


def run(url: URL, *arguments: str) -> Any:
    address = url.render_as_string(hide_password=False)
    return CliRunner().invoke(app, ["stats", "--database-url", address, *arguments], env={"COLUMNS": "80"})


def test_the_command_prints_one_json_object(store: Engine, store_url: URL) -> None:
    thumbs(store, add(store, "One", user="ann"), up=1, down=0)
    result = run(store_url, "--json", "--days", "2")
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    today = datetime.now(UTC)
    expected = asdict(found(store, now=today, days=2))
    assert printed == json.loads(json.dumps(expected, default=str))
    assert printed["growth"][-1] == {"day": str(today.date()), "completions": 1, "feedback": 1}
    assert printed["feedback"]["thumbs"]["share"] == 1.0


def test_the_command_prints_tables_for_people(store: Engine, store_url: URL) -> None:
    fill_labeling(store)
    thumbs(store, add(store, "Once more", policy_id="ckpt-z"), up=1, down=1)
    change(store, Completion, add(store, "And again"), redactions={"email": 1234})
    result = run(store_url)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["completions", "6"] in lines
    assert ["ckpt-z", "1", "2", "1", "1", "50.0%", "9.5-90.5%"] in lines
    assert ["done", "tasks", "1"] in lines
    assert ["ann", "1", "1", "0", "83.3%", "-"] in [line[:6] for line in lines]
    assert ["email", "1,234"] in lines
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_command_leaves_out_what_is_not_there(store: Engine, store_url: URL) -> None:
    result = run(store_url, "--days", "1")
    assert result.exit_code == 0
    for title in ("Feedback", "Policies", "Labeling", "Labelers", "Redacted", "Prompts"):
        assert title not in result.stdout
    assert "Growth" in result.stdout


def test_names_of_clients_are_harmless(store: Engine, store_url: URL) -> None:
    task = make_task(store)
    taken(store, "[red]\x1b[31mann", NOW)
    say(store, task.id, "[red]\x1b[31mann", now=NOW)
    printed = run(store_url).stdout
    assert "[red][31mann" in printed
    assert "\x1b[31m" not in printed


def test_days_have_bounds(store_url: URL) -> None:
    assert run(store_url, "--days", "0").exit_code == 2
    assert run(store_url, "--days", "367").exit_code == 2


def test_a_store_that_cannot_be_read_is_said_in_a_line() -> None:
    result = CliRunner().invoke(app, ["stats", "--database-url", "mysql://nowhere/honed"])
    assert result.exit_code == 1
    assert result.stderr.startswith("honed: There is no store on mysql")
