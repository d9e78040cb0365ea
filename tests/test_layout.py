"""The house's rules: who may import whom, what starts without torch, which names and sizes files may have."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("models", "server", "training", "clients", "cli")  # at the top of the package; those that are there
MAY_IMPORT = {
    "": (),
    "models": ("honed.models",),
    "server": ("honed.models", "honed.server"),
    "training": ("honed.models", "honed.server.store", "honed.training"),
    "clients": ("honed.clients",),
    "cli": ("honed.cli", "honed.models", "honed.server", "honed.training", "honed.clients"),
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "core", "manager", "managers"}
MAX_CODE_LINES = 350

MODULES = sorted([ROOT / "__init__.py", *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
UNPACKAGED = ("tests", "benchmarks")
SOURCES = sorted([*MODULES, *(path for folder in UNPACKAGED for path in (ROOT / folder).rglob("*.py"))])


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> str:
    """A module's name for `import`."""
    return ".".join(["honed", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


# Alembic runs env.py, which cannot be imported.
STORE = [path for path in sorted((ROOT / "server" / "store").rglob("*.py")) if path.stem != "env"]

# What decides without tensors, what only speaks HTTP, what only knows the database: and what each has no use for.
LIGHT = [
    *((f"honed.models.{name}", ["torch"]) for name in ("chat", "detokenizer", "engine.scheduler", "engine.kv_cache")),
    *((dotted(path), ["torch", "transformers", "fastapi"]) for path in sorted((ROOT / "clients").rglob("*.py"))),
    *((dotted(path), ["torch", "fastapi"]) for path in STORE),
]


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first if first in ROOMS else ""


def imports_in(source: str, package: str) -> set[str]:
    """The full names of all that a module of `package` imports, at its top, in functions and for type checkers."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def imports_of(path: Path) -> set[str]:
    package = ".".join(["honed", *path.relative_to(ROOT).parent.parts])
    return imports_in(path.read_text(encoding="utf-8"), package)


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def forbidden(names: set[str], room: str) -> set[str]:
    """Those of `names` that are ours and that a module of `room` may not import."""
    ours = {name for name in names if name.split(".")[0] in ("honed", *ROOMS)}
    return {name for name in ours if not any(is_in(name, allowed) for allowed in MAY_IMPORT[room])}


def code_lines(source: str) -> int:
    """Lines that are neither blank nor only a comment."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return len({line for t in tokens if t.type not in silent for line in range(t.start[0], t.end[0] + 1)})


def loaded_after(code: str, names: list[str]) -> list[str]:
    """Which of the modules `names` a fresh Python has loaded once it has run `code`."""
    report = f"import sys\n{code}\nprint('loaded', *[name for name in {names} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, cwd=ROOT / "tests"
    )
    return done.stdout.splitlines()[-1].split()[1:]


def test_all_rooms_are_looked_at() -> None:
    assert {room_of(path) for path in MODULES} >= {"", "cli", "models", "server", "clients"}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders - set(UNPACKAGED) <= set(ROOMS), "a folder at the top that the design does not have"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    assert forbidden(imports_of(path), room_of(path)) == set()


@pytest.mark.parametrize(
    ("source", "room", "package", "culprit"),
    [
        ("import honed.server.app", "models", "honed.models", "honed.server.app"),
        ("def f():\n    from honed.server import app", "models", "honed.models", "honed.server.app"),
        ("from ...server.errors import NotFound", "models", "honed.models.engine", "honed.server.errors.NotFound"),
        ("from honed.training import worker", "server", "honed.server", "honed.training.worker"),
        ("from honed.models import chat", "clients", "honed.clients", "honed.models.chat"),
        ("from honed.server.app import create_app", "training", "honed.training", "honed.server.app.create_app"),
        ("from honed import cli", "server", "honed.server", "honed.cli"),
        ("import server.app", "server", "honed.server", "server.app"),
    ],
)
def test_a_forbidden_import_is_seen(source: str, room: str, package: str, culprit: str) -> None:
    assert forbidden(imports_in(source, package), room) == {culprit}


def test_only_streaming_imports_sse_starlette() -> None:
    """At import it changes uvicorn's exit handler: `streaming.py` puts that right."""
    users = {named(path) for path in SOURCES if any(is_in(name, "sse_starlette") for name in imports_of(path))}
    assert users == {"server/streaming.py"}


@pytest.mark.parametrize(("module", "heavy"), LIGHT, ids=[module for module, _ in LIGHT])
def test_what_needs_no_tensors_or_no_server_starts_without(module: str, heavy: list[str]) -> None:
    assert loaded_after(f"import {module}", heavy) == []


def test_the_command_line_starts_without_models_and_servers() -> None:
    asked_for_help = (
        "from honed.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert loaded_after(asked_for_help, ["torch", "transformers", "fastapi", "uvicorn"]) == []


def test_packages_are_the_folders_on_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {".".join(["honed", *path.relative_to(ROOT).parent.parts]) for path in MODULES}
    assert sorted(listed) == sorted(on_disk)
    for name in listed:
        assert (ROOT.joinpath(*name.split(".")[1:]) / "__init__.py").is_file(), f"{name} has no __init__.py"


def test_tests_are_flat_and_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert {path.parent for path in (ROOT / "tests").rglob("*.py")} == {ROOT / "tests"}


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_file_says_what_it_is_and_stays_small(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)), "a module begins with a docstring"
    assert code_lines(source) <= MAX_CODE_LINES
    names = {path.stem, *path.relative_to(ROOT).parent.parts}
    assert not names & FORBIDDEN_NAMES, "name it after what it owns"


def test_code_lines_counts_code() -> None:
    assert code_lines('"""Two\nlines."""\n\n# why\nx = (1,\n     2)  # three and four\n') == 4
