"""Erasure: what goes, what stays, and that no byte of it is left in the database's files."""

import subprocess
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from completions import add, count, ingest, logged
from databases import Postgres
from sqlalchemy import Connection, Engine, insert, select, text, update
from sqlalchemy.engine import URL
from typer.testing import CliRunner

from honed.cli import app
from honed.server.store import feedback
from honed.server.store.cleaning import clean_files
from honed.server.store.database import open_database, reading, writing
from honed.server.store.erasure import checkpoints_trained_on, erase_completion, erase_user
from honed.server.store.feedback import NewFeedback, RankedAnswer
from honed.server.store.ingest import Ingest
from honed.server.store.maintenance import RETENTION, expire, run_due
from honed.server.store.originals import Sealer
from honed.server.store.tables import (
    Assignment,
    Base,
    Checkpoint,
    Choice,
    Completion,
    Erasure,
    Feedback,
    Job,
    Message,
    Original,
    Setting,
    Snapshot,
    SnapshotRow,
    Tag,
    Target,
    Task,
)
from honed.server.store.users import hash_user, load_salt, set_consent

KEY = "m2bQwE1nq6e0yX3m0Xr0d9l2m4r5c6vVbN8aZ1sD2fE="


def load_salt_in(connection: Connection) -> str:
    return connection.execute(select(Setting.value).where(Setting.name == "user_salt")).scalar_one()


def judge(engine: Engine, completion_id: str, kind: feedback.Kind = "thumb", **fields: object) -> str:
    new = {"number": 1, "choice": 0, "source": "user", "key_id": "key-1"} | fields
    with writing(engine) as connection:
        return feedback.add(connection, NewFeedback(completion_id=completion_id, kind=kind, **new), scope=None).id  # type: ignore[arg-type]


def train(
    engine: Engine, snapshot: str, completion_ids: list[str], *checkpoints: tuple[str, str | None, str | None]
) -> None:
    """A snapshot of the completions, and checkpoints: id, parent, snapshot."""
    now = datetime.now(UTC)
    rows = [
        {"snapshot_id": snapshot, "position": place, "completion_id": each, "feedback_id": None, "split": "train"}
        for place, each in enumerate(completion_ids)
    ]
    with writing(engine) as connection:
        connection.execute(
            insert(Snapshot).values(id=snapshot, created=now, what="pairs", settings={}, rows=len(rows), erased=0)
        )
        connection.execute(insert(SnapshotRow), rows)
        for name, parent, trained_on in checkpoints:
            connection.execute(
                insert(Checkpoint).values(
                    id=name, created=now, name=name, stage="sft", parent_id=parent, snapshot_id=trained_on, folder="x",
                    settings={}, metrics={},
                )
            )  # fmt: skip


def test_a_completion_goes_with_all_that_hangs_on_it(store: Engine) -> None:
    gone, stays = add(store, "Erase me", tags={"a": "b"}), add(store, "Keep me", tags={"a": "b"})
    for completion_id in (gone, stays):
        judge(store, completion_id)
    train(store, "snap", [gone, stays])
    erased = erase_completion(store, gone)
    assert (erased.completions, erased.feedback, erased.checkpoints) == (1, 1, ())
    for table in (Completion, Choice, Tag, Feedback, SnapshotRow, Message):
        assert count(store, table) == 1, table
    with reading(store) as connection:
        assert connection.execute(select(Snapshot.rows, Snapshot.erased)).one() == (2, 1)
        assert connection.execute(select(Completion.id)).scalar_one() == stays


def test_history_that_somebody_else_has_stays(store: Engine) -> None:
    shared = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    mine = [*shared, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "My secret"}]
    add(store, messages=shared)
    erase_completion(store, add(store, messages=mine))
    with reading(store) as connection:
        assert sorted(connection.execute(select(Message.content)).scalars()) == ["Be brief.", "Hi"]


def test_a_user_goes_whole_and_alone(store: Engine) -> None:
    salt = load_salt(store)
    for turn in range(3):
        judge(store, add(store, f"Question {turn}", user="ann"))
    kept = add(store, "Hi", user="ben")
    judge(store, kept, kind="comment", text="ann said so", labeler="ann")
    judge(store, kept)
    erased = erase_user(store, hash_user(salt, "ann"), labeler="ann")
    assert (erased.completions, erased.feedback) == (3, 4)
    assert (count(store, Completion), count(store, Feedback)) == (1, 1)
    again = erase_user(store, hash_user(salt, "ann"), labeler="ann")
    assert (again.completions, again.feedback) == (0, 0)


def test_a_ranking_loses_its_place_and_with_the_last_but_one_itself(store: Engine) -> None:
    first, second, third = (add(store, "Same prompt") for _ in range(3))
    targets = [RankedAnswer(each, 0, rank) for rank, each in enumerate((first, second, third), start=1)]
    judge(store, first, kind="ranking", number=None, targets=targets)
    erase_completion(store, third)
    assert (count(store, Feedback), count(store, Target)) == (1, 2)
    erased = erase_completion(store, second)
    assert erased.feedback == 1
    assert (count(store, Feedback), count(store, Target)) == (0, 0)


def test_answers_made_for_labelers_go_with_their_prompt(store: Engine) -> None:
    asked = add(store, "Rank answers to this", user="ann")
    user_hash = hash_user(load_salt(store), "ann")
    ranked = logged("Rank answers to this", "A", "B", source="labeling", derived_from=asked, user_hash=user_hash)
    ingest(store, [ranked])
    now = datetime.now(UTC)
    with writing(store) as connection:
        connection.execute(
            insert(Task).values(
                id="task-1", created=now, completion_id=ranked.id, prefix=1, user_hash=user_hash, wanted=1, is_open=True
            )
        )
        connection.execute(
            insert(Assignment).values(
                task_id="task-1", labeler="x", state="leased", leased_until=now, finished=None, feedback_id=None
            )
        )
    assert erase_completion(store, asked).completions == 2
    for table in (Completion, Task, Assignment, Message):
        assert count(store, table) == 0, table


def test_checkpoints_that_were_trained_on_it_are_named(store: Engine) -> None:
    mine, other = add(store, "Mine", user="ann"), add(store, "Other")
    train(store, "both", [mine, other], ("sft", None, "both"), ("rm", "sft", None), ("ppo", "rm", None))
    train(store, "only", [other], ("clean", None, "only"))
    erased = erase_user(store, hash_user(load_salt(store), "ann"))
    assert erased.checkpoints == ("ppo", "rm", "sft"), "what comes from a checkpoint was trained on its data"
    with reading(store) as connection:
        assert connection.execute(select(Erasure.checkpoints)).scalar_one() == {"ids": ["ppo", "rm", "sft"]}
        assert checkpoints_trained_on(connection, ["only"]) == ["clean"]
    assert count(store, Checkpoint) == 4, "a model cannot be made to forget; it can be named"


def test_checkpoints_are_named_for_the_lesser_half_of_a_pair_too(store: Engine) -> None:
    """A comparison names one completion, and was trained on both."""
    better, worse = add(store, "Same prompt", user="ann"), add(store, "Same prompt", user="ben")
    targets = [RankedAnswer(better, 0, 1), RankedAnswer(worse, 0, 2)]
    feedback_id = judge(store, better, kind="comparison", number=None, targets=targets)
    train(store, "pairs", [better], ("rm", None, "pairs"))
    with writing(store) as connection:
        connection.execute(update(SnapshotRow).values(feedback_id=feedback_id))
    assert erase_user(store, hash_user(load_salt(store), "ben")).checkpoints == ("rm",)
    with reading(store) as connection:
        assert connection.execute(select(Snapshot.erased)).scalar_one() == 1
    assert (count(store, SnapshotRow), count(store, Feedback)) == (0, 0)


def test_checkpoints_are_named_for_what_a_labeler_said(store: Engine) -> None:
    feedback_id = judge(store, add(store, "Hi", user="ben"), labeler="ann")
    train(store, "thumbs", [add(store)], ("kto", None, "thumbs"))
    with writing(store) as connection:
        connection.execute(update(SnapshotRow).values(feedback_id=feedback_id))
    assert erase_user(store, hash_user(load_salt(store), "ann"), labeler="ann").checkpoints == ("kto",)


def test_an_erasure_waits_for_what_is_just_coming_in(store_url: URL) -> None:
    """What a writer has not committed yet is not there to be erased, and must not be there afterwards."""
    engines = [open_database(store_url) for _ in range(2)]
    user_hash = hash_user(load_salt(engines[0]), "ann")
    ingesting, erased = threading.Event(), threading.Event()

    def erase() -> None:
        ingesting.wait()
        erase_user(engines[1], user_hash)
        erased.set()

    thread = threading.Thread(target=erase)
    thread.start()
    with writing(engines[0]) as connection:
        Ingest(load_salt_in(connection)).insert(connection, [logged(user="ann")])
        ingesting.set()
        assert not erased.wait(0.5)
    thread.join()
    assert count(engines[0], Completion) == 0
    for engine in engines:
        engine.dispose()


def test_a_denial_waits_for_what_is_just_coming_in(store_url: URL) -> None:
    engines = [open_database(store_url) for _ in range(2)]
    user_hash = hash_user(load_salt(engines[0]), "ann")
    ingesting = threading.Event()

    def deny() -> None:
        ingesting.wait()
        with writing(engines[1]) as connection:
            set_consent(connection, user_hash, trainable=False)

    thread = threading.Thread(target=deny)
    thread.start()
    with writing(engines[0]) as connection:
        Ingest(load_salt_in(connection)).insert(connection, [logged(user="ann")])
        ingesting.set()
        thread.join(0.5)
    thread.join()
    with reading(engines[0]) as connection:
        assert connection.execute(select(Completion.trainable)).scalar_one() is False
    for engine in engines:
        engine.dispose()


def test_a_reader_delays_the_cleaning_and_nothing_else(store_url: URL, postgres: Postgres) -> None:
    """The erasure is done at once; the files are cleaned when nobody sees the old state any more."""
    engine, reader = open_database(store_url), open_database(store_url)
    mark = f"secret{uuid.uuid4().hex}"
    gone = add(engine, mark)
    add(engine, "Another")
    with reading(reader) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        assert connection.execute(select(Message.content).where(Message.content == mark)).scalar_one() == mark
        assert erase_completion(engine, gone).completions == 1
        assert not clean_files(engine)
        add(engine, "Meanwhile")
    run_due(engine, retention_days=0)
    assert clean_files(engine)
    assert count(engine, Setting) == 1, "the salt, and no mark any more"
    assert mark.encode() not in dump(engine, postgres)
    if engine.dialect.name == "postgresql":
        assert not any(mark.encode() in path.read_bytes() for path in postgres.table_files())
    for each in (engine, reader):
        each.dispose()


def dump(engine: Engine, postgres: Postgres) -> bytes:
    """All that an owner of the machine could read: the database's files, or PostgreSQL's dump."""
    if engine.dialect.name == "sqlite":
        database = Path(str(engine.url.database))
        return b"".join(path.read_bytes() for path in database.parent.glob(f"{database.name}*"))
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return subprocess.run([postgres.bin / "pg_dump", "--dbname", url], capture_output=True, check=True).stdout


def test_no_byte_of_it_is_left(store: Engine, postgres: Postgres) -> None:
    marks = {name: f"{name}{uuid.uuid4().hex}" for name in ("prompt", "answer", "comment", "correction", "tag", "turn")}
    ann = [
        logged(marks["prompt"], marks["answer"], user="ann", tags={"note": marks["tag"]}),
        logged(
            user="ann", messages=[{"role": "user", "content": marks["turn"] * 1000}, {"role": "user", "content": "?"}]
        ),
    ]
    ingest(store, ann, sealer=Sealer(KEY))
    for turn in range(200):
        add(store, f"Somebody else's question {turn}", user="ben")
    judge(store, ann[0].id, kind="comment", text=marks["comment"], number=None)
    judge(store, ann[0].id, kind="correction", text=marks["correction"], number=None)
    train(store, "snap", [each.id for each in ann])
    before = dump(store, postgres)
    for mark in marks.values():
        assert mark.encode() in before
    user_hash = hash_user(load_salt(store), "ann")
    erase_user(store, user_hash)
    after = dump(store, postgres)
    for name, mark in marks.items():
        assert mark.encode() not in after, name
        assert mark[5:15].encode() not in after, f"a part of {name}"
    assert ann[0].id.encode() not in after
    assert b"Somebody else's question 199" in after


def test_the_command_erases_and_says_what_it_did(store_url: URL) -> None:
    engine = open_database(store_url)
    mine = add(engine, "Mine", user="ann")
    train(engine, "snap", [mine], ("sft", None, "snap"))
    given = ["--database-url", store_url.render_as_string(hide_password=False)]
    result = CliRunner().invoke(app, ["erase", "--user", "ann", *given])
    assert result.exit_code == 0, result.output
    assert "1 completions" in result.stdout
    assert "sft" in result.stdout
    assert count(engine, Completion) == 0
    denied = CliRunner().invoke(app, ["consent", "--user", "ben", "--deny-training", *given])
    assert denied.exit_code == 0
    ben = add(engine, "Hi", user="ben")
    with reading(engine) as connection:
        assert connection.execute(select(Completion.trainable).where(Completion.id == ben)).scalar_one() is False
    engine.dispose()


def test_retention_takes_what_is_old(store: Engine) -> None:
    now = datetime.now(UTC)
    old = [add(store, f"Old {i}", created_s=(now - timedelta(days=10)).timestamp(), user="ann") for i in range(3)]
    add(store, "New")
    judge(store, old[0])
    run_due(store, retention_days=0)
    assert (count(store, Completion), count(store, Job)) == (4, 0)
    run_due(store, retention_days=7)
    run_due(store, retention_days=7)
    assert (count(store, Completion), count(store, Feedback)) == (1, 0)
    with reading(store) as connection:
        job = connection.execute(select(Job.kind, Job.state, Job.result)).one()
    assert job == (RETENTION, "succeeded", {"completions": 3}), "once a day, whoever runs it"
    assert expire(store, now + timedelta(seconds=5)) == 1


def test_originals_go_too(store: Engine) -> None:
    completion = logged("I am ann@example.org")
    ingest(store, [completion], sealer=Sealer(KEY))
    assert count(store, Original) == 1
    erase_completion(store, completion.id)
    assert count(store, Original) == 0


@pytest.mark.parametrize("table", [t for t in Base.metadata.tables if t not in ("settings", "erasures", "snapshots")])
def test_no_table_is_forgotten(table: str) -> None:
    """Whatever has to do with a completion is tied to it by a key that deletes, or holds nothing of a user's."""
    tied = {
        key.column.table.name
        for key in Base.metadata.tables[table].foreign_keys
        if key.ondelete in ("CASCADE", "SET NULL")
    }
    free = {"completions", "messages", "checkpoints", "jobs", "users", "segments", "promotions", "files"}
    assert tied or table in free
