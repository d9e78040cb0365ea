"""`/v1/chat/completions` through the official client, against the real application with a tiny model."""

from conftest import LiveServer

MESSAGES = [{"role": "user", "content": "Hello there"}]


def test_an_answer(live_server: LiveServer) -> None:
    answer = live_server.openai().chat.completions.create(
        model="honed", messages=MESSAGES, max_tokens=8, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.model == "tiny"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_the_stream_is_the_answer(live_server: LiveServer) -> None:
    client = live_server.openai()
    request = {"model": "tiny", "messages": MESSAGES, "max_tokens": 40, "seed": 7, "temperature": 1.0}
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
