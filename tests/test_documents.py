"""README.md and docs/ against what they speak of: settings, commands, files. What is quick to run is run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main
from conftest import LiveServer, running
from typer.core import TyperGroup
from typer.exceptions import TyperException

from honed.cli import app
from honed.cli.serving import READY
from honed.server.settings import ENV_PREFIX, OTHERS, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
HONED = Path(sys.executable).with_name("honed")
GROUP = typer.main.get_command(app)
assert isinstance(GROUP, TyperGroup)
COMMANDS = GROUP.commands
OTHER_PROGRAMS = {"curl", "docker", "git", "cd", "cat", "echo", "export", "kill", "pip"}  # not ours to check


def code_blocks(text: str, *languages: str) -> list[str]:
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def shell_commands(block: str) -> list[list[str]]:
    """The commands in a block of shell lines, in words. A quote may go on over several lines; `$ ` is a prompt."""
    commands: list[list[str]] = []
    pending = ""
    for line in block.splitlines():
        pending += line.removeprefix("$ ") + "\n"
        try:
            words = split_words(pending)
        except ValueError:  # an open quote
            continue
        if not pending.endswith("\\\n"):
            commands += pipeline(words)
            pending = ""
    assert not pending, f"a quote is never closed: {pending}"
    return commands


def split_words(text: str) -> list[str]:
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    return list(lexer)


def pipeline(words: list[str]) -> list[list[str]]:
    """The commands that are joined by `|`, `&&` and `;`, without the variables set in front of them."""
    commands: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("|&;"):
            commands.append([])
        elif commands[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            commands[-1].append(word)
    return [command for command in commands if command]


def documented_commands() -> list[Any]:
    found = [
        pytest.param(words, id=f"{path.stem}: {' '.join(words)[:60]}")
        for path in DOCUMENTS
        for block in code_blocks(path.read_text(encoding="utf-8"), "sh", "console")
        for words in shell_commands(block)
    ]
    assert len(found) > 5
    return found


def require_target(words: list[str]) -> None:
    for word in words:
        name = re.escape(word.partition("=")[0])
        is_there = re.search(rf"^{name} \?=" if "=" in word else rf"^{name}:", MAKEFILE, re.MULTILINE)
        assert is_there, f"the Makefile has no {word}"


def subcommand(words: list[str]) -> tuple[Any, list[str]]:
    """The command that is named, down to the last name, and what is left of the words."""
    assert words[0] in COMMANDS, f"there is no honed {words[0]}"
    found, rest = COMMANDS[words[0]], words[1:]
    while isinstance(found, TyperGroup) and rest and not rest[0].startswith("-"):
        inner = found.get_command(typer.Context(found), rest[0])
        assert inner is not None, f"there is no honed {' '.join(words)}"
        found, rest = inner, rest[1:]
    return found, rest


def require_honed(words: list[str]) -> None:
    """Raises typer's TyperException for options that are not there and values that are refused; runs nothing."""
    if words != ["--help"]:
        command, rest = subcommand(words)
        command.make_context(words[0], rest)


def require_existing(words: list[str]) -> None:
    program, arguments = words[0], words[1:]
    if program == "make":
        require_target(arguments)
    elif program in ("honed", ".venv/bin/honed"):
        require_honed(arguments)
    elif program == "torchrun":
        require_existing(arguments[arguments.index("--no-python") + 1 :])
    elif program == ".venv/bin/python":
        assert (ROOT / arguments[0]).is_file(), f"there is no {arguments[0]}"
    elif program.startswith("benchmarks/"):
        assert os.access(ROOT / program, os.X_OK), f"{program} is not there, or cannot be run"
    else:
        assert program in OTHER_PROGRAMS, f"this test does not know {program}: is it on a reader's machine?"


@pytest.mark.parametrize("words", documented_commands())
def test_a_command_exists(words: list[str]) -> None:
    require_existing(words)


@pytest.mark.parametrize(
    "command",
    [
        "make nothing",
        "make serve NOTHING=1",
        "honed nothing",
        "honed serve --nothing",
        "honed serve --port x",
        "honed train nothing",
        "honed train sft --nothing",
        "torchrun --no-python honed train sft --nothing",
        "nothing",
    ],
)
def test_a_command_that_does_not_exist_is_seen(command: str) -> None:
    with pytest.raises((AssertionError, TyperException)):
        require_existing(command.split())


def test_shell_blocks_are_read_as_a_shell_does() -> None:
    block = "$ A=1 make test  # why\ncurl x -d '{\n  \"a b\"}' | cat\nhoned serve \\\n  --port 1\n"
    assert shell_commands(block) == [
        ["make", "test"],
        ["curl", "x", "-d", '{\n  "a b"}'],
        ["cat"],
        ["honed", "serve", "--port", "1"],
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_the_text_exist(path: Path) -> None:
    """Those in `backticks` name a command, perhaps with options, and may leave out what it needs."""
    for code in re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8")):
        for words in pipeline(code.split()):
            if words[0] == "make" and len(words) > 1:
                require_target(words[1:])
            elif words[0] in ("honed", ".venv/bin/honed") and len(words) > 1:
                parameters = subcommand(words[1:])[0].params
                known = {option for each in parameters for option in (*each.opts, *each.secondary_opts)}
                assert {word for word in words if word.startswith("--")} <= known | {"--help"}, code


def test_every_target_and_command_is_documented() -> None:
    """The README names each make target that a developer runs, and each command of `honed`."""
    for name in COMMANDS:
        assert f"honed {name}" in README
    for target in ("serve", "setup", "test", "test-real", "test-node", "test-gpu", "check", "fuzz"):
        assert f"make {target}" in README


def shown(default: Any) -> str:
    """A default as the table has it: what one would write into the environment; nothing where it is unset."""
    if default is None or default == ():
        return ""
    if isinstance(default, tuple):
        return f"`{','.join(map(str, default))}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_the_settings_table_is_the_settings() -> None:
    rows = re.findall(rf"^\| `{ENV_PREFIX}.*$", README, re.MULTILINE)
    table = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]
    assert "| variable | default | what it sets |" in README
    assert table == [
        (f"`{ENV_PREFIX}{name.upper()}`", shown(field.default), field.description)
        for name, field in Settings.model_fields.items()
    ]
    assert all(f"`{name}`" in README for name in OTHERS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"
    for name in re.findall(r"`((?:models|server|training|clients|tests|docs|cli)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{path.name} names {name}"


def test_the_tree_names_files_that_exist() -> None:
    tree = README.partition("## The tree")[2].partition("\n## ")[0]
    rooms = ("models", "server", "training", "clients", "cli")
    on_disk = {path.name for room in rooms for path in (ROOT / room).rglob("*.py")}
    named = set(re.findall(r"\b\w+\.py\b", tree))
    assert len(named) > 10
    assert named <= on_disk


def test_help_lists_every_command() -> None:
    done = subprocess.run([HONED, "--help"], capture_output=True, text=True, check=True)
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", done.stdout)


def test_pull_prints_the_folder_last(tiny_checkpoint: Path) -> None:
    done = subprocess.run([HONED, "pull", tiny_checkpoint], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(tiny_checkpoint)


def test_pull_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run([HONED, "pull", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("honed: ")
    assert "Traceback" not in done.stderr


def curl_answer(command: list[str]) -> dict[str, Any]:
    done = subprocess.run([command[0], "-sS", *command[1:]], capture_output=True, text=True, check=True, timeout=60)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer.get("error") is None, answer
    return answer


@pytest.mark.parametrize("document", ["README.md", "docs/api.md", "docs/data.md"])
def test_curl_lines_are_answered(document: str, tiny_checkpoint: Path) -> None:
    """In their order, with the ids of answers in the place of the dots."""
    blocks = code_blocks((ROOT / document).read_text(encoding="utf-8"), "sh")
    commands = [words for block in blocks for words in shell_commands(block) if words[0] == "curl"]
    ids: dict[str, str] = {}
    with running(Settings(model=str(tiny_checkpoint), kv_cache_gib=0.02, logging="all")) as server:
        messages = [{"role": "user", "content": f"Question {number}"} for number in range(3)]
        for message in messages:
            body = {"model": "honed", "messages": [message]}
            ids["chatcmpl"] = httpx.post(f"{server.url}/v1/chat/completions", json=body).json()["id"]
        for words in commands:
            filled = [word.replace("http://127.0.0.1:8000", server.url) for word in words]
            filled = [re.sub(r"\b([a-z]+)-\.\.\.", lambda found: ids[found[1]], word) for word in filled]
            identifier = curl_answer(filled).get("id", "")
            ids[identifier.partition("-")[0]] = identifier


def test_the_readme_has_curl_lines() -> None:
    commands = [words for block in code_blocks(README, "sh") for words in shell_commands(block)]
    assert [words[0] for words in commands].count("curl") == 2


def test_what_serve_prints_works_as_it_stands(live_server: LiveServer) -> None:
    text = READY.format(model="tiny", url=live_server.url, memory="", curl_key="", python_key="unused")
    _, curl, python = (textwrap.dedent(part) for part in re.split(r"\n(?=  curl|  from)", text))
    (command,) = shell_commands(curl.strip())
    assert isinstance(curl_answer(command)["choices"][0]["message"]["content"], str)
    done = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout
