"""Agreement between labelers against numbers worked out by hand, by enumeration and by the library for alpha."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.server.store.agreement import Agreement, Judgement, LabelerAgreement, Share, agreement

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", part C: four observers, twelve units, gaps.
PUBLISHED = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
}


def ranking(task: str, labeler: str, *ranks: int) -> Judgement:
    return Judgement(task, labeler, dict(enumerate(ranks)))


def of(result: Agreement, name: str) -> LabelerAgreement:
    return next(labeler for labeler in result.labelers if labeler.labeler == name)


def known(share: Share | None) -> Share:
    assert share is not None
    return share


def value(share: Share | None) -> object:
    return None if share is None else (pytest.approx(share.value), share.pairs)


def library_alpha(judgements: Iterable[Judgement]) -> float | None:
    """What `krippendorff` says; it raises or divides by zero where alpha is undefined."""
    judgements = list(judgements)
    units = sorted({(j.task_id, answer) for j in judgements for answer in j.ranks})
    rows = {j.labeler: [np.nan] * len(units) for j in judgements}
    for judgement in judgements:
        for answer, rank in judgement.ranks.items():
            rows[judgement.labeler][units.index((judgement.task_id, answer))] = rank
    with np.errstate(divide="ignore", invalid="ignore"):
        try:
            alpha = krippendorff.alpha(list(rows.values()) or [[np.nan]], level_of_measurement="ordinal")
        except ValueError:
            return None
    return None if np.isnan(alpha) else float(alpha)


def without(judgements: Iterable[Judgement], labeler: str) -> list[Judgement]:
    return [judgement for judgement in judgements if judgement.labeler != labeler]


def test_three_labelers_one_task() -> None:
    """A and B order all; they differ in the last two, which C ties."""
    result = agreement([ranking("t", "A", 1, 2, 3), ranking("t", "B", 1, 3, 2), ranking("t", "C", 1, 2, 2)])
    assert value(result.pairwise) == (6 / 7, 7)  # 0-1 and 0-2: 3 of 3; 1-2: 0 of 1
    assert value(result.pairwise_with_ties) == (7 / 9, 9)  # 1-2: nothing and two halves, of 3
    assert [value(labeler.agreement) for labeler in result.labelers] == [(4 / 5, 5), (4 / 5, 5), (4 / 4, 4)]
    assert [labeler.tie_rate for labeler in result.labelers] == [0, 0, pytest.approx(1 / 3)]
    assert [(labeler.tasks, labeler.pairs) for labeler in result.labelers] == [(1, 3)] * 3


def test_one_task_is_worth_one_pair() -> None:
    """Wilson's interval for n = 1 and p = 6/7: (p + z^2/2 -+ z sqrt(p (1 - p) + z^2/4)) / (1 + z^2)."""
    result = agreement([ranking("t", "A", 1, 2, 3), ranking("t", "B", 1, 3, 2), ranking("t", "C", 1, 2, 2)])
    share = known(result.pairwise)
    assert (share.low, share.high) == (pytest.approx(0.15251, abs=1e-5), pytest.approx(0.99503, abs=1e-5))


def test_the_interval_of_two_tasks() -> None:
    """3 of 3 and 1 of 3: residuals 1 and -1, so a variance of 4/36 instead of 2/54; the design effect is 3, and 6 pairs
    are worth 2, times (1.960 / 4.332)^2 for one degree of freedom: 0.409.
    """
    tasks = [ranking("s", "A", 1, 2, 3), ranking("s", "B", 1, 2, 3)]
    tasks += [ranking("t", "A", 1, 2, 3), ranking("t", "B", 2, 3, 1)]
    share = known(agreement(tasks).pairwise)
    assert value(share) == (4 / 6, 6)
    assert (share.low, share.high) == (pytest.approx(0.0433, abs=1e-4), pytest.approx(0.9888, abs=1e-4))


def test_pairs_of_one_task_are_not_taken_for_independent() -> None:
    """40 tasks of 36 pairs, each all agreed or all reversed, are 40 tosses of a coin and not 1440."""
    up, down = range(1, 10), range(9, 0, -1)
    tasks = [ranking(f"t{i}", "A", *up) for i in range(40)]
    tasks += [ranking(f"t{i}", "B", *(up if i % 2 else down)) for i in range(40)]
    share = known(agreement(tasks).pairwise)
    assert value(share) == (0.5, 1440)
    assert share.low == pytest.approx(0.5 - 0.155, abs=0.01)
    assert share.high == pytest.approx(0.5 + 0.155, abs=0.01)


def test_independent_pairs_get_the_plain_interval() -> None:
    """200 tasks of one pair, 150 agreed: Wilson's interval for n = 200 is 0.686 to 0.805."""
    tasks = [ranking(f"t{i}", "A", 1, 2) for i in range(200)]
    tasks += [ranking(f"t{i}", "B", *((1, 2) if i < 150 else (2, 1))) for i in range(200)]
    share = known(agreement(tasks).pairwise)
    assert (share.low, share.high) == (pytest.approx(0.686, abs=2e-3), pytest.approx(0.805, abs=2e-3))


def test_tasks_that_are_too_alike_do_not_narrow_the_interval() -> None:
    """30 tasks of 1 in 3 each: no spread at all, and still 90 pairs: Wilson's interval for them is 0.244 to 0.436."""
    tasks = [ranking(f"t{i}", "A", 1, 2, 3) for i in range(30)] + [ranking(f"t{i}", "B", 2, 3, 1) for i in range(30)]
    share = known(agreement(tasks).pairwise)
    assert (share.low, share.high) == (pytest.approx(0.244, abs=6e-3), pytest.approx(0.436, abs=6e-3))


@pytest.mark.parametrize("tasks", range(1, 40))
def test_intervals_stay_within_0_and_1(tasks: int) -> None:
    up = [ranking(f"t{i}", "A", 1, 2) for i in range(tasks)]
    same = known(agreement([*up, *(ranking(f"t{i}", "B", 1, 2) for i in range(tasks))]).pairwise)
    reversed_ = known(agreement([*up, *(ranking(f"t{i}", "B", 2, 1) for i in range(tasks))]).pairwise)
    assert 0 < same.low < same.high <= 1
    assert 0 <= reversed_.low < reversed_.high < 1


@pytest.mark.parametrize("as_answers_of_one_task", [True, False])
def test_the_published_alpha(as_answers_of_one_task: bool) -> None:
    judgements = []
    for labeler, values in PUBLISHED.items():
        ranks = {unit: rank for unit, rank in enumerate(values) if rank is not None}
        if as_answers_of_one_task:
            judgements.append(Judgement("all", labeler, ranks))
        else:
            judgements += [Judgement(f"unit {unit}", labeler, {0: rank}) for unit, rank in ranks.items()]
    result = agreement(judgements)
    assert result.alpha == pytest.approx(0.815, abs=5e-4)
    for labeler in PUBLISHED:
        rest = library_alpha(without(judgements, labeler))
        assert of(result, labeler).alpha_without == pytest.approx(rest)


def test_perfect_agreement() -> None:
    result = agreement([ranking(f"t{i}", name, 2, 1, 3) for i in range(10) for name in "AB"])
    assert result.alpha == 1
    assert result.pairwise == result.pairwise_with_ties == of(result, "A").agreement
    share = known(result.pairwise)
    assert (value(share), share.high) == ((1, 30), pytest.approx(1))
    assert share.low == pytest.approx(10 / (10 + 1.959964**2))  # Wilson's of 10 successes in 10


def test_complete_reversal() -> None:
    """Values 1-2 and 2-1: o12 = 2, n1 = n2 = 2, n = 4, so alpha = 1 - 3 * 2 / (2 * 2)."""
    result = agreement([ranking("t", "A", 1, 2), ranking("t", "B", 2, 1)])
    assert value(result.pairwise) == value(result.pairwise_with_ties) == (0, 1)
    assert known(result.pairwise).low == 0
    assert result.alpha == pytest.approx(-0.5)
    assert [labeler.alpha_without for labeler in result.labelers] == [None, None]


def test_a_labeler_who_ties_everything() -> None:
    """Values 1-1 and 2-1: o12 = 1, n1 = 3, n2 = 1, n = 4, so alpha = 1 - 3 * 1 / 3."""
    ties = replace(ranking("t", "B", 1, 1), lengths={0: 9, 1: 5}, shown=(0, 1))
    result = agreement([ranking("t", "A", 1, 2), ties])
    assert result.pairwise is None
    assert value(result.pairwise_with_ties) == (0.5, 1)
    assert result.alpha == pytest.approx(0)
    labeler = of(result, "B")
    assert (labeler.tie_rate, labeler.pairs) == (1, 1)
    assert (labeler.agreement, labeler.prefers_longer, labeler.prefers_first) == (None, None, None)


def test_no_overlap() -> None:
    mine = replace(ranking("s", "A", 1, 2), lengths={0: 9, 1: 5}, shown=(1, 0))
    result = agreement([mine, ranking("t", "B", 2, 1)])
    assert (result.pairwise, result.pairwise_with_ties, result.alpha) == (None, None, None)
    labeler = of(result, "A")
    assert (labeler.agreement, labeler.alpha_without, labeler.tie_rate) == (None, None, 0)
    assert (value(labeler.prefers_longer), value(labeler.prefers_first)) == ((1, 1), (0, 1))


def test_the_same_task_and_different_answers_are_no_overlap() -> None:
    result = agreement([Judgement("t", "A", {0: 1, 1: 2}), Judgement("t", "B", {2: 1, 3: 2})])
    assert (result.pairwise_with_ties, result.alpha) == (None, None)


def test_no_variation_has_no_alpha() -> None:
    result = agreement([ranking("t", name, 1, 1, 1) for name in "AB"])
    assert result.alpha is None
    assert value(result.pairwise_with_ties) == (1, 3)


def test_a_value_that_only_the_one_left_out_used_is_gone() -> None:
    judgements = [ranking(f"t{i}", name, 1, 1) for i in range(3) for name in "ABC"]
    judgements += [ranking(f"t{i}", "X", 1, 2) for i in range(3)]
    assert of(agreement(judgements), "X").alpha_without is None


@pytest.mark.parametrize("judgements", [[], [Judgement("t", "A", {})], [Judgement("t", "A", {0: 1})]])
def test_nothing_to_compare(judgements: list[Judgement]) -> None:
    result = agreement(judgements)
    assert (result.pairwise, result.pairwise_with_ties, result.alpha) == (None, None, None)
    assert [(labeler.tasks, labeler.pairs, labeler.tie_rate) for labeler in result.labelers] == (
        [(1, 0, None)] if judgements else []
    )


def test_two_judgements_of_one_task_are_refused() -> None:
    with pytest.raises(ValueError, match="'A' has two judgements of task 't'"):
        agreement([ranking("t", "A", 1, 2), ranking("t", "B", 1, 2), ranking("t", "A", 2, 1)])


def test_lengths_and_places_that_are_unknown_or_equal_do_not_count() -> None:
    judgement = Judgement("t", "A", {0: 1, 1: 2, 2: 3, 3: 4}, lengths={0: 7, 1: 7, 2: 9}, shown=(2, 0))
    labeler = of(agreement([judgement]), "A")
    assert value(labeler.prefers_longer) == (0, 2)  # 0 beats 2, and 1 beats 2
    assert value(labeler.prefers_first) == (0, 1)  # 0 beats 2


def crowd() -> list[Judgement]:
    """60 tasks of 5 answers, whose lengths and places say nothing about their quality, and five labelers."""
    rng = random.Random(7)
    judgements = []
    for task in range(60):
        quality = [rng.gauss(0, 1) for _ in range(5)]
        lengths = {answer: rng.randrange(100, 4000) for answer in range(5)}
        for name in ("careful", "also careful", "longest", "first", "random"):
            shown = tuple(rng.sample(range(5), 5))
            scores = {
                "longest": [lengths[answer] for answer in range(5)],
                "first": [-shown.index(answer) for answer in range(5)],
                "random": [rng.random() for _ in range(5)],
            }.get(name, [q + rng.gauss(0, 0.3) for q in quality])
            best_first = sorted(scores, reverse=True)
            ranks = {answer: best_first.index(score) + 1 for answer, score in enumerate(scores)}
            judgements.append(Judgement(f"t{task}", name, ranks, lengths, shown))
    return judgements


def test_a_bias_shows() -> None:
    result = agreement(crowd())
    for name in ("careful", "also careful", "longest", "first", "random"):
        labeler = of(result, name)
        longer, earlier = known(labeler.prefers_longer), known(labeler.prefers_first)
        assert (longer.value == 1) == (name == "longest")
        assert (earlier.value == 1) == (name == "first")
        assert (longer.low > 0.5) == (name == "longest")
        assert (earlier.low > 0.5) == (name == "first")


def test_who_is_the_odd_one_out_shows() -> None:
    result = agreement(crowd())
    assert result.alpha is not None
    for name in ("longest", "first", "random"):
        share = known(of(result, name).agreement)
        assert share.low < 0.5 < share.high
        assert (of(result, name).alpha_without or 0) > result.alpha
    for name in ("careful", "also careful"):
        assert known(of(result, name).agreement).low > 0.5
        assert (of(result, name).alpha_without or 0) < result.alpha


def test_neither_order_nor_the_answers_numbers_matter() -> None:
    judgements = crowd()
    number = [10**12, -5, 7, 0, 3]
    renumbered = [
        Judgement(
            judgement.task_id,
            judgement.labeler,
            {number[answer]: rank for answer, rank in reversed(judgement.ranks.items())},
            {number[answer]: length for answer, length in judgement.lengths.items()},
            tuple(number[answer] for answer in judgement.shown),
        )
        for judgement in reversed(judgements)
    ]
    before, after = agreement(judgements), agreement(judgement for judgement in renumbered)
    assert before == replace(after, alpha=before.alpha, labelers=before.labelers)
    assert after.alpha == pytest.approx(before.alpha)
    for ours, theirs in zip(before.labelers, after.labelers, strict=True):
        assert theirs.alpha_without == pytest.approx(ours.alpha_without)
        assert ours == replace(theirs, alpha_without=ours.alpha_without)


@st.composite
def few_judgements(draw: st.DrawFn) -> list[Judgement]:
    keys = draw(st.sets(st.tuples(st.sampled_from("stu"), st.sampled_from("ABCD")), max_size=8))
    answers = st.integers(0, 3)
    return [
        Judgement(
            task,
            labeler,
            draw(st.dictionaries(answers, st.integers(1, 4))),
            draw(st.dictionaries(answers, st.integers(1, 3))),
            tuple(draw(st.permutations(range(4)))[: draw(answers)]),
        )
        for task, labeler in sorted(keys)
    ]


def share_of(outcomes: Sequence[float]) -> object:
    return (pytest.approx(sum(outcomes) / len(outcomes)), len(outcomes)) if outcomes else None


def comparisons(judgements: list[Judgement]) -> list[tuple[str, str, int, int]]:
    """Two labelers and how each orders two answers: the rank of the second less that of the first."""
    return [
        (one.labeler, other.labeler, one.ranks[b] - one.ranks[a], other.ranks[b] - other.ranks[a])
        for one, other in combinations(judgements, 2)
        if one.task_id == other.task_id
        for a, b in combinations(sorted(set(one.ranks) & set(other.ranks)), 2)
    ]


@given(few_judgements())
def test_pairs_by_enumeration(judgements: list[Judgement]) -> None:
    result = agreement(judgements)
    compared = comparisons(judgements)
    strict = [(one, other, x * y > 0) for one, other, x, y in compared if x and y]
    ties = [float(x * y > 0 or x == y == 0) or (0.5 if 0 in (x, y) else 0) for _, _, x, y in compared]
    assert value(result.pairwise) == share_of([same for _, _, same in strict])
    assert value(result.pairwise_with_ties) == share_of(ties)
    assert [labeler.labeler for labeler in result.labelers] == sorted({j.labeler for j in judgements})
    for labeler in result.labelers:
        theirs = [same for one, other, same in strict if labeler.labeler in (one, other)]
        assert value(labeler.agreement) == share_of(theirs)


@given(few_judgements())
def test_leanings_by_enumeration(judgements: list[Judgement]) -> None:
    for labeler in agreement(judgements).labelers:
        pairs, ties, longer, earlier = 0, 0, [], []
        for judgement in [j for j in judgements if j.labeler == labeler.labeler]:
            ranks, lengths, shown = judgement.ranks, judgement.lengths, judgement.shown
            for a, b in combinations(ranks, 2):
                best, worst = (a, b) if ranks[a] < ranks[b] else (b, a)
                pairs, ties = pairs + 1, ties + (ranks[a] == ranks[b])
                if ranks[a] != ranks[b] and a in lengths and b in lengths and lengths[a] != lengths[b]:
                    longer.append(lengths[best] > lengths[worst])
                if ranks[a] != ranks[b] and a in shown and b in shown:
                    earlier.append(shown.index(best) < shown.index(worst))
        assert labeler.pairs == pairs
        assert labeler.tie_rate == (ties / pairs if pairs else None)
        assert value(labeler.prefers_longer) == share_of(longer)
        assert value(labeler.prefers_first) == share_of(earlier)


@given(few_judgements())
def test_alpha_is_the_librarys(judgements: list[Judgement]) -> None:
    result = agreement(judgements)
    assert result.alpha == pytest.approx(library_alpha(judgements))
    for labeler in result.labelers:
        assert labeler.alpha_without == pytest.approx(library_alpha(without(judgements, labeler.labeler)))


@given(few_judgements())
def test_intervals_hold_their_share(judgements: list[Judgement]) -> None:
    result = agreement(judgements)
    shares = [result.pairwise, result.pairwise_with_ties, *(labeler.agreement for labeler in result.labelers)]
    for share in shares:
        assert share is None or 0 <= share.low <= share.value + 1e-9
        assert share is None or share.value - 1e-9 <= share.high <= 1
