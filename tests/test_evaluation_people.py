"""What labelers say of a candidate and the incumbent: who is asked what, and what their word does to a report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from completions import add, count
from exchanged import put_in
from labeling_tasks import NOW, ranking_of, say, take, taken
from sqlalchemy import Engine, select, update

from honed.server.store import erasure, pairs, sampling
from honed.server.store.database import reading, writing
from honed.server.store.exchange.records import Prompt, message, text_prompt
from honed.server.store.pairs import Compared
from honed.server.store.tables import Choice, Completion, Task
from honed.training.data.datasets import Example
from honed.training.evaluation.people import ask, heard

OURS, THEIRS = "The candidate's.", "The incumbent's."
REPORT: dict[str, Any] = {
    "candidate": {"name": "m-new", "id": "ckpt-new"}, "incumbent": {"name": "m-old", "id": "ckpt-old"},
    "promote": True, "reasons": ["It wins by the judge."],
    "settings": {"people": 12, "temperature": 1.0, "max_new_tokens": 8, "min_win_rate": 0.5, "seed": 0},
}  # fmt: skip


def asked(store: Engine, how_many: int = 12, **fields: Any) -> list[Example]:
    """Held-out prompts, the rows of the store included."""
    return [example(add(store, f"Question {number}", **fields), f"Question {number}") for number in range(how_many)]


def example(completion_id: str, text: str, *, is_text: bool = False) -> Example:
    prompt = text_prompt(text) if is_text else (message("user", text),)
    return Example(Prompt(prompt), "validation", completion_id, None, None, None, "other")


def row(ours: str = OURS, theirs: str = THEIRS) -> dict[str, Any]:
    """Of answers.jsonl: the first of two answers each are what labelers see."""
    texts = {"candidate": (ours, "not shown"), "incumbent": (theirs, "not shown")}
    return {side: [{"text": text, "tokens": 3, "ended": True} for text in both] for side, both in texts.items()}


def ask_about(store: Engine, prompts: Sequence[Example], *texts: tuple[str, str], **settings: Any) -> dict[str, Any]:
    rows = [row(*pair) for pair in texts] + [row()] * (len(prompts) - len(texts))
    return ask(store, REPORT | {"settings": REPORT["settings"] | settings}, prompts, rows)


def hear(store: Engine, report: dict[str, Any], now: datetime = NOW) -> dict[str, Any]:
    with reading(store) as connection:
        return heard(connection, report, now=now)


def judge(store: Engine, *orders: Sequence[tuple[str, ...]] | str, labeler: str = "ada") -> None:
    for order in orders:
        lease = taken(store, labeler)
        if isinstance(order, str):
            say(store, lease.task_id, labeler, order)
        else:
            say(store, lease.task_id, labeler, ranking=ranking_of(lease, *order))


WON, LOST, TIED = [(OURS,), (THEIRS,)], [(THEIRS,), (OURS,)], [(OURS, THEIRS)]


def test_nothing_is_decided_until_all_have_been_looked_at(store: Engine) -> None:
    report = ask_about(store, asked(store))
    assert (report["promote"], report["reasons"]) == (None, REPORT["reasons"])
    told = {key: value for key, value in report["people"].items() if key != "of"}
    assert told == {"asked": 12, "same": 0, "judged": 0, "waiting": 12}
    judge(store, *[WON] * 11)
    taken(store, "ada")
    report = hear(store, report)
    assert (report["promote"], report["people"]["judged"], report["people"]["waiting"]) == (None, 11, 1)
    judge(store, TIED)
    report = hear(store, report)
    assert report["promote"] is True
    assert report["reasons"][0] == REPORT["reasons"][0]
    assert report["reasons"][1].startswith("The win rate by people is 95.8 % (95 % interval ")
    assert report["people"].items() >= {"mean": 0.958333, "wins": 11, "ties": 1, "losses": 0, "prompts": 12}.items()
    assert hear(store, report) == report, "what is decided stays"


def test_people_may_refuse_what_the_judge_likes(store: Engine) -> None:
    report = ask_about(store, asked(store))
    judge(store, *[WON] * 6, *[LOST] * 6)
    report = hear(store, report)
    assert report["promote"] is False
    (reason,) = report["reasons"]
    assert reason.startswith("The win rate by people is 50.0 %")
    assert "not over 50.0 %" in reason


def test_their_threshold_is_the_gates(store: Engine) -> None:
    prompts = asked(store)
    report = ask_about(store, prompts, min_win_rate=0.9)
    judge(store, *[WON] * 10, *[TIED] * 2)
    assert hear(store, report)["promote"] is False
    assert ask_about(store, prompts)["promote"] is True, "the same prompts are asked once, and what was said counts"
    assert count(store, Task) == 12


def test_what_is_bad_alike_is_a_tie_and_what_is_skipped_is_nothing(store: Engine) -> None:
    report = ask_about(store, asked(store))
    judge(store, *[WON] * 9, "all_bad", "skip")
    report = hear(store, report)
    assert (report["people"]["judged"], report["people"]["waiting"]) == (10, 1)
    judge(store, "all_bad")
    report = hear(store, report)
    assert report["people"].items() >= {"judged": 11, "wins": 9, "ties": 2, "losses": 0}.items()


def test_of_what_was_skipped_another_may_judge(store: Engine) -> None:
    ask_about(store, asked(store))
    judge(store, *["skip"] * 12)
    judge(store, *[LOST] * 12, labeler="ben")
    with reading(store) as connection:
        prompts = pairs.evaluated(connection, "ckpt-new", "ckpt-old")
        assert pairs.compared(connection, "ckpt-new", "ckpt-old", prompts, now=NOW) == Compared((0.0,) * 12, 0)


def test_who_has_a_pair_before_them_is_waited_for_whoever_skipped_it(store: Engine) -> None:
    report = ask_about(store, asked(store))
    judge(store, *[WON] * 11, "skip")
    lease = taken(store, "ben")
    assert hear(store, report)["people"]["waiting"] == 1
    say(store, lease.task_id, "ben", ranking=ranking_of(lease, *WON))
    assert hear(store, report)["people"].items() >= {"judged": 12, "waiting": 0}.items()


def test_a_lease_that_ran_out_is_waited_for_no_longer(store: Engine) -> None:
    report = ask_about(store, asked(store))
    judge(store, *[WON] * 11, "skip")
    taken(store, "ben")
    assert hear(store, report, NOW + timedelta(hours=1))["promote"] is True


def test_what_a_labeler_took_along_is_neither_waited_for_nor_counted(store: Engine) -> None:
    """An erasure of who judged."""
    report = ask_about(store, asked(store))
    judge(store, LOST, labeler="ben")
    judge(store, *[WON] * 11)
    erasure.erase_user(store, "0" * 32, labeler="ben")
    assert hear(store, report)["people"].items() >= {"judged": 11, "waiting": 0, "losses": 0, "ties": 0}.items()


def test_a_report_counts_its_own_prompts(store: Engine) -> None:
    """Not what was judged for another, nor a prompt twice where the answers read the same by now."""
    prompts = asked(store, 16)
    ask_about(store, prompts[:12])
    judge(store, *[WON] * 12)
    again = ask_about(store, prompts[2:], *[(OURS, OURS)] * 4, people=14)
    assert again["people"].items() >= {"asked": 14, "same": 4, "judged": 6, "waiting": 4}.items()


def test_what_was_taken_back_is_asked_again_where_nobody_judged_it(store: Engine) -> None:
    prompts = asked(store)
    report = ask_about(store, prompts)
    judge(store, *[WON] * 5)
    with writing(store) as connection:
        pairs.withdraw(connection, "ckpt-another")
    assert count(store, Task) == 12
    with writing(store) as connection:
        pairs.withdraw(connection, report["candidate"]["id"])
    assert (count(store, Task), take(store, "ada")) == (5, None)
    assert ask_about(store, prompts)["people"].items() >= {"judged": 5, "waiting": 7}.items()


def test_too_few_words_refuse(store: Engine) -> None:
    report = ask_about(store, asked(store))
    judge(store, *[WON] * 9, *["skip"] * 3)
    report = hear(store, report)
    assert (report["promote"], report["reasons"]) == (False, ["Labelers judged 9 prompts (people: at least 10)"])


def test_where_too_few_answers_differ_nobody_is_asked(store: Engine) -> None:
    """Ties by themselves are not counted to the ten that it takes: it is decided already."""
    report = ask_about(store, asked(store), *[(OURS, OURS)] * 3)
    reason = "9 of 12 answers differ from the incumbent's (people: at least 10)"
    assert (report["promote"], report["reasons"]) == (False, [reason])
    assert report["people"].items() >= {"asked": 12, "same": 3, "judged": 0, "waiting": 0}.items()
    assert take(store, "ada") is None


def test_answers_that_read_the_same_are_ties_that_nobody_is_asked_for(store: Engine) -> None:
    report = ask_about(store, asked(store), (OURS, f" {OURS}\n"), ("", ""))
    assert count(store, Task) == 10
    judge(store, *[WON] * 10)
    report = hear(store, report)
    assert report["people"].items() >= {"asked": 12, "same": 2, "judged": 10, "wins": 10, "ties": 2}.items()


def test_an_imported_prompt_is_asked_once_too(store: Engine, tmp_path: Path) -> None:
    """Its id says nothing of its time: what the gate asks labelers is no prompt of its own, however ids sort."""
    put_in(store, tmp_path, [{"prompt": f"Question {number}"} for number in range(12)])

    def prompts() -> list[Example]:
        with reading(store) as connection:
            found = list(sampling.prompts(connection))
        return [example(each.completion_id, each.messages[-1]["content"]) for each in found]

    ask_about(store, first := prompts())
    assert prompts() == first
    again = ask_about(store, prompts())
    assert (count(store, Task), again["people"]["waiting"]) == (12, 12)


def test_as_many_are_asked_as_are_wanted_or_there(store: Engine) -> None:
    prompts = asked(store, 15)
    assert ask_about(store, prompts)["people"]["asked"] == count(store, Task) == 12
    assert ask_about(store, prompts, people=200)["people"]["asked"] == count(store, Task) == 15


def test_a_pair_is_of_whoever_asked_first(store: Engine) -> None:
    """And goes with it, redacted like it; a text prompt is one still."""
    first, second = add(store, "One", user="ann", key_id="key-7"), add(store, "Two")
    prompts = [example(first, "One"), example(second, "Two", is_text=True), *asked(store, 8)]
    ask_about(store, prompts, (OURS, "Write to ann@example.com."), people=10)
    with reading(store) as connection:
        made = {row.derived_from: row for row in connection.execute(select(Completion))}
        choices = connection.execute(select(Choice).where(Choice.completion_id == made[first].id)).all()
        (source,) = connection.execute(select(Completion).where(Completion.id == first)).all()
    pair = made[first]
    assert (pair.key_id, pair.user_hash) == ("key-7", source.user_hash)
    assert (pair.source, pair.policy_id, pair.model) == ("evaluation", "ckpt-new", "m-new")
    assert (pair.trainable, pair.retrievable, made[second].endpoint) == (True, False, "text")
    assert sorted((choice.index, choice.text, choice.source) for choice in choices) == [
        (0, OURS, None), (1, "Write to [EMAIL].", "ckpt-old")
    ]  # fmt: skip
    erasure.erase_completion(store, first)
    assert (count(store, Completion), count(store, Task)) == (18, 9)


def test_nobody_is_waited_for_about_what_is_gone_or_denied(store: Engine) -> None:
    prompts = asked(store, 14)
    erasure.erase_completion(store, str(prompts[0].completion_id))
    report = ask_about(store, prompts, people=14)
    assert report["people"]["waiting"] == 13
    erasure.erase_completion(store, str(prompts[1].completion_id))
    with writing(store) as connection:
        denied = Completion.derived_from == prompts[2].completion_id
        connection.execute(update(Completion).where(denied).values(trainable=False))
    judge(store, *[WON] * 11)
    assert take(store, "ada") is None
    assert hear(store, report)["people"].items() >= {"judged": 11, "waiting": 0, "wins": 11}.items()


@pytest.mark.parametrize("changed", ["candidate", "incumbent"])
def test_each_two_policies_are_judged_anew(store: Engine, changed: str) -> None:
    prompts = asked(store)
    ask_about(store, prompts)
    judge(store, *[WON] * 12)
    other = REPORT | {changed: {"name": "m-other", "id": "ckpt-other"}}
    assert ask(store, other, prompts, [row()] * 12)["people"]["waiting"] == 12
    with reading(store) as connection:
        assert pairs.count(connection) == {}, "what nobody was served is no shadow's"
