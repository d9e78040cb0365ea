"""Who was just answered refers to the answer, while the writer is slow."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from conftest import LiveServer, running
from openai import OpenAI
from pydantic import SecretStr
from sqlalchemy.engine import URL

from honed.server import arrivals
from honed.server.settings import Settings

pytestmark = pytest.mark.usefixtures("fake_engine")


@pytest.fixture
def server(store_url: URL, tmp_path: Path) -> Iterator[LiveServer]:
    url = SecretStr(store_url.render_as_string(hide_password=False))
    with running(Settings(home=tmp_path, database_url=url, logging="all")) as live:
        yield live


def ask(api: OpenAI) -> str:
    return api.chat.completions.create(model="honed", messages=[{"role": "user", "content": "Hi"}], store=True).id


def listed(api: OpenAI) -> list[str]:
    return [each.id for each in api.chat.completions.list()]


@contextmanager
def halted_writer(server: LiveServer) -> Iterator[None]:
    writer = server.app.state.recorder._writer
    os.kill(writer.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(writer.pid, signal.SIGCONT)


def test_what_is_on_its_way_is_waited_for(server: LiveServer) -> None:
    with server.openai() as api:
        with halted_writer(server):
            first = ask(api)
        assert listed(api) == [first]
        with halted_writer(server):
            second = ask(api)
        assert api.chat.completions.retrieve(second).id == second


def test_no_longer_than_patience_lasts(server: LiveServer) -> None:
    """A list goes without the newest; who asks for that one is told to come again."""
    with server.openai() as api:
        with halted_writer(server), pytest.MonkeyPatch.context() as hasty:
            hasty.setattr(arrivals, "PATIENCE_S", 0.1)
            hasty.setattr(arrivals, "LIST_PATIENCE_S", 0.1)
            completion_id = ask(api)
            assert listed(api) == []
            with pytest.raises(openai.InternalServerError) as refused:
                api.chat.completions.retrieve(completion_id)
            assert (refused.value.status_code, refused.value.code) == (503, "store_behind")
            assert int(refused.value.response.headers["retry-after"]) >= 1
        assert api.chat.completions.retrieve(completion_id).id == completion_id
