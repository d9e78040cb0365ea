"""How much the labelers agree, and how each of them leans.

Owns the measures and their conventions. Does not read the database, does not say what is good enough, and does not
tell a careless labeler from one with an uncommon taste. InstructGPT's labelers agree 72.6 +- 1.5 % of the time (Ouyang
et al. 2022, section 3.4), which is `pairwise` as nearly as the paper says.

Invariant: the result is a function of the judgements as a set; their order does not matter.

Alpha is the library `krippendorff`'s, for all labelers and again without each of them, which is most of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Final

import krippendorff
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_Z: Final = 1.959964  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True, slots=True)
class Judgement:
    """One labeler's ranking of a task's answers; a skipped task has none.

    `ranks`: answer -> rank; 1 is best, ties share a rank, and one convention for the rank after a tie holds
    everywhere, because alpha reads the ranks as values. `lengths`: answer -> characters. `shown`: answers in the
    order in which this labeler saw them. Answers that the last two lack are left out of what needs them. An answer
    is its index in its task: the work grows with the square of how many different ones there are.
    """

    task_id: str
    labeler: str
    ranks: Mapping[int, int]
    lengths: Mapping[int, int] = field(default_factory=dict)
    shown: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """`value` of `pairs` are so; with 95 % confidence (see `_share`) it is from `low` to `high`."""

    value: float
    pairs: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LabelerAgreement:
    """One labeler against the others. A share is None where there is no pair that it could be a share of."""

    labeler: str
    tasks: int  # that this labeler judged
    pairs: int  # of answers in them
    agreement: Share | None  # as Agreement.pairwise, of the comparisons that this labeler is in
    alpha_without: float | None  # alpha of all others: above Agreement.alpha when this labeler is the odd one out
    prefers_longer: Share | None  # of strict pairs of unequal length; longer may be better: compare with the others
    prefers_first: Share | None  # of strict pairs: the answer shown earlier won; .5 when the order was drawn by lot
    tie_rate: float | None  # of `pairs`


@dataclass(frozen=True, slots=True)
class Agreement:
    """A comparison is two labelers who ranked the same two answers.

    `pairwise`: of the comparisons that are strict on both sides, those with the same order.
    `pairwise_with_ties`: of all comparisons; two ties agree, and a tie against an order counts half (LIMA, Zhou et
    al. 2023, section 4: "tie-discounted accuracy"). `alpha`: Krippendorff's, ordinal, a unit is an answer to a
    task and its values are the ranks; None without two labelers of one answer, or without two different ranks.
    """

    pairwise: Share | None
    pairwise_with_ties: Share | None
    alpha: float | None
    labelers: tuple[LabelerAgreement, ...]  # by name


def agreement(judgements: Iterable[Judgement]) -> Agreement:
    """Raises ValueError if a labeler has two judgements of a task."""
    table = _table(list(judgements))
    pairs = _pairs(table)
    won, lost, tied = (_by_task(table, p) for p in (pairs.order == 1, pairs.order == -1, pairs.tied))
    strict = won + lost
    same = _twos(won) + _twos(lost)
    alpha, alpha_without = _alphas(table)
    return Agreement(
        pairwise=_share(same.sum(1), _twos(strict).sum(1)),
        pairwise_with_ties=_share(
            (same + _twos(tied) + tied * strict / 2).sum(1),
            _twos(strict + tied).sum(1),
        ),
        alpha=alpha,
        labelers=_labelers(table, pairs, won, lost, alpha_without),
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """J judgements, by task and labeler, of T tasks by L labelers; a column is one of A answer indices."""

    names: list[str]  # (L,)
    labeler: Ints  # (J,)
    task: Ints  # (J,), ascending
    ranks: Floats  # (J, A); NaN where there is none
    lengths: Floats  # (J, A)
    places: Floats  # (J, A): where it was shown


@dataclass(frozen=True, slots=True)
class _Pairs:
    """P = A (A - 1) / 2 pairs of columns. 1: the first is better, longer, earlier; -1: the second; 0: neither."""

    order: NDArray[np.int8]  # (J, P)
    tied: Bools  # (J, P): the order is 0 because the ranks are equal, not because one is missing
    longer: NDArray[np.int8]  # (J, P)
    earlier: NDArray[np.int8]  # (J, P)


def _table(judgements: list[Judgement]) -> _Table:
    judgements.sort(key=lambda judgement: (judgement.task_id, judgement.labeler))
    names, labeler = _numbered([judgement.labeler for judgement in judgements])
    _, task = _numbered([judgement.task_id for judgement in judgements])
    repeated = np.flatnonzero((np.diff(task) == 0) & (np.diff(labeler) == 0))
    if len(repeated):
        twice = judgements[repeated[0]]
        raise ValueError(
            f"Labeler {twice.labeler!r} has two judgements of task {twice.task_id!r}: pass only the one that counts."
        )
    sizes = [len(judgement.ranks) for judgement in judgements]
    row = np.repeat(np.arange(len(judgements)), sizes)
    answers, column = np.unique([a for judgement in judgements for a in judgement.ranks], return_inverse=True)

    def dense(values_of: Callable[[Judgement], Mapping[int, int]]) -> Floats:
        found = [value for judgement in judgements for value in map(values_of(judgement).get, judgement.ranks)]
        array = np.full((len(judgements), len(answers)), np.nan)
        array[row, column] = np.array(found, np.float64)  # None becomes NaN
        return array

    return _Table(
        names=names,
        labeler=labeler,
        task=task,
        ranks=dense(lambda judgement: judgement.ranks),
        lengths=dense(lambda judgement: judgement.lengths),
        places=dense(lambda judgement: {answer: place for place, answer in enumerate(judgement.shown)}),
    )


def _numbered(names: list[str]) -> tuple[list[str], Ints]:
    """The different names, sorted, and for each of `names` where it stands among them."""
    different = sorted(set(names))
    number = {name: i for i, name in enumerate(different)}
    return different, np.array([number[name] for name in names], np.int64)


def _pairs(table: _Table) -> _Pairs:
    first, second = np.triu_indices(table.ranks.shape[1], 1)

    def sign(smaller_wins: Floats) -> NDArray[np.int8]:
        return np.nan_to_num(np.sign(smaller_wins[:, second] - smaller_wins[:, first])).astype(np.int8)

    return _Pairs(
        order=sign(table.ranks),
        tied=table.ranks[:, first] == table.ranks[:, second],
        longer=sign(-table.lengths),
        earlier=sign(table.places),
    )


def _by_task(table: _Table, flags: Bools) -> Ints:
    """(J, P) -> (T, P): how many of a task's judgements."""
    starts = np.flatnonzero(np.diff(table.task, prepend=-1))
    return np.add.reduceat(flags, starts, axis=0, dtype=np.int64)


def _twos(count: Ints) -> Ints:
    """How many pairs `count` things make."""
    return count * (count - 1) // 2


def _labelers(
    table: _Table, pairs: _Pairs, won: Ints, lost: Ints, alpha_without: list[float | None]
) -> tuple[LabelerAgreement, ...]:
    first, second, strict = pairs.order == 1, pairs.order == -1, pairs.order != 0
    # A task's counts hold the labeler's own vote, so one is taken off.
    others_agree = (first * (won[table.task] - 1) + second * (lost[table.task] - 1)).sum(1)
    others_strict = (strict * ((won + lost)[table.task] - 1)).sum(1)
    by_length, by_place = strict & (pairs.longer != 0), strict & (pairs.earlier != 0)
    longer_won, sized = (by_length & (pairs.longer == pairs.order)).sum(1), by_length.sum(1)
    earlier_won, placed = (by_place & (pairs.earlier == pairs.order)).sum(1), by_place.sum(1)
    ties = pairs.tied.sum(1)
    ranked = ties + strict.sum(1)
    found = []
    for name, alpha, mine in zip(table.names, alpha_without, _rows_of(table, table.labeler), strict=True):
        all_pairs = int(ranked[mine].sum())
        found.append(
            LabelerAgreement(
                labeler=name,
                tasks=len(mine),
                pairs=all_pairs,
                agreement=_share(others_agree[mine], others_strict[mine]),
                alpha_without=alpha,
                prefers_longer=_share(longer_won[mine], sized[mine]),
                prefers_first=_share(earlier_won[mine], placed[mine]),
                tie_rate=float(ties[mine].sum() / all_pairs) if all_pairs else None,
            )
        )
    return tuple(found)


def _rows_of(table: _Table, labeler: Ints) -> list[Ints]:
    """For each labeler the places in `labeler` (numbers) that are that labeler's."""
    counts = np.bincount(labeler, minlength=len(table.names))
    return np.split(np.argsort(labeler), np.cumsum(counts)[:-1]) if len(table.names) else []


def _share(hits: Ints | Floats, pairs: Ints) -> Share | None:
    """(C,) hits and pairs of each task -> the share of all, with Wilson's interval for as many pairs as are worth it.

    The pairs of a task are not independent: one ranking of nine answers gives 36 of them, and a hard task is hard for
    everybody; taken for independent, they give an interval that is far too narrow. So their number is divided by the
    design effect, which the spread between tasks gives, and corrected for few tasks; where the spread says nothing
    (one task, or a share of 0 or 1), a task counts as one pair. From some 40 tasks on that is as wide as a bootstrap
    over tasks, but it draws no random numbers and does not shrink to a point at perfect agreement. It holds for these
    labelers on other tasks, not for other labelers. Source: Korn and Graubard 1998, "Confidence intervals for
    proportions with small expected number of positive counts estimated from survey data", with Wilson's interval,
    as Franco et al. 2019, "Comparative study of confidence intervals for proportions in complex sample surveys".
    """
    hits, pairs = hits[pairs > 0], pairs[pairs > 0]
    tasks, total = len(pairs), int(pairs.sum())
    if not tasks:
        return None
    value = float(hits.sum() / total)
    effective: float = tasks
    if tasks > 1 and 0 < value < 1:
        independent = value * (1 - value) / total
        clustered = float(np.square(hits - value * pairs).sum()) * tasks / (tasks - 1) / total**2
        student = _Z + (_Z**3 + _Z) / (4 * (tasks - 1))  # the first terms of Student's quantile
        effective = total * independent / max(independent, clustered) * (_Z / student) ** 2
    center = (value + _Z**2 / (2 * effective)) / (1 + _Z**2 / effective)
    reach = _Z * sqrt(value * (1 - value) / effective + (_Z / (2 * effective)) ** 2) / (1 + _Z**2 / effective)
    return Share(value, total, max(0.0, center - reach), min(1.0, center + reach))


def _alphas(table: _Table) -> tuple[float | None, list[float | None]]:
    """Alpha of all labelers, and of all but each of them."""
    row, column = np.nonzero(~np.isnan(table.ranks))
    _, value = np.unique(table.ranks[row, column], return_inverse=True)
    unit = table.task[row] * table.ranks.shape[1] + column
    shape = (unit.max(initial=-1) + 1, value.max(initial=-1) + 1)
    counts = np.bincount(unit * shape[1] + value, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)
    without: list[float | None] = []
    for mine in _rows_of(table, table.labeler[row]):
        left = counts.copy()
        left[unit[mine], value[mine]] -= 1
        without.append(_alpha(left))
    return _alpha(counts), without


def _alpha(counts: Ints) -> float | None:
    """Ordinal alpha of (U, V): how often a unit got a value. None where no two values of a unit could differ."""
    paired = counts[counts.sum(1) > 1]  # a unit with a single value says nothing
    if np.count_nonzero(paired.sum(0)) < 2:
        return None
    return float(krippendorff.alpha(value_counts=paired, level_of_measurement="ordinal"))
