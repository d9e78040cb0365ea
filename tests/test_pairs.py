"""Two policies' answers as labelers' tasks, and who won, on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from completions import add, count, ingest, logged
from labeling_tasks import NOW, make_task, ranking_of, say, taken
from sqlalchemy import Engine, select, update

from honed.server.store import erasure, pairs, sampling
from honed.server.store.database import reading, writing
from honed.server.store.exchange.judgements import ordered
from honed.server.store.logged import LoggedCompletion
from honed.server.store.pairs import Compared, Verdicts
from honed.server.store.statistics import statistics
from honed.server.store.tables import Completion, Task

OWN, RIVAL = "The candidate's.", "The other's."


def seen(prompt: str = "What is the capital of France?", **fields: Any) -> LoggedCompletion:
    return logged(prompt, RIVAL, policy_id="old", **fields)


def unseen(first: LoggedCompletion, own: str = OWN, rival: str | None = RIVAL, **fields: Any) -> LoggedCompletion:
    """What a server logs of a shadow: without the rival where both read the same."""
    texts = (own,) if rival is None else (own, rival)
    made = logged(
        first.messages[0]["content"], *texts,
        **{"source": "shadow", "derived_from": first.id, "policy_id": "new", "retrievable": False} | fields,
    )  # fmt: skip
    return replace(made, choices=[replace(each, source="old" if each.index else None) for each in made.choices])


def put(store: Engine, prompt: str, **fields: Any) -> str:
    """A pair, one batch for each answer, as it may come; the served completion's id."""
    first = seen(prompt)
    ingest(store, [first])
    ingest(store, [unseen(first, **fields)])
    return first.id


def verdicts(store: Engine) -> dict[tuple[str, str], Verdicts]:
    with reading(store) as connection:
        return pairs.count(connection)


def judge(store: Engine, *order: tuple[str, ...], labeler: str = "ada") -> None:
    lease = taken(store, labeler)
    say(store, lease.task_id, labeler, ranking=ranking_of(lease, *order))


def test_who_won(store: Engine) -> None:
    for number, order in enumerate(([(OWN,), (RIVAL,)], [(RIVAL,), (OWN,)], [(OWN, RIVAL)], [(OWN,), (RIVAL,)])):
        put(store, f"Question {number}")
        judge(store, *order)
    put(store, "Another policy's", policy_id="newer")
    judge(store, (OWN,), (RIVAL,))
    make_task(store, "No pair")
    say(store, taken(store, "ada").task_id, "ada")
    assert verdicts(store) == {("new", "old"): Verdicts(2, 1, 1), ("newer", "old"): Verdicts(1, 0, 0)}


def test_what_is_no_ranking_counts_for_nobody(store: Engine) -> None:
    for number, verdict in enumerate(("all_bad", "skip")):
        put(store, f"Question {number}")
        say(store, taken(store, "ada").task_id, "ada", verdict)
    put(store, "On lease")
    taken(store, "ada")
    assert verdicts(store) == {}


def test_labelers_are_blind_and_see_an_order_of_their_own(store: Engine) -> None:
    put(store, "Question")
    with writing(store) as connection:
        connection.execute(update(Task).values(wanted=30))
    leases = [taken(store, f"labeler {number}") for number in range(30)]
    shown = {tuple(answer.text for answer in lease.answers) for lease in leases}
    assert shown == {(OWN, RIVAL), (RIVAL, OWN)}
    assert {answer.label for lease in leases for answer in lease.answers} == {"A", "B"}


def test_a_ranking_is_training_data(store: Engine) -> None:
    put(store, "Question")
    judge(store, (RIVAL,), (OWN,))
    with reading(store) as connection:
        (word,) = ordered(connection)
    found = [(answer.text, rank, answer.source) for answer, rank in word.answers]
    assert sorted(found) == [(OWN, 2, None), (RIVAL, 1, "old")]
    assert set(word.policies.values()) == {"new"}


def test_both_answers_may_come_in_one_batch(store: Engine) -> None:
    first = seen()
    ingest(store, [first, unseen(first)])
    assert count(store, Task) == 1


@pytest.mark.parametrize("rival", [None, f" {OWN}\n"])
def test_answers_that_read_the_same_make_no_task(store: Engine, rival: str | None) -> None:
    put(store, "Question", rival=rival)
    assert (count(store, Completion), count(store, Task)) == (2, 0)


def test_answers_that_are_the_same_once_redacted_make_no_task(store: Engine) -> None:
    put(store, "Question", own="Ask ann@example.com.", rival="Ask ben@example.com.")
    assert (count(store, Completion), count(store, Task)) == (2, 0)


def test_of_a_prompt_a_policy_has_one_task(store: Engine) -> None:
    for policy_id in ("new", "new", "newer"):
        put(store, "The same", policy_id=policy_id)
    assert (count(store, Completion), count(store, Task)) == (6, 2)
    with reading(store) as connection:
        assert sampling.sample(connection, 0) is not None, "it may be sampled still"


def test_a_policy_has_so_many_open_tasks_and_no_more(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MAX_OPEN", 2)
    for number in range(3):
        put(store, f"Question {number}")
    assert (count(store, Completion), count(store, Task)) == (6, 2)
    put(store, "Another policy's", policy_id="newer")
    assert count(store, Task) == 3
    judge(store, (OWN,), (RIVAL,))
    put(store, "There is room again")
    assert count(store, Task) == 4


def test_the_gate_s_pairs_are_counted_apart(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """And as many are shown as it asks for."""
    monkeypatch.setattr(pairs, "MAX_OPEN", 1)
    for number in range(3):
        put(store, f"Question {number}", source="evaluation")
    put(store, "Question 0")
    assert count(store, Task) == 4
    judge(store, (OWN,), (RIVAL,))
    assert verdicts(store) == {}
    with reading(store) as connection:
        asked = pairs.evaluated(connection, "new", "old")
        assert len(asked) == 3
        assert pairs.compared(connection, "new", "old", asked, now=NOW) == Compared((1.0,), 2)
        assert pairs.evaluated(connection, "new", "other") == set()


def test_what_several_labelers_say_of_a_prompt_is_one_share(store: Engine) -> None:
    put(store, "Question", source="evaluation")
    with writing(store) as connection:
        connection.execute(update(Task).values(wanted=3))
    for labeler, order in (("ada", [(OWN,), (RIVAL,)]), ("ben", [(OWN, RIVAL)]), ("cy", [(OWN,), (RIVAL,)])):
        judge(store, *order, labeler=labeler)
    with reading(store) as connection:
        asked = pairs.evaluated(connection, "new", "old")
        assert pairs.compared(connection, "new", "old", asked, now=NOW).shares == pytest.approx((2.5 / 3,))


def test_what_may_not_be_trained_on_is_not_shown(store: Engine) -> None:
    first = seen(trainable=False)
    ingest(store, [first, unseen(first, trainable=False, retrievable=True)])
    assert (count(store, Completion), count(store, Task)) == (2, 0)


def test_nothing_is_stored_of_what_was_erased_meanwhile(store: Engine) -> None:
    first, other = seen("One"), seen("Other")
    ingest(store, [first])
    erasure.erase_completion(store, first.id)
    done = ingest(store, [other, unseen(first), unseen(other)])
    assert (done.completions, done.dropped) == (2, 1)
    with reading(store) as connection:
        kept = set(connection.execute(select(Completion.derived_from)).scalars())
    assert kept == {None, other.id}


def test_a_pair_goes_with_what_it_repeats(store: Engine) -> None:
    completion_id = put(store, "Question")
    judge(store, (OWN,), (RIVAL,))
    erasure.erase_completion(store, completion_id)
    assert (count(store, Completion), count(store, Task), verdicts(store)) == (0, 0, {})


def test_a_shadow_is_no_prompt_of_its_own(store: Engine) -> None:
    put(store, "Question")
    add(store, "Another")
    with reading(store) as connection:
        found = statistics(connection, now=NOW)
        prompts = [each.completion_id for each in sampling.prompts(connection)]
    assert found.completions.by_source == {"server": 2, "shadow": 1}
    assert sum(each.prompts for each in found.categories) == len(prompts) == 2
