"""`honed chat`: a chat in the terminal with any OpenAI-compatible endpoint, streamed.

Owns the input: the prompt, lines that go on, the history, Ctrl-C and Ctrl-D, and pipes. It keeps nothing but
the input history and what /save is told to write. Invariant: only Ctrl-D, /quit and the end of a pipe end it;
an error does not.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from honed.clients.commands import run_command
from honed.clients.conversation import Conversation
from honed.clients.endpoint import DEFAULT_URL, EndpointError, list_models, open_client
from honed.clients.session import Session, answer, plain_console

_HISTORY_LINES = 1000
_INTERRUPTED = 130  # 128 + SIGINT, as shells count it


def chat(
    url: Annotated[str, typer.Argument(help="The endpoint, with or without /v1.")] = DEFAULT_URL,
    model: Annotated[str | None, typer.Option(help="Model id.", show_default="the first of /v1/models")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="HONED_API_KEY", help="Bearer key.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
) -> None:
    """Chat with a model in the terminal; /help lists the commands. A pipe's text is one question."""
    try:
        with open_client(url, api_key) as client:
            conversation = Conversation(model or list_models(client)[0], system, temperature, max_tokens)
            session = Session(client, conversation, interactive=sys.stdin.isatty())
            if session.interactive:
                _converse_at_terminal(session)
            else:
                _answer_pipe(session)
    except EndpointError as error:
        plain_console(stderr=True).print(str(error), style="red")
        raise typer.Exit(1) from None


def converse(session: Session, read_line: Callable[[str], str]) -> None:
    """Asks and answers until the input ends.

    `read_line` gets the prompt and returns a line; it raises EOFError on Ctrl-D and KeyboardInterrupt on
    Ctrl-C.
    """
    while True:
        try:
            text = _read_message(read_line)
            if text.startswith("/"):
                run_command(session, text)
            elif text.strip():
                session.conversation = session.conversation.ask(text.strip())
                answer(session)
        except KeyboardInterrupt:
            session.notes.print()
        except EOFError:
            return
        except EndpointError as error:
            session.complain(str(error))


def _read_message(read_line: Callable[[str], str]) -> str:
    lines = [read_line("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(read_line(". "))
    return "\n".join(lines)


def _answer_pipe(session: Session) -> None:
    question = sys.stdin.read().strip()
    if not question:
        raise EndpointError("no question: pipe some text in, or start `honed chat` in a terminal")
    session.conversation = session.conversation.ask(question)
    if not answer(session):
        raise typer.Exit(_INTERRUPTED)


def _converse_at_terminal(session: Session) -> None:
    session.note(f"{session.conversation.model} at {session.client.base_url}. /help lists the commands.")
    save_history = _load_history(_history_file())
    try:
        converse(session, _prompted)
    finally:
        save_history()
    session.notes.print()


def _prompted(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()


def _history_file() -> Path:
    if home := os.environ.get("HONED_HOME"):
        return Path(home).expanduser() / "chat_history"
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "honed" / "chat_history"


def _load_history(path: Path) -> Callable[[], None]:
    """Loads the lines typed before and returns what saves them; without readline there is neither."""
    try:
        import readline
    except ImportError:
        return lambda: None
    with suppress(OSError):  # the first time there is none
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)

    def save() -> None:
        with suppress(OSError):  # a read-only home costs the history, not the chat
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)

    return save
