"""The /commands of the terminal chat.

Owns what each does to a session and what /help says of it; the conversation's own rules are in
conversation.py. Invariant: a command that cannot be done changes nothing and says what to do instead.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from honed.clients.endpoint import list_models
from honed.clients.session import Session, answer


def run_command(session: Session, line: str) -> None:
    """Runs one /command. Raises EOFError for /quit, which is the same as Ctrl-D."""
    name, _, argument = line.strip().partition(" ")
    if name not in COMMANDS:
        session.complain(f"no command {name}: /help lists them; a question may begin with a space")
        return
    COMMANDS[name].run(session, argument.strip())


def _help(session: Session, _argument: str) -> None:
    for name, command in COMMANDS.items():
        session.note(f"{name + ' ' + command.argument:<16} {command.purpose}")
    session.note("End a line with \\ to go on in the next. Ctrl-C stops an answer, Ctrl-D quits.")


def _new(session: Session, _argument: str) -> None:
    session.conversation = session.conversation.forget()
    session.note("forgotten")


def _undo(session: Session, _argument: str) -> None:
    if not session.conversation.turns:
        session.complain("nothing to take back: ask something first")
        return
    session.conversation = session.conversation.undo()
    session.note("took the last question back")


def _retry(session: Session, _argument: str) -> None:
    if not session.conversation.turns:
        session.complain("nothing to ask again: ask something first")
        return
    session.conversation = session.conversation.retry()
    answer(session)


def _system(session: Session, text: str) -> None:
    session.conversation = replace(session.conversation, system=text or None)
    session.note("system message set" if text else "system message taken away")


def _model(session: Session, name: str) -> None:
    if name:
        session.conversation = replace(session.conversation, model=name)
        session.note(f"asking {name}")
        return
    for model in list_models(session.client):
        session.note(f"{'*' if model == session.conversation.model else ' '} {model}")


def _temperature(session: Session, text: str) -> None:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        session.complain(f"{text!r} is no temperature: give a number from 0 on, such as /temperature 0.7")
        return
    session.conversation = replace(session.conversation, temperature=value)
    session.note(f"temperature {value:g}")


def _save(session: Session, name: str) -> None:
    line = session.conversation.as_json_line()
    if not name or not line:
        session.complain("nothing to save: ask something first" if name else "name a file: /save chat.jsonl")
        return
    path = Path(name).expanduser()
    try:
        # Appended: one file can collect many conversations, and none is ever overwritten.
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        session.complain(f"cannot write {path} ({error.strerror}): name another file")
        return
    session.note(f"added to {path}")


def _quit(_session: Session, _argument: str) -> None:
    raise EOFError


@dataclass(frozen=True)
class Command:
    """A /command: what it takes, what /help says of it, what it does with the rest of its line."""

    argument: str
    purpose: str
    run: Callable[[Session, str], None]


COMMANDS = {
    "/help": Command("", "list the commands", _help),
    "/new": Command("", "forget what was said; the settings stay", _new),
    "/undo": Command("", "take the last question and its answer back", _undo),
    "/retry": Command("", "ask the last question again", _retry),
    "/system": Command("TEXT", "set the system message; without TEXT, take it away", _system),
    "/model": Command("[NAME]", "ask another model; without NAME, list them", _model),
    "/temperature": Command("X", "0 is greedy, 1 is the model's own distribution", _temperature),
    "/save": Command("FILE", "add the conversation to FILE as a line of OpenAI's JSONL", _save),
    "/quit": Command("", "leave, as Ctrl-D does", _quit),
}
