"""How good is a ranking: values per user, and what can be concluded from them. NumPy only.

Knows one protocol: every user has one relevant item (leave one out), sought in a ranking of the whole catalogue.
Does not know where a ranking comes from, nor which users to ask: that is `run.py`.

A user's value depends on the rank of the target alone, so a measure has few distinct values. The resampling below
draws how often each of them occurs instead of drawing users: the same distribution, flat memory.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyitem.types import Ids

Values = NDArray[np.float64]
Ranks = NDArray[np.int64]

RESAMPLES = 2000
_CHUNK = 1 << 20  # draws held at a time


class Estimate(NamedTuple):
    """A mean over users and its confidence interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """A mean difference over the same users, its confidence interval, and how likely chance alone is to give it."""

    value: float
    low: float
    high: float
    p_value: float


def ranks_of(items_UK: Ids, targets_U: Ids) -> Ranks:
    """Where each target stands in its row.

    Args:
        items_UK: (U, K) ranked positions, best first, padded with -1.
        targets_U: (U,) one target position per row; -1 (no such item) is found nowhere, not even in the padding.

    Returns:
        (U,) ranks from 1; 0 where the row does not hold the target.
    """
    hit_UK = (items_UK == targets_U[:, None]) & (items_UK >= 0)
    return np.where(hit_UK.any(axis=1), hit_UK.argmax(axis=1) + 1, 0)


def ndcg(ranks_U: Ranks, k: int) -> Values:
    """NDCG@k of every user: 1 / log2(rank + 1) up to rank k, else 0 (one relevant item, so the ideal DCG is 1)."""
    return _up_to(ranks_U, k, 1 / np.log2(np.maximum(ranks_U, 1) + 1))


def recall(ranks_U: Ranks, k: int) -> Values:
    """Recall@k of every user: 1 up to rank k, else 0. With one relevant item the same as hit rate."""
    return _up_to(ranks_U, k, np.ones(len(ranks_U)))


def mrr(ranks_U: Ranks, k: int) -> Values:
    """Reciprocal rank of every user: 1 / rank up to rank k, else 0."""
    return _up_to(ranks_U, k, 1 / np.maximum(ranks_U, 1))


def _up_to(ranks_U: Ranks, k: int, gain_U: Values) -> Values:
    return np.where((ranks_U > 0) & (ranks_U <= k), gain_U, 0.0)


def exposure(items_UK: Ids, num_items: int, k: int) -> NDArray[np.int64]:
    """(I,) how often every item stands among the first k of a row; adds up over batches of users."""
    shown = items_UK[:, :k]
    return np.bincount(shown[shown >= 0], minlength=num_items)


def coverage(exposure_I: NDArray[np.int64]) -> float:
    """Catalogue coverage: the share of all items that at least one user is shown."""
    return float((exposure_I > 0).mean())


def head_share(exposure_I: NDArray[np.int64], popularity_I: NDArray[np.integer], head: float = 0.01) -> float:
    """Popularity bias: the share of all recommendations that go to the most popular `head` of the catalogue.

    Args:
        exposure_I: (I,) what `exposure` returned.
        popularity_I: (I,) training events of every item.
        head: fraction of the catalogue, rounded up to whole items; equally popular items enter by position.

    Returns:
        0..1; `head` itself when recommendations fall evenly over the catalogue. 0 when nothing was recommended.
    """
    popular = np.argsort(-popularity_I, kind="stable")[: int(np.ceil(head * len(popularity_I)))]
    return float(exposure_I[popular].sum() / max(exposure_I.sum(), 1))


def interval(values_U: Values, *, level: float = 0.95, seed: int = 0, num_resamples: int = RESAMPLES) -> Estimate:
    """The mean over users with its percentile bootstrap interval (Efron 1979).

    A resample of U users is a multinomial draw over the distinct values, which is what is drawn here. If all values
    agree (no hit at all), so do both ends: the bootstrap knows nothing of hits it has not seen.

    Args:
        values_U: (U,) one value per user, U >= 1.
        level: probability that the interval covers the mean of the population.
        seed: same seed, same interval.
        num_resamples: draws; the ends wander by about a tenth of the interval's width at 200, a thirtieth at 2000.

    Returns:
        Estimate, low <= value <= high up to the skew of the bootstrap distribution.

    Cost: O(U log U) to find the V distinct values, O(V num_resamples) to draw; 8 MB. V <= 101 for ranks up to 100;
    not meant for continuous values, where V = U.
    """
    distinct_V, counts_V = np.unique(values_U, return_counts=True)
    rng, num_users = np.random.default_rng(seed), len(values_U)
    means = np.empty(num_resamples)
    for part in _chunks(num_resamples, len(distinct_V)):
        draws = rng.multinomial(num_users, counts_V / num_users, size=part.stop - part.start)
        means[part] = draws @ distinct_V / num_users
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(values_U.mean()), float(low), float(high))


def paired_difference(
    a_U: Values, b_U: Values, *, level: float = 0.95, seed: int = 0, num_resamples: int = RESAMPLES
) -> Difference:
    """Is A better than B for the same users: mean of a - b, bootstrap interval, randomisation test.

    The p-value is two-sided, of Fisher's paired randomisation test (the one Smucker et al., CIKM 2007, recommend for
    retrieval): if it made no difference which system is which, every user's difference could as well have the other
    sign. It is the share of random sign flips whose mean is at least as far from 0, the observed one counted in, so
    it is never below 1 / (num_resamples + 1).

    Args:
        a_U: (U,) values of A, U >= 1.
        b_U: (U,) values of B for the same users in the same order.
        level: of the interval.
        seed: same seed, same answer.
        num_resamples: of the bootstrap and of the sign flips.

    Raises:
        ValueError: A and B are not of the same users.
    """
    if a_U.shape != b_U.shape:
        raise ValueError(
            f"got {len(a_U)} and {len(b_U)} users; a paired test needs the same users: evaluate both again"
        )
    difference_U = a_U - b_U
    estimate = interval(difference_U, level=level, seed=seed, num_resamples=num_resamples)
    return Difference(*estimate, _sign_flip_p(difference_U, seed, num_resamples))


def _sign_flip_p(difference_U: Values, seed: int, num_resamples: int) -> float:
    """How often random signs give a mean at least as far from 0; c users of one size: 2 Binomial(c, 1/2) - c of it."""
    size_V, counts_V = np.unique(np.abs(difference_U[difference_U != 0]), return_counts=True)
    rng = np.random.default_rng(seed)
    rounding = 1e-12 * float(size_V @ counts_V)  # sums in another order must still count as equal
    observed = abs(difference_U.sum()) - rounding
    extreme = 0
    for part in _chunks(num_resamples, len(size_V)):
        heads = rng.binomial(counts_V, 0.5, size=(part.stop - part.start, len(size_V)))
        extreme += int((np.abs((2 * heads - counts_V) @ size_V) >= observed).sum())
    return (1 + extreme) / (1 + num_resamples)


def _chunks(num_rows: int, width: int) -> Iterator[slice]:
    """Slices of the rows that hold about `_CHUNK` entries each."""
    step = max(1, _CHUNK // max(width, 1))
    return (slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step))
