"""Files into the tables: what is stored of each record, once, and all of a file or nothing."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from completions import count
from sqlalchemy import Engine, insert, select
from sqlalchemy.engine import URL

from honed.server.store.database import open_database, reading
from honed.server.store.exchange.files import FileError
from honed.server.store.exchange.importing import AT_ONCE, MAX_SHOWN, Imported, import_files, survey
from honed.server.store.ingest import Ingest
from honed.server.store.messages import load_prompts
from honed.server.store.tables import Base, Choice, Completion, Feedback, Message, Original, Tag, Target

HI: dict[str, Any] = {"role": "user", "content": "hi"}
HELLO: dict[str, Any] = {"role": "assistant", "content": "hello"}
BYE: dict[str, Any] = {"role": "assistant", "content": "bye"}
DEMONSTRATION: dict[str, Any] = {"messages": [HI, HELLO]}
PAIR: dict[str, Any] = {"prompt": [HI], "chosen": [HELLO], "rejected": [BYE]}
RANKING: dict[str, Any] = {
    "id": "r1",
    "messages": [HI],
    "answers": [{"text": "a", "rank": 4, "source": "m"}, {"text": "b", "rank": 1}, {"text": "c", "rank": 1}],
    "demonstration": "d",
}
THUMB: dict[str, Any] = {"prompt": [HI], "completion": [HELLO], "label": False}
PROMPT: dict[str, Any] = {"prompt": "The sky is", "id": 7}
TABLES: tuple[type[Base], ...] = (Completion, Choice, Message, Tag, Feedback, Target)


def written(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def imported(store: Engine, folder: Path, *rows: dict[str, Any], **options: bool) -> Imported:
    return import_files(store, [written(folder / "rows.jsonl", *rows)], **options)


def rows_of(store: Engine, table: type[Base]) -> list[Any]:
    with reading(store) as connection:
        return list(connection.execute(select(table).order_by(*table.__table__.primary_key)).all())


def row_of(store: Engine, table: type[Base]) -> Any:
    [row] = rows_of(store, table)
    return row


def counts(store: Engine) -> list[int]:
    return [count(store, table) for table in TABLES]


def question(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"What is {number} + 1?"}, HELLO]}


def test_a_record_becomes_a_completion_that_is_trained_on_and_not_retrieved(store: Engine, tmp_path: Path) -> None:
    assert (
        imported(store, tmp_path, {"prompt": [{"role": "system", "content": ""}, {**HI, "name": "ann"}]}).records == 1
    )
    stored = row_of(store, Completion)
    assert (stored.endpoint, stored.source, stored.model, stored.policy_id) == ("chat", "import", "import", "import")
    assert (stored.key_id, stored.retrievable, stored.trainable) == ("import", False, True)
    assert (stored.tags, stored.redactions, stored.user_hash) == ({}, {}, None)
    with reading(store) as connection:
        prompts = load_prompts(connection, [stored.prompt_id])
    assert prompts[stored.prompt_id] == [{"role": "system", "content": ""}, {**HI, "name": "ann"}]
    assert counts(store) == [1, 0, 2, 0, 0, 0]


def test_a_text_prompt_and_an_id(store: Engine, tmp_path: Path) -> None:
    imported(store, tmp_path, PROMPT)
    stored, message = row_of(store, Completion), row_of(store, Message)
    assert (stored.endpoint, stored.tags) == ("text", {"id": "7"})
    assert (message.role, message.content) == ("text", "The sky is")
    assert (row_of(store, Tag).key, row_of(store, Tag).value) == ("id", "7")


def test_a_demonstration_is_a_correction_of_nothing(store: Engine, tmp_path: Path) -> None:
    imported(store, tmp_path, DEMONSTRATION)
    said = row_of(store, Feedback)
    assert (said.kind, said.choice, said.text, said.number) == ("correction", 0, "hello", None)
    assert (said.source, said.labeler, said.key_id, said.policy_id) == ("labeler", None, "import", "import")
    assert said.completion_id == row_of(store, Completion).id
    assert counts(store) == [1, 0, 1, 0, 1, 0]


def test_a_thumb(store: Engine, tmp_path: Path) -> None:
    imported(store, tmp_path, THUMB)
    said, choice = row_of(store, Feedback), row_of(store, Choice)
    assert (said.kind, said.choice, said.number, said.text) == ("thumb", 0, 0, None)
    assert (choice.index, choice.text, choice.finish_reason, choice.source) == (0, "hello", "stop", None)
    assert count(store, Target) == 0


def test_a_ranking_keeps_ranks_sources_and_its_demonstration(store: Engine, tmp_path: Path) -> None:
    imported(store, tmp_path, RANKING)
    choices = [(each.index, each.text, each.source) for each in rows_of(store, Choice)]
    assert choices == [(0, "a", "m"), (1, "b", None), (2, "c", None)]
    said = {each.kind: each for each in rows_of(store, Feedback)}
    assert set(said) == {"ranking", "correction"}
    assert (said["ranking"].choice, said["correction"].choice, said["correction"].text) == (1, 1, "d")
    targets = rows_of(store, Target)
    assert {each.feedback_id for each in targets} == {said["ranking"].id}
    assert [(each.choice, each.rank) for each in targets] == [(0, 4), (1, 1), (2, 1)]
    assert row_of(store, Completion).tags == {"id": "r1"}


def test_what_a_pair_says_whole_is_a_comparison(store: Engine, tmp_path: Path) -> None:
    ranked: list[tuple[tuple[str, int], tuple[str, int], str]] = [
        (("a", 1), ("b", 2), "comparison"),
        (("a", 2), ("b", 1), "ranking"),
        (("a", 1), ("b", 3), "ranking"),
        (("a", 1), ("a", 2), "ranking"),
        (("a", 1), ("b", 1), "ranking"),
    ]
    rows = [
        {"messages": [HI], "answers": [{"text": one, "rank": first}, {"text": two, "rank": second}]}
        for (one, first), (two, second), _ in ranked
    ]
    sourced = {"messages": [HI], "answers": [{"text": "a", "rank": 1}, {"text": "b", "rank": 2, "source": "m"}]}
    imported(store, tmp_path, PAIR, sourced, *rows)
    kinds = [each.kind for each in rows_of(store, Feedback)]
    assert kinds == ["comparison", "ranking", *(kind for _, _, kind in ranked)]
    assert count(store, Target) == 2 * len(kinds)


def test_a_file_twice_adds_nothing_in_whatever_order(store: Engine, tmp_path: Path) -> None:
    rows = [DEMONSTRATION, PAIR, RANKING, THUMB, PROMPT, *map(question, range(AT_ONCE))]
    first = imported(store, tmp_path, *rows)
    assert (first.records, first.known) == (len(rows), 0)
    before = counts(store)
    again = imported(store, tmp_path, *rows)
    assert (again.records, again.known) == (0, len(rows))
    random.Random(1).shuffle(rows)
    shuffled = imported(store, tmp_path, question(-1), *rows)
    assert (shuffled.records, shuffled.known) == (1, len(rows))
    assert counts(store) == [before[0] + 1, before[1], before[2] + 1, before[3], before[4] + 1, before[5]]


def test_what_a_file_says_twice_is_there_twice(store: Engine, tmp_path: Path) -> None:
    """Two people may judge alike."""
    assert imported(store, tmp_path, THUMB, PAIR, THUMB).records == 3
    assert imported(store, tmp_path, THUMB, THUMB, PAIR).known == 3
    assert (count(store, Completion), count(store, Feedback)) == (3, 3)
    third = imported(store, tmp_path, THUMB, THUMB, THUMB)
    assert (third.records, third.known) == (1, 2)


def test_records_that_differ_are_told_apart(store: Engine, tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [
        {**THUMB, "label": True},
        {**THUMB, "id": "1"},
        {**THUMB, "completion": [BYE]},
        {**THUMB, "prompt": [{**HI, "name": "ann"}]},
        {"prompt": "hi", "completion": "hello", "label": False},
        {"prompt": [HI], "completion": [HELLO]},
        {"prompt": [HI]},
    ]
    assert imported(store, tmp_path, THUMB, *others).records == 8
    assert len({each.id[-20:] for each in rows_of(store, Completion)}) == 8


def test_two_files_that_say_the_same(store: Engine, tmp_path: Path) -> None:
    files = [written(tmp_path / "a.jsonl", THUMB, PAIR), written(tmp_path / "b.jsonl", PAIR, PROMPT)]
    done = import_files(store, files)
    assert (done.records, done.known) == (3, 1)


def test_texts_are_redacted_and_ids_and_sources_are_not(store: Engine, tmp_path: Path) -> None:
    mail = "ann@example.org"
    row = {
        "id": mail,
        "messages": [{"role": "user", "content": f"Write to {mail}", "name": mail}],
        "answers": [{"text": f"To {mail}", "rank": 1, "source": mail}, {"text": "No", "rank": 2}],
        "demonstration": f"Dear {mail}, or {mail}",
    }
    done = imported(store, tmp_path, row, PAIR)
    assert (done.redactions, done.redacted) == ({"email": 5}, 1)
    prompt = next(each for each in rows_of(store, Message) if each.name)
    assert (prompt.content, prompt.name) == ("Write to [EMAIL]", "[EMAIL]")
    stored = next(each for each in rows_of(store, Completion) if each.tags)
    assert (stored.tags, stored.redactions) == ({"id": mail}, {"email": 3})
    answers = [each for each in rows_of(store, Choice) if each.completion_id == stored.id]
    assert [(each.text, each.source) for each in answers] == [("To [EMAIL]", mail), ("No", None)]
    texts = [each.text for each in rows_of(store, Feedback) if each.kind == "correction"]
    assert texts == ["Dear [EMAIL], or [EMAIL]"]
    assert count(store, Original) == 0
    again = imported(store, tmp_path, row, PAIR)
    assert (again.known, again.redacted, again.redactions) == (2, 0, {}), "nothing was stored, so nothing was redacted"


def test_an_id_does_not_betray_what_was_redacted(store: Engine, tmp_path: Path) -> None:
    imported(store, tmp_path, {"messages": [{"role": "user", "content": "I am ann@example.org"}, HELLO]})
    done = imported(store, tmp_path, {"messages": [{"role": "user", "content": "I am ben@example.org"}, HELLO]})
    assert done.known == 1


def test_personal_data_may_stay(store: Engine, tmp_path: Path) -> None:
    row = {
        "messages": [{"role": "user", "content": "I am ann@example.org"}, {**HELLO, "content": "Hi ann@example.org"}]
    }
    done = imported(store, tmp_path, row, keep_personal_data=True)
    assert (done.redactions, done.redacted) == ({}, 0)
    assert row_of(store, Message).content == "I am ann@example.org"
    assert row_of(store, Feedback).text == "Hi ann@example.org"


def test_feedback_has_the_order_of_the_file(store: Engine, tmp_path: Path) -> None:
    imported(store, tmp_path, *map(question, range(30)))
    asked = {each.id: each.prompt_id for each in rows_of(store, Completion)}
    texts = {each.id: each.content for each in rows_of(store, Message)}
    in_order = [texts[asked[each.completion_id]] for each in rows_of(store, Feedback)]
    assert in_order == [f"What is {number} + 1?" for number in range(30)]


def test_a_survey_counts_and_shows_the_first(tmp_path: Path) -> None:
    good = written(tmp_path / "good.jsonl", {**PAIR, "score": 1}, {**PAIR, "score": 2, "x": 1}, PROMPT)
    bad = written(tmp_path / "bad.jsonl", PROMPT, *["{"] * 25)
    found = survey([good, bad])
    assert (found.records, found.malformed) == (4, 25)
    assert found.ignored_keys == {"score": 2, "x": 1}
    assert len(found.first_malformed) == MAX_SHOWN
    assert (found.first_malformed[0].path, found.first_malformed[0].line) == (bad, 2)


def test_a_survey_refuses_what_cannot_be_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(FileError, match="is no regular file: an import reads each file twice"):
            survey([path])
    with pytest.raises(FileError, match="No such file"):
        survey([tmp_path / "none.jsonl"])


def test_a_malformed_line_leaves_nothing(store: Engine, tmp_path: Path) -> None:
    rows = list(map(question, range(2 * AT_ONCE)))
    good, bad = written(tmp_path / "good.jsonl", PAIR), written(tmp_path / "bad.jsonl", *rows, "{", PROMPT)
    with pytest.raises(FileError, match=f"bad.jsonl cannot be imported: line {len(rows) + 1}: the line is not JSON"):
        import_files(store, [good, bad])
    assert counts(store) == [0] * len(TABLES)
    assert import_files(store, [good, bad], skip_malformed=True).records == len(rows) + 2


def test_a_message_that_was_pruned_meanwhile_is_inserted_anew(
    store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Ingest.insert
    calls: list[int] = []

    def pruned_once(self: Ingest, connection: Any, completions: Any) -> Any:
        calls.append(len(completions))
        if len(calls) == 2:
            lost = {"completion_id": "none", "index": 0, "text": "", "finish_reason": None}
            connection.execute(insert(Choice).values(lost))  # what the database says of a reference to nothing
        return whole(self, connection, completions)

    monkeypatch.setattr(Ingest, "insert", pruned_once)
    rows = list(map(question, range(2 * AT_ONCE)))
    assert imported(store, tmp_path, *rows).records == len(rows)
    assert calls == [AT_ONCE] * 3
    assert (count(store, Completion), count(store, Feedback)) == (len(rows), len(rows))


IMPORT = """
import sys
from pathlib import Path
from sqlalchemy import make_url
from honed.server.store.database import open_database
from honed.server.store.exchange.importing import import_files
import_files(open_database(make_url(sys.argv[1])), [Path(sys.argv[2])])
"""


def test_an_import_that_is_killed_leaves_nothing(store_url: URL, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    url = store_url.render_as_string(hide_password=False)
    process = subprocess.Popen([sys.executable, "-c", IMPORT, url, str(pipe)])
    with pipe.open("w", encoding="utf-8") as stream:
        for number in range(10 * AT_ONCE):
            stream.write(json.dumps({"prompt": [{"role": "user", "content": f"{number} {'x' * 1000}"}]}) + "\n")
        stream.flush()  # all but what the pipe and the reader hold, less than 200 lines, is in the tables
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    store = open_database(store_url)
    assert counts(store) == [0] * len(TABLES)
    assert imported(store, tmp_path, PAIR).records == 1, "nothing is locked"
    store.dispose()
