"""`/v1/models`: what may stand in a request's `model`."""

import openai
import pytest
from conftest import LiveServer
from openai import OpenAI


def test_the_checkpoint_is_listed_under_both_names(openai_client: OpenAI, live_server: LiveServer) -> None:
    models = list(openai_client.models.list())
    assert [model.id for model in models] == ["honed", live_server.model] == ["honed", "tiny"]
    assert {(model.object, model.owned_by) for model in models} == {("model", "honed")}
    assert models == [openai_client.models.retrieve(model.id) for model in models]


def test_both_names_mean_the_same(openai_client: OpenAI) -> None:
    def answer(model: str) -> str | None:
        messages = [{"role": "user", "content": "Hi"}]
        got = openai_client.chat.completions.create(model=model, messages=messages, max_tokens=9, temperature=0)  # type: ignore[arg-type]
        assert got.model == "tiny"
        return got.choices[0].message.content

    assert answer("honed") == answer("tiny")


@pytest.mark.parametrize("name", ["gpt-4o", "org/name", "tiny/", "Honed"])
def test_any_other_is_not_found(openai_client: OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        openai_client.models.retrieve(name)
    assert (refused.value.code, refused.value.param, refused.value.type) == (
        "model_not_found", "model", "invalid_request_error"
    )  # fmt: skip
    assert "'honed', 'tiny'" in refused.value.message
