"""`honed import` and `honed export` as they are typed: what they say, where, and how they end."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from databases import Postgres
from sqlalchemy.engine import URL
from typer.testing import CliRunner, Result

from honed.cli import app
from honed.server.store.exchange.files import read_rows

Row = dict[str, Any]

HI: Row = {"role": "user", "content": "hi"}
HELLO: Row = {"role": "assistant", "content": "hello"}
DEMONSTRATION: Row = {"messages": [HI, HELLO]}
THUMB: Row = {"prompt": [HI], "completion": [HELLO], "label": True}
TEXT: Row = {"prompt": "The sky is", "completion": " blue."}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HONED_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HONED_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def honed(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def written(name: str, *rows: Row | str) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return name


def rows(result: Result) -> list[Row]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_in_and_out() -> None:
    done = honed("import", written("a.jsonl", DEMONSTRATION), written("b.jsonl", THUMB, DEMONSTRATION))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "Imported 2 records; 1 was there already.\n", "")
    out = honed("export", "--what", "demonstrations")
    assert (out.exit_code, rows(out), out.stderr) == (0, [DEMONSTRATION], "Wrote 1 row.\n")


def test_a_store_that_is_named(store_url: URL, home: Path) -> None:
    url = store_url.render_as_string(hide_password=False)
    assert honed("import", written("a.jsonl", THUMB), "--database-url", url).exit_code == 0
    assert rows(honed("export", "--what", "thumbs", "--database-url", url)) == [THUMB]
    assert not home.exists()


def test_malformed_lines_are_named_and_nothing_is_imported() -> None:
    bad = written("bad.jsonl", DEMONSTRATION, '{"x": 1}', "{")
    done = honed("import", written("good.jsonl", THUMB), bad)
    assert (done.exit_code, done.stdout) == (1, "")
    first, second, last = done.stderr.splitlines()
    assert first.startswith("bad.jsonl:2: the format is unknown: the row has the keys x,")
    assert second.startswith("bad.jsonl:3: the line is not JSON:")
    assert last == (
        "honed: 2 lines cannot be read, so nothing was imported: correct them, or leave them out with --skip-malformed."
    )
    assert rows(honed("export", "--what", "thumbs")) == []
    done = honed("import", bad, "--skip-malformed")
    assert (done.exit_code, done.stdout) == (0, "Imported 1 record.\nLeft out 2 malformed lines.\n")
    assert len(done.stderr.splitlines()) == 2


def test_of_many_malformed_lines_the_first_are_shown() -> None:
    done = honed("import", written("bad.jsonl", *["{}"] * 23))
    assert len(done.stderr.splitlines()) == 22
    assert done.stderr.splitlines()[-2] == "... and 3 lines more"


def test_redactions_and_ignored_keys_are_said() -> None:
    mails = {"role": "user", "content": "From ann@example.org to ben@example.org"}
    rows_ = [{"messages": [mails, HELLO], "score": 1}, {"messages": [HI, HELLO], "score": 2, "b": 1}]
    done = honed("import", written("a.jsonl", *rows_))
    assert done.stdout == "Imported 2 records.\nRedacted in 1 of them: email (2).\n"
    assert done.stderr == "Keys that no format has were left out: b (1), score (2)\n"
    kept = honed("import", "a.jsonl", "--keep-personal-data")
    assert kept.stdout == "Imported 1 record; 1 was there already.\n"


def test_files_that_cannot_be_imported() -> None:
    Path("cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
    for name, words in [
        ("none.jsonl", "honed: none.jsonl cannot be read: No such file or directory"),
        (".", "honed: . is no regular file"),
        ("cut.jsonl.gz", "honed: cut.jsonl.gz is a damaged gzip file"),
    ]:
        done = honed("import", name)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith(words)
    assert honed("import").exit_code == 2


def test_forms_and_names_of_what_is_written() -> None:
    honed("import", written("a.jsonl", THUMB))
    for form, name in [("jsonl", "out.jsonl"), ("jsonl", "out.JSONL.gz"), ("parquet", "out.parquet")]:
        done = honed("export", "--what", "thumbs", "--format", form, "--output", name)
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", "Wrote 1 row.\n")
        assert len(list(read_rows(Path(name)))) == 1
    for form, name, words in [
        ("parquet", "-", "Parquet does not go to standard output: name a file with --output FILE.parquet."),
        ("parquet", "b.jsonl", "b.jsonl is no name of a parquet file: give --format jsonl."),
        ("jsonl", "b.parquet", "b.parquet is no name of a jsonl file: give --format parquet."),
        ("jsonl", "b.csv", "b.csv is no name of a jsonl file: let its name end with .jsonl or .jsonl.gz."),
        ("jsonl", "none/b.jsonl", f"{Path('none/b.jsonl').absolute()} cannot be written: make the folder"),
    ]:
        done = honed("export", "--what", "thumbs", "--format", form, "--output", name)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith(f"honed: {words}")
    assert honed("export").exit_code == 2
    assert honed("export", "--what", "dreams").exit_code == 2


def test_texts_apart_from_chats() -> None:
    honed("import", written("a.jsonl", DEMONSTRATION, TEXT, TEXT))
    chats = honed("export", "--what", "demonstrations")
    assert (rows(chats), chats.stderr) == (
        [DEMONSTRATION],
        "Wrote 1 row.\nLeft out 2 with text prompts: to write those, give --text.\n",
    )
    texts = honed("export", "--what", "demonstrations", "--text")
    assert (rows(texts), texts.stderr) == (
        [TEXT, TEXT],
        "Wrote 2 rows.\nLeft out 1 with chats: to write those, leave --text out.\n",
    )


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    many = [{"prompt": [HI], "completion": [{**HELLO, "content": f"{number} {'x' * 1000}"}], "label": True}
            for number in range(300)]  # fmt: skip
    honed("import", written("a.jsonl", *many))
    command = [sys.executable, "-c", "from honed.cli import app; app()", "export", "--what", "thumbs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_a_store_without_tables(postgres: Postgres) -> None:
    url = postgres.new_database().render_as_string(hide_password=False)
    for arguments in (["import", written("a.jsonl", THUMB)], ["export", "--what", "thumbs"]):
        done = honed(*arguments, "--database-url", url)
        assert (done.exit_code, done.stdout) == (1, "")
        assert "run `honed migrate`" in done.stderr
