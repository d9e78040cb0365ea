"""From an answer on the wire to rows in the store: what is remembered, when, and what is not."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from completions import logged
from conftest import LiveServer, eventually, running
from fakes import FAKE_ANSWER, fake_load
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.engine import URL

from honed.server import policies
from honed.server.settings import Settings
from honed.server.store.database import reading
from honed.server.store.ingest import logprobs, token_ids
from honed.server.store.journal import Journal
from honed.server.store.messages import load_prompts
from honed.server.store.tables import Choice, Completion

pytestmark = pytest.mark.usefixtures("fake_engine")

MESSAGES = [{"role": "user", "content": "Hi"}]


def settings_for(url: URL, **more: Any) -> Settings:
    return Settings(database_url=SecretStr(url.render_as_string(hide_password=False)), **({"logging": "all"} | more))


@pytest.fixture
def server(store_url: URL) -> Iterator[LiveServer]:
    with running(settings_for(store_url)) as live:
        yield live


def ask(server: LiveServer, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"model": "honed", "messages": MESSAGES} | fields
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60)


def all_stored(server: LiveServer) -> None:
    eventually(lambda: server.app.state.recorder.health().pending == 0)


def completions(server: LiveServer) -> list[Any]:
    all_stored(server)
    with reading(server.app.state.storage.engine) as connection:
        return list(connection.execute(select(Completion).order_by(Completion.id)).all())


def test_an_answer_is_remembered_as_it_was_given(server: LiveServer) -> None:
    answer = ask(server, n=2, temperature=0.5, stop=["never said"], metadata={"app": "test"}).json()
    (stored,) = completions(server)
    assert (stored.id, stored.endpoint, stored.source) == (answer["id"], "chat", "server")
    assert int(stored.created.timestamp()) == answer["created"]
    assert (stored.model, stored.policy_id) == (answer["model"], answer["system_fingerprint"])
    assert stored.params == {"n": 2, "temperature": 0.5, "stop": ["never said"]}
    assert stored.completion_tokens == answer["usage"]["completion_tokens"]
    assert stored.prompt_tokens == answer["usage"]["prompt_tokens"]
    assert (stored.key_id, stored.retrievable, stored.trainable) == ("anonymous", True, True)
    assert stored.total_ms >= stored.first_token_ms >= 0
    with reading(server.app.state.storage.engine) as connection:
        assert load_prompts(connection, [stored.prompt_id])[stored.prompt_id] == MESSAGES
        choices = connection.execute(select(Choice).order_by(Choice.index)).all()
    assert [(choice.text, choice.finish_reason) for choice in choices] == [(FAKE_ANSWER, "stop")] * 2
    ids = token_ids(choices[0].token_ids)
    assert ids is not None
    assert ids[-1] == 2, "the end of the answer was sampled as well"
    assert logprobs(choices[0].logprobs) == [-0.5] * len(ids)


def test_a_stream_is_remembered_like_the_whole_answer(server: LiveServer) -> None:
    ask(server)
    ask(server, stream=True)
    whole, streamed = completions(server)
    assert (streamed.prompt_id, streamed.completion_tokens) == (whole.prompt_id, whole.completion_tokens)
    with reading(server.app.state.storage.engine) as connection:
        texts = connection.execute(select(Choice.text, Choice.token_ids)).all()
    assert texts[0] == texts[1]


def test_every_prompt_of_a_legacy_request_is_a_completion(server: LiveServer) -> None:
    body = {"model": "honed", "prompt": ["One", "Two"], "n": 2, "max_tokens": 5}
    answer = httpx.post(f"{server.url}/v1/completions", json=body).json()
    first, second = completions(server)
    assert (first.id, second.id) == (answer["id"], f"{answer['id']}.1")
    with reading(server.app.state.storage.engine) as connection:
        choices = connection.execute(select(Choice.completion_id, Choice.index, Choice.finish_reason)).all()
        prompts = load_prompts(connection, [first.prompt_id, second.prompt_id])
    assert sorted(choices) == [
        (first.id, 0, "length"), (first.id, 1, "length"), (second.id, 2, "length"), (second.id, 3, "length")
    ]  # fmt: skip
    assert prompts[second.prompt_id] == [{"role": "text", "content": "Two"}]
    assert first.completion_tokens + second.completion_tokens == answer["usage"]["completion_tokens"]


def test_token_ids_of_a_prompt_are_kept_beside_its_text(server: LiveServer) -> None:
    ids = server.served.policy.tokenizer.encode("Once upon", add_special_tokens=False)
    httpx.post(f"{server.url}/v1/completions", json={"model": "honed", "prompt": ids})
    (stored,) = completions(server)
    assert token_ids(stored.prompt_token_ids) == ids
    with reading(server.app.state.storage.engine) as connection:
        assert load_prompts(connection, [stored.prompt_id])[stored.prompt_id][0]["content"] == "Once upon"


CONSENT = [
    ("all", None, None, (True, True)),
    ("all", True, None, (True, True)),
    ("all", False, None, None),
    ("all", None, "deny", (True, False)),
    ("all", False, "allow", (False, True)),
    ("opt_in", None, None, None),
    ("opt_in", True, None, (True, True)),
    ("opt_in", True, "deny", (True, False)),
    ("opt_in", None, "allow", (False, True)),
    ("private", True, "allow", (True, False)),
]


@pytest.fixture(scope="module")
def by_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A key for each rule, on a server that keeps nothing by itself."""
    keys = [f"sk-{mode} logging={mode} role=admin" for mode in ("all", "opt_in", "off")]
    keys.append("sk-private logging=all training=deny role=admin")
    settings = Settings(home=tmp_path_factory.mktemp("home"), logging="off", api_keys=tuple(map(SecretStr, keys)))
    server = running(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "load", fake_load)
        live = server.__enter__()
    yield live
    server.__exit__()


@pytest.mark.parametrize(
    ("key", "store", "training", "expected"), [*CONSENT, ("private", True, "allow", (True, False))]
)
def test_what_is_kept_is_what_was_consented_to(
    by_key: LiveServer, key: str, store: bool | None, training: str | None, expected: tuple[bool, bool] | None
) -> None:
    headers = {"authorization": f"Bearer sk-{key}"} | ({"x-honed-training": training} if training else {})
    answer = ask(by_key, headers, store=store)
    assert answer.status_code == 200
    stored = {row.id: (row.retrievable, row.trainable) for row in completions(by_key)}
    assert stored.get(answer.json()["id"]) == expected


@pytest.mark.parametrize(
    ("key", "body", "headers", "param"),
    [
        ("off", {"store": True}, {}, "store"),
        ("off", {}, {"x-honed-training": "allow"}, "x-honed-training"),
        ("all", {}, {"x-honed-training": "perhaps"}, "x-honed-training"),
        ("opt_in", {"metadata": {"a": "b"}}, {}, "metadata"),
        ("all", {"metadata": {"a": 5}}, {}, "metadata.a"),
        ("all", {"metadata": {"a": "x" * 513}}, {}, "metadata.a"),
        ("all", {"metadata": {str(i): "x" for i in range(17)}}, {}, "metadata"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(
    by_key: LiveServer, key: str, body: dict[str, Any], headers: dict[str, str], param: str
) -> None:
    response = ask(by_key, headers | {"authorization": f"Bearer sk-{key}"}, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_a_stream_that_the_client_cut_off_is_what_was_sent(
    long_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real engine, which takes its time
    settings = Settings(model=str(long_checkpoint), dtype="float32", kv_cache_gib=0.05, logging="all")
    with running(settings) as server:
        body = {"model": "honed", "messages": MESSAGES, "stream": True, "ignore_eos": True, "max_tokens": 5000}
        body["temperature"] = 0  # the answer has no U+0000, which no database keeps, and its tokens neither
        received = ""
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    received += json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content", "")
                if len(received) > 20:
                    break
        eventually(lambda: len(completions(server)) == 1)
        with reading(server.app.state.storage.engine) as connection:
            choice = connection.execute(select(Choice)).one()
        assert choice.finish_reason is None
        assert choice.text.startswith(received)
        assert len(choice.text) < 4000
        assert len(token_ids(choice.token_ids) or ()) == completions(server)[0].completion_tokens


def test_the_store_is_in_health_and_metrics(server: LiveServer) -> None:
    ask(server, messages=[{"role": "user", "content": "I am ann@example.org"}])
    all_stored(server)
    eventually(lambda: httpx.get(f"{server.url}/health").json()["store"]["state"] == "up")
    assert httpx.get(f"{server.url}/health").json()["store"]["dropped"] == 0
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "honed_store_up 1.0" in metrics
    assert "honed_stored_completions_total 1.0" in metrics
    assert 'honed_redactions_total{kind="email"} 1.0' in metrics


def test_a_writer_that_dies_is_started_again(server: LiveServer) -> None:
    ask(server)
    all_stored(server)
    os.kill(server.app.state.recorder._writer.pid, signal.SIGKILL)
    ask(server)
    eventually(lambda: len(completions(server)) == 2)
    eventually(lambda: server.app.state.recorder.health().state == "up")


def test_what_is_stored_leaves_the_journal(store_url: URL, tmp_path: Path) -> None:
    """Users' words lie on the disk as they wrote them no longer than they must."""
    with running(settings_for(store_url, home=tmp_path)) as server:
        ask(server)
        all_stored(server)
        eventually(lambda: list((tmp_path / "journal").iterdir()) == [])
        ask(server)
        assert len(completions(server)) == 2
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_full_journal_drops_and_says_so(store_url: URL) -> None:
    with running(settings_for(store_url)) as server:
        server.app.state.recorder._journal_bytes = 2**40
        assert ask(server).status_code == 200
        assert server.app.state.recorder.health().dropped == 1
        assert 'honed_lost_completions_total{reason="full"} 1.0' in httpx.get(f"{server.url}/metrics").text


def test_a_journal_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file in its place")
    with running(Settings(home=tmp_path, logging="all")) as server:
        assert ask(server).status_code == 200
        eventually(lambda: "journal" in str(httpx.get(f"{server.url}/health").json()["store"]["detail"]))
        (tmp_path / "journal").unlink()
        assert len(completions(server)) == 1
        eventually(lambda: server.app.state.recorder.health().state == "up")


def test_what_a_dead_server_left_is_stored_where_nothing_new_is_kept(tmp_path: Path) -> None:
    left = logged("Left behind")
    log = Journal(tmp_path / "journal")
    log.append([left.to_line()])
    log.close()
    with running(Settings(home=tmp_path, logging="off")) as server:
        eventually(lambda: [row.id for row in completions(server)] == [left.id])


def test_other_users_of_the_machine_cannot_read_it(tmp_path: Path) -> None:
    with running(Settings(home=tmp_path, logging="all")) as server:
        ask(server)
        all_stored(server)
        for path in tmp_path.glob("honed.db*"):
            assert path.stat().st_mode & 0o077 == 0, path


def test_health_does_not_tell_of_the_database(tmp_path: Path) -> None:
    url = SecretStr(f"postgresql+psycopg://ann@/db?host={tmp_path}")
    with running(Settings(home=tmp_path, database_url=url, logging="all")) as server:
        eventually(lambda: server.app.state.recorder.health().state == "down")
        detail = httpx.get(f"{server.url}/health").json()["store"]["detail"]
        assert detail == "The database does not answer; the log says why."


def test_nothing_is_started_where_nothing_is_kept(tmp_path: Path) -> None:
    with running(Settings(home=tmp_path, logging="off")) as server:
        ask(server)
        assert httpx.get(f"{server.url}/health").json()["store"]["state"] == "off"
        assert not (tmp_path / "journal").exists()
