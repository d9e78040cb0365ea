"""The second judge over HTTP: both orders, what counts as a tie, and what ends an evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from conftest import LiveServer
from openai_peer import Frame, Reply, free_port, refusal, serve

from honed.server.store.exchange.records import message
from honed.training.evaluation import external
from honed.training.evaluation.external import Judge, Outcome, Pair, read_letter
from honed.training.failures import TrainingError

PAIR = Pair((message("user", "Why {so}?"),), "good", "bad")


def reply(text: str | None) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Reply([json.dumps({"object": "chat.completion", "choices": [choice]}).encode()])


def answers_of(body: Frame) -> tuple[str, str]:
    """What the judge reads as A and B."""
    found = re.search(r"Answer A:\n(.*)\n\nAnswer B:\n(.*)\n\nWhich", body["messages"][-1]["content"], re.DOTALL)
    assert found is not None
    return found[1], found[2]


def prefers(wanted: str) -> Callable[[Frame], Reply]:
    return lambda body: reply("A" if answers_of(body)[0] == wanted else "B")


@pytest.mark.parametrize(
    ("says", "outcome"),
    [
        (prefers("good"), Outcome(1.0)),
        (prefers("bad"), Outcome(0.0)),
        (lambda _: reply("A"), Outcome(0.5)),  # what it reads first
        (lambda _: reply("B"), Outcome(0.5)),
        (lambda _: reply("Neither."), Outcome(0.5, unusable=2)),
        (lambda _: reply(None), Outcome(0.5, unusable=2)),
        (lambda body: reply("A" if answers_of(body)[0] == "good" else "Hm."), Outcome(0.5, unusable=1)),
    ],
)
def test_only_who_wins_in_both_orders_has_won(says: Callable[[Frame], Reply], outcome: Outcome) -> None:
    with serve(says) as peer:
        assert Judge(f"{peer.url}/v1", "large", None).compare([PAIR]) == [outcome]
    assert sorted(map(answers_of, peer.requests)) == [("bad", "good"), ("good", "bad")]
    for body in peer.requests:
        assert body["model"] == "large"
        assert body["temperature"] == 0
        assert "Why {so}?" in body["messages"][-1]["content"]
    assert peer.keys == [None, None]


def test_outcomes_are_in_the_order_of_the_pairs_and_equal_texts_are_not_asked() -> None:
    pairs = [Pair(PAIR.prompt, *(("good", f"{n}") if n % 2 else (f"{n}", "good"))) for n in range(20)]
    with serve(prefers("good")) as peer:
        found = Judge(f"{peer.url}/v1", "large", None).compare([*pairs, Pair(PAIR.prompt, "same", "same")])
    assert [each.won for each in found] == [*([0.0, 1.0] * 10), 0.5]
    assert len(peer.requests) == 40


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("A", "A"), ("B", "B"), (" B.\n", "B"), ("**A**", "A"), ("Answer: B", "B"), ("A) is better", "A"),
        ("A: it is kinder", "A"), ("A\nbecause", "A"),
        ("A good question", None), ("Both", None), ("a", None), ("AB", None), ("", None), ("C", None),
    ],
)  # fmt: skip
def test_a_letter_is_read_where_a_reply_begins_with_it_alone(said: str, letter: str | None) -> None:
    assert read_letter(said) == letter


def test_a_key_is_sent_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sesame\n")
    with serve(prefers("good")) as peer:
        Judge(f"{peer.url}/v1", "large", "SOME_KEY").compare([PAIR])
    assert peer.keys == ["Bearer sesame"] * 2
    monkeypatch.setenv("SOME_KEY", " ")
    with pytest.raises(TrainingError, match=r"The environment variable SOME_KEY \(--judge-key-env\) has no key"):
        Judge("http://127.0.0.1:1/v1", "large", "SOME_KEY")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "PAUSE_S", 0.0)


@pytest.mark.usefixtures("hurried")
def test_a_server_that_is_busy_is_asked_again() -> None:
    refused: list[Frame] = []

    def busy_at_first(body: Frame) -> Reply:
        if len(refused) < external.TRIES - 1:
            refused.append(body)
            return refusal(429, "Too many.")
        return prefers("good")(body)

    with serve(busy_at_first) as peer:
        assert Judge(f"{peer.url}/v1", "large", None).compare([PAIR]) == [Outcome(1.0)]
    assert len(peer.requests) == 2 + external.TRIES - 1


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("answer", "requests", "fault"),
    [
        (refusal(401, "Wrong key."), 1, "answers 401: .*Wrong key"),
        (refusal(503, "Overloaded."), external.TRIES, "answers 503: .*Overloaded"),
        (Reply([b"<html>"]), 1, "answers what is no chat completion: <html>"),
        (Reply([b'{"choices": []}']), 1, "answers what is no chat completion"),
    ],
    ids=["refused", "overloaded", "no JSON", "no choice"],
)
def test_a_server_that_gives_no_judgement_ends_the_evaluation(answer: Reply, requests: int, fault: str) -> None:
    with serve(lambda _: answer) as peer, pytest.raises(TrainingError, match=f"The judge large .*{fault}") as raised:
        Judge(f"{peer.url}/v1", "large", None).compare([PAIR])
    assert peer.url not in str(raised.value), "a job's error is for everyone who asks for it"
    assert len(peer.requests) == requests


@pytest.mark.usefixtures("hurried")
def test_a_server_that_is_not_there_ends_the_evaluation() -> None:
    with pytest.raises(TrainingError, match="gave no judgement: it cannot be reached"):
        Judge(f"http://127.0.0.1:{free_port()}/v1", "large", None).compare([PAIR] * 20)


def test_our_own_server_can_be_the_judge(live_server: LiveServer) -> None:
    """A random model says neither A nor B."""
    judge = Judge(f"{live_server.url}/v1", live_server.model, None)
    pairs: list[Any] = [PAIR, Pair(PAIR.prompt, "x", "y")]
    assert judge.compare(pairs) == [Outcome(0.5, unusable=2)] * 2
    with pytest.raises(TrainingError, match=r"answers 404: .*model_not_found"):
        Judge(f"{live_server.url}/v1", "nobody", None).compare(pairs)
