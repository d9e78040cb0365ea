"""The terminal chat: its conversation as a value, its input as lines, and all of it in a real terminal."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from openai_peer import Peer, Reply, answer, chunk, frame, free_port, refusal, serve
from typer.testing import CliRunner

from honed.clients.commands import COMMANDS
from honed.clients.conversation import Conversation
from honed.clients.endpoint import EndpointError, api_root, open_client
from honed.clients.session import Incoming, Session
from honed.clients.terminal import chat, converse

app = typer.Typer()
app.command("chat")(chat)

# A background job without a terminal ignores SIGINT, and so would its children.
RUN = (
    "import signal, typer; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from honed.clients.terminal import chat; typer.run(chat)"
)


def echo(body: dict[str, object]) -> Reply:
    """Says the last question again, one character a chunk."""
    messages = body["messages"]
    assert isinstance(messages, list)
    text = messages[-1]["content"]
    return answer(*text, completion_tokens=len(text))


def talk(peer: Peer, *lines: str | type[BaseException]) -> Session:
    """Types those lines; an exception stands for the key that raises it. Ends with Ctrl-D."""
    typed = iter([*lines, EOFError])

    def read_line(_prompt: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    with open_client(peer.url, None) as client:
        session = Session(client, Conversation("tiny"))
        converse(session, read_line)
    return session


def roles(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation.messages()]


def test_a_conversation_alternates() -> None:
    talked = Conversation("m", system="Be kind.").ask("1").answered("one").ask("2")
    assert roles(talked) == [("system", "Be kind."), ("user", "1"), ("assistant", "one"), ("user", "2")]
    assert roles(talked.ask("3"))[-2:] == [("assistant", "one"), ("user", "3")]


def test_undo_retry_and_forget() -> None:
    talked = Conversation("m", temperature=0.5).ask("1").answered("one").ask("2").answered("two")
    assert talked.undo() == Conversation("m", temperature=0.5).ask("1").answered("one")
    assert talked.retry() == talked.undo().ask("2")
    assert talked.forget() == Conversation("m", temperature=0.5)
    assert Conversation("m").undo() == Conversation("m") == Conversation("m").retry()


def test_a_request_leaves_to_the_server_what_was_not_given() -> None:
    assert Conversation("m").ask("1").request().keys() == {"model", "messages", "stream"}
    request = Conversation("m", temperature=0.0, max_tokens=7).ask("1").request()
    assert (request["temperature"], request["max_tokens"]) == (0.0, 7)


def test_only_what_was_answered_is_saved() -> None:
    assert Conversation("m", system="s").ask("1").as_json_line() == ""
    saved = json.loads(Conversation("m").ask("1").answered("一").ask("2").as_json_line())
    assert saved == {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "一"}]}


def test_the_pace_leaves_the_first_token_s_wait_out() -> None:
    incoming = Incoming(asked_s=10.0, first_s=10.5, last_s=12.5, tokens=21)
    assert incoming.pace() == "21 tokens, 10.0 tokens/s, the first after 0.50 s"
    assert Incoming(asked_s=10.0, first_s=10.5, last_s=10.5, tokens=1).pace() == ("1 tokens, the first after 0.50 s")
    assert Incoming(asked_s=10.0, tokens=0).pace() == "0 tokens"


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("https://host/v1/", "https://host/v1"),
        ("localhost:8000", "http://localhost:8000/v1"),
        ("http://[::1]:80/api/v1", "http://[::1]:80/api/v1"),
    ],
)
def test_an_address_comes_with_or_without_v1(url: str, root: str) -> None:
    assert api_root(url) == root


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port", "http://[::1"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(EndpointError, match="no HTTP address"):
        api_root(url)


@pytest.mark.parametrize("every_bytes", [1, 7, None])
def test_a_pipe_gets_the_answer_and_nothing_else(every_bytes: int | None) -> None:
    reply = answer("你好", " :smile: [b]x[/b]", " 🦙", completion_tokens=3, every_bytes=every_bytes)
    with serve(lambda _: reply) as peer:
        result = CliRunner().invoke(app, [peer.url, "--api-key", "k"], input="hi\nthere\n")
    assert result.exit_code == 0
    assert result.stdout == "你好 :smile: [b]x[/b] 🦙\n"
    assert result.stderr == ""
    assert peer.requests[0]["messages"] == [{"role": "user", "content": "hi\nthere"}]
    assert peer.requests[0]["model"] == "tiny"
    assert peer.keys == ["Bearer k"]


def test_options_reach_the_request() -> None:
    with serve(lambda _: answer("a")) as peer:
        arguments = [peer.url + "/v1", "--model", "large", "--system", "s", "--temperature", "0.5"]
        result = CliRunner().invoke(app, [*arguments, "--max-tokens", "9"], input="hi")
    assert result.exit_code == 0
    (request,) = peer.requests
    assert request["messages"][0] == {"role": "system", "content": "s"}
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("large", 0.5, 9)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (refusal(401, "Incorrect API key provided."), "401, Incorrect API key provided: give a key"),
        (refusal(503, "Overloaded"), "wait a few seconds"),
        (Reply([b"<html>\nbad\ngateway"], 502), "502, <html> bad gateway: see the server's log"),
        (Reply([b""], 500), "500, with an empty body"),
        (Reply([frame(chunk("par")), b'data: {"error": {"message": "engine died"}}\n\n']), "engine died"),
        (Reply([frame(chunk("par"))]), "the stream ended before the answer did"),
        (Reply([b'{"object": "chat.completion"}']), "the stream ended before the answer did"),
    ],
)
def test_an_error_is_one_line_and_a_failure(reply: Reply, message: str) -> None:
    with serve(lambda _: reply) as peer:
        result = CliRunner().invoke(app, [peer.url, "--model", "m"], input="hi")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_server_is_one_line_that_says_what_to_do() -> None:
    result = CliRunner().invoke(app, [f"http://127.0.0.1:{free_port()}"], input="hi")
    assert result.exit_code == 1
    assert "is the server running? make serve" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with serve(echo) as peer:
        result = CliRunner().invoke(app, [peer.url], input="hi")
    assert result.stdout == "hi\n"


def test_ctrl_c_on_a_pipe_keeps_what_came_and_is_the_exit_status() -> None:
    with serve(lambda _: Reply([frame(chunk("so far"))], hangs=True)) as peer:
        command = [sys.executable, "-c", RUN, peer.url]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **pipes) as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write(b"hi")
            process.stdin.close()
            shown = process.stdout.read(6)
            while process.poll() is None:
                process.send_signal(signal.SIGINT)
                time.sleep(1)
            shown += process.stdout.read()
    assert shown == b"so far\n"
    assert process.returncode == 130


def test_an_empty_pipe_is_no_question() -> None:
    with serve(echo) as peer:
        result = CliRunner().invoke(app, [peer.url], input=" \n")
    assert result.exit_code == 1
    assert "no question" in result.stderr
    assert peer.requests == []


def test_a_peer_without_stream_options_is_asked_without() -> None:
    def reply(body: dict[str, object]) -> Reply:
        return refusal(400, "Unknown parameter: stream_options") if "stream_options" in body else echo(body)

    with serve(reply) as peer:
        session = talk(peer, "a", "b")
    assert roles(session.conversation) == [
        ("user", "a"),
        ("assistant", "a"),
        ("user", "b"),
        ("assistant", "b"),
    ]
    assert ["stream_options" in request for request in peer.requests] == [True, False, False]


def test_lines_go_on_after_a_backslash() -> None:
    with serve(echo) as peer:
        session = talk(peer, "one\\", "two\\", "three", "dropped\\", KeyboardInterrupt, "  ", "/quit", "never")
    assert roles(session.conversation)[0] == ("user", "one\ntwo\nthree")
    assert len(peer.requests) == 1


def test_commands_change_the_conversation() -> None:
    with serve(echo) as peer:
        session = talk(
            peer,
            "a",
            "b",
            "/undo",
            "/system Be kind.",
            "/temperature 0.5",
            "/model large",
            "/retry",
            "/nonsense",
        )
    assert roles(session.conversation) == [("system", "Be kind."), ("user", "a"), ("assistant", "a")]
    assert peer.requests[-1]["temperature"] == 0.5
    assert [request["model"] for request in peer.requests] == ["tiny", "tiny", "large"]


def test_new_and_an_empty_system_take_things_away() -> None:
    with serve(echo) as peer:
        session = talk(peer, "/system s", "a", "/new", "/system", "/undo", "/retry")
    assert session.conversation == Conversation("tiny")
    assert len(peer.requests) == 1


@pytest.mark.parametrize("value", ["", "warm", "-1", "nan", "inf"])
def test_what_is_no_temperature_changes_nothing(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(echo) as peer:
        session = talk(peer, f"/temperature {value}")
    assert session.conversation.temperature is None
    assert "no temperature" in capsys.readouterr().err


def test_help_and_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with serve(echo) as peer:
        talk(peer, "/help", "/model", "/nonsense")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(name in shown.err for name in COMMANDS)
    assert "* tiny\n  large\n" in shown.err
    assert "no command /nonsense" in shown.err


def test_save_adds_a_line_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a chat.jsonl"
    with serve(echo) as peer:
        talk(peer, f"/save {path}", "你", f"/save {path}", "b", f"/save {path}", "/save", f"/save {tmp_path}")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [len(line["messages"]) for line in lines] == [2, 4]
    assert lines[0]["messages"][1] == {"role": "assistant", "content": "你"}
    complaints = capsys.readouterr().err
    assert all(words in complaints for words in ["nothing to save", "name a file", "cannot write"])


def test_a_failed_question_can_be_asked_again() -> None:
    replies = iter([Reply([frame(chunk("half"))]), answer("whole")])
    with serve(lambda _: next(replies)) as peer:
        session = talk(peer, "a", "/retry")
    assert roles(session.conversation) == [("user", "a"), ("assistant", "whole")]
    assert peer.requests[0]["messages"] == peer.requests[1]["messages"]


def test_thinking_is_shown_apart_and_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    thinking = chunk()
    thinking["choices"][0]["delta"] = {"reasoning_content": "hmm"}
    reply = Reply([frame(thinking), frame(chunk("yes")), frame(chunk(finish_reason="stop"))])
    with serve(lambda _: reply) as peer:
        session = talk(peer, "a")
    shown = capsys.readouterr()
    assert shown.out == "yes\n"
    assert "hmm\n" in shown.err
    assert session.conversation.turns[0].answer == "yes"


class Terminal:
    """`honed chat` in a terminal of its own."""

    def __init__(self, url: str, home: Path) -> None:
        self.master, slave = pty.openpty()
        environment = {**os.environ, "HONED_HOME": str(home), "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, url],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=self._own,
        )
        os.close(slave)
        self.shown = ""

    @staticmethod
    def _own() -> None:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def until(self, words: str, press: str = "") -> str:
        """What was shown up to those words; fails where they do not come within 30 s.

        `press` is typed again every second: readline misses a Ctrl-C that comes just before it waits.
        """
        for _ in range(30):
            os.write(self.master, press.encode())
            deadline = time.monotonic() + 1
            while words not in self.shown and select.select([self.master], [], [], _left(deadline))[0]:
                self.shown += os.read(self.master, 4096).decode(errors="replace")
            if words in self.shown:
                before, _, self.shown = self.shown.partition(words)
                return before
        raise AssertionError(f"no {words!r} in {self.shown!r}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Callable[[str], Terminal]]:
    opened: list[Terminal] = []

    def open_one(url: str) -> Terminal:
        opened.append(Terminal(url, tmp_path))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


def test_a_terminal_streams_counts_and_remembers(open_terminal: Callable[[str], Terminal], tmp_path: Path) -> None:
    reply = answer("dan", "\x1b]0;gerous\x07", " :smile: [b] 你好", completion_tokens=3)
    with serve(lambda _: reply) as peer:
        terminal = open_terminal(peer.url)
        terminal.until("/help lists the commands")
        terminal.until("> ")
        terminal.type("half a line")
        terminal.until("half a line")
        terminal.until("> ", press="\x03")
        terminal.type("hi\n")
        terminal.until("dan]0;gerous :smile: [b] 你好")
        terminal.until("3 tokens")
        terminal.until("> ")
        terminal.type("/temperature 2\n")
        terminal.until("temperature 2\r\n")
        terminal.until("> ")
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0
    assert [request["messages"][-1]["content"] for request in peer.requests] == ["hi"]
    assert "hi\n/temperature 2\n" in (tmp_path / "chat_history").read_text()


def test_ctrl_c_stops_the_answer_and_keeps_what_came(open_terminal: Callable[[str], Terminal], tmp_path: Path) -> None:
    with serve(lambda _: Reply([frame(chunk("so far"))], hangs=True)) as peer:
        terminal = open_terminal(peer.url)
        terminal.until("> ")
        terminal.type("hi\n")
        terminal.until("so far")
        terminal.until("stopped", press="\x03")
        assert peer.left.wait(30)
        terminal.until("> ")
        terminal.type(f"/save {tmp_path / 'chat.jsonl'}\n")
        terminal.until("added to")
        terminal.until("> ")
        terminal.type("/quit\n")
        assert terminal.process.wait(30) == 0
    (saved,) = (tmp_path / "chat.jsonl").read_text().splitlines()
    assert json.loads(saved)["messages"][1] == {"role": "assistant", "content": "so far"}


def test_a_servers_words_cannot_steer_the_terminal() -> None:
    """Neither as the text of an error, which is shown as it is."""
    assert str(EndpointError("no \x1b]0;owned\x07\x1b[2Jsuch model\x9b1m")) == "no ]0;owned[2Jsuch model1m"


@pytest.mark.parametrize(("url", "key"), [("http://local\thost", None), (None, "é"), (None, "a\nb")])
def test_an_address_or_a_key_that_cannot_be_sent(url: str | None, key: str | None) -> None:
    with pytest.raises(EndpointError):
        open_client(url or "http://127.0.0.1:1", key)
