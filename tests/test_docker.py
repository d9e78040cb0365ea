"""The Dockerfile, as far as it can be checked without an engine."""

import re
import shlex
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def instructions(name: str) -> list[str]:
    """The arguments of every instruction of that name, in order."""
    return [line.removeprefix(name).strip() for line in LINES if line.startswith(f"{name} ")]


def copied() -> list[str]:
    """Every path that is copied from the build context."""
    arguments = [shlex.split(line) for line in instructions("COPY") if not line.startswith("--from")]
    return [source for *sources, _target in arguments for source in sources]


def test_every_copied_path_exists_and_reaches_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "constraints.txt" in copied()
    for source in copied():
        assert (ROOT / source).exists(), f"{source} is copied but is not there"
        assert f"!{source}" in ignored, f"{source} is copied but .dockerignore keeps it out"


def test_every_package_is_copied() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {name.split(".")[1] for name in packages if "." in name}
    assert folders <= set(copied())


def test_the_server_does_not_run_as_root() -> None:
    last_stage = LINES[max(number for number, line in enumerate(LINES) if line.startswith("FROM ")) :]
    users = [line.split()[1] for line in last_stage if line.startswith("USER ")]
    assert users
    assert users[-1] not in {"root", "0"}


def test_the_health_check_asks_the_port_that_is_served() -> None:
    (check,) = instructions("HEALTHCHECK")
    (command,) = instructions("CMD")
    (port,) = instructions("EXPOSE")
    assert "/health" in check
    assert f"'127.0.0.1', {port}" in check
    assert f'"--port", "{port}"' in command
    compile(re.search(r'"-c", "(.*)"\]', check)[1], "HEALTHCHECK", "exec")


def test_the_server_is_the_process_that_gets_the_signal() -> None:
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("ENTRYPOINT") == ['["honed"]']


def test_models_and_data_are_on_the_volume() -> None:
    (volume,) = instructions("VOLUME")
    assert volume == '["/data"]'
    assert "HONED_HOME=/data" in " ".join(instructions("ENV"))
