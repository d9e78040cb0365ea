"""`honed serve` and `honed pull`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from honed.cli.failure import fail
from honed.cli.jobs import beside

if TYPE_CHECKING:
    from honed.server.settings import Settings

READY = """
{model} answers on {url}
{memory}

  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{curl_key} -d '{{
    "model": "honed", "temperature": 0, "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

  from openai import OpenAI  # pip install openai
  client = OpenAI(base_url="{url}/v1", api_key="{python_key}")
  messages = [{{"role": "user", "content": "What is the capital of France?"}}]
  for chunk in client.chat.completions.create(model="honed", messages=messages, stream=True):
      if chunk.choices: print(chunk.choices[0].delta.content or "", end="", flush=True)
"""

MEMORY = {
    "all": "It remembers what it is asked, for training; --logging opt_in or off keeps less (docs/privacy.md).",
    "opt_in": "It remembers requests that ask for it, with store: true (docs/privacy.md).",
    "off": "It remembers nothing (--logging off).",
}


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; not loopback needs an API key.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    model: Annotated[str | None, typer.Option(help="A folder, a hub id, or smollm2-135m-instruct.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    api_key: Annotated[list[str] | None, typer.Option(help="A key that clients must send; may be repeated.")] = None,
    api_keys_file: Annotated[Path | None, typer.Option(help="File of keys, one a line.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Longest prompt and answer, in tokens.")] = None,
    kv_cache_gib: Annotated[float | None, typer.Option(help="Memory for keys and values, in GiB.")] = None,
    drain_timeout: Annotated[float | None, typer.Option(help="Seconds that answers may go on after SIGTERM.")] = None,
    database_url: Annotated[
        str | None, typer.Option(help="The store; SQLite in HONED_HOME unless it is postgresql+psycopg://...")
    ] = None,
    logging: Annotated[str | None, typer.Option(help="Completions to remember: all, opt_in or off.")] = None,
    strict: Annotated[bool | None, typer.Option(help="Refuse parameters that nobody knows.")] = None,
    with_worker: Annotated[
        bool, typer.Option("--with-worker", help="Run `honed worker` too: training on this machine.")
    ] = False,
) -> None:
    """Serve a model behind the OpenAI API. Every option and more can be set in the environment as HONED_..."""
    from pydantic import ValidationError

    from honed.models.sources import SourceError
    from honed.server.settings import Settings

    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "model": model,
        "dtype": dtype,
        "device": device,
        "api_keys": tuple(api_key) if api_key else None,
        "api_keys_file": api_keys_file,
        "max_model_len": max_model_len,
        "kv_cache_gib": kv_cache_gib,
        "drain_timeout_s": drain_timeout,
        "database_url": database_url,
        "logging": logging,
        "strict": strict,
    }
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise fail("; ".join(map(_problem, error.errors()))) from None

    from honed.server.serve import serve as run
    from honed.server.store.database import StoreError

    def announce(url: str, name: str) -> None:
        python_key = "YOUR_KEY" if settings.api_keys or settings.api_keys_file else "unused"
        curl_key = " -H 'Authorization: Bearer YOUR_KEY'" if python_key == "YOUR_KEY" else ""
        memory = MEMORY[settings.logging]
        print(READY.format(model=name, url=url, memory=memory, curl_key=curl_key, python_key=python_key), flush=True)

    training = beside(_environment(settings), settings.device) if with_worker else nullcontext()
    try:
        with training:
            status = run(settings, on_ready=announce)
    except (ValueError, SourceError, StoreError) as error:
        raise fail(str(error)) from None
    raise typer.Exit(status)


def pull(
    name: Annotated[str, typer.Argument(help="A folder, a hub id, or smollm2-135m-instruct.")],
) -> None:
    """Fetch a model once. The last line printed is its folder."""
    from honed.models.sources import SourceError, honed_home
    from honed.models.sources import pull as fetch

    try:
        folder = fetch(name, honed_home())
    except SourceError as error:
        raise fail(str(error)) from None
    print(folder)


def _environment(settings: Settings) -> dict[str, str]:
    """What a worker needs to find the same home and store, and to begin with the same model."""
    found = dict(os.environ) | {"HONED_MODEL": settings.model}
    if settings.home is not None:
        found["HONED_HOME"] = str(settings.home)
    if settings.database_url is not None:
        found["HONED_DATABASE_URL"] = settings.database_url.get_secret_value()
    return found


def _problem(error: Mapping[str, Any]) -> str:
    """What pydantic says of a setting, with its name where there is one."""
    name = ".".join(map(str, error["loc"]))
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" if name else message
