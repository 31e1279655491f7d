"""Asks a ranker about held-out users: unsampled metrics with intervals, and time by stage.

Knows histories, targets and anything that ranks. Does not know how the users were held out (`data/splits.py`) nor
what is inside the ranker; the whole catalogue competes for every user, no sampled negatives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from everyitem.evaluate import measures
from everyitem.evaluate.measures import Difference, Estimate, Ranks, Values
from everyitem.evaluate.resident import Resident
from everyitem.types import Histories, Ids, Ranker, TopK

MEASURES: Final[dict[str, Callable[[Ranks, int], Values]]] = {
    "ndcg": measures.ndcg,
    "recall": measures.recall,
    "mrr": measures.mrr,
}

Query = TypeVar("Query")


class Latency(NamedTuple):
    """Milliseconds per user."""

    median: float
    p95: float


class Timing(NamedTuple):
    """The papers' mRT and mST are `total_ms.median` and `scoring_ms.median`."""

    encoder_ms: Latency
    scoring_ms: Latency
    total_ms: Latency
    users: int


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What one ranker did for one set of users. Values are computed from the ranks, so nothing can disagree."""

    targets_U: Ids
    ranks_U: Ranks
    """(U,) rank of every target from 1; 0 if not among the first max(ks)."""
    ks: tuple[int, ...]
    num_items: int
    exclude_seen: bool
    seen_targets: float
    """Share of users whose history holds their target: with `exclude_seen` these are lost to any ranker."""
    shown: int
    coverage: float
    """Share of the catalogue among the first `shown` of at least one user."""
    head_share: float | None
    """Share of the first `shown` that goes to the most popular 1 % of items; None without popularity."""
    timing: Timing | None = None
    resident: Resident | None = None

    @property
    def users(self) -> int:
        """Users evaluated."""
        return len(self.ranks_U)

    @property
    def names(self) -> list[str]:
        """Metrics there are: "ndcg@10" and so on."""
        return [f"{measure}@{k}" for measure in MEASURES for k in self.ks]

    def values(self, name: str) -> Values:
        """(U,) one metric, such as "ndcg@10", of every user."""
        measure, k = name.split("@")
        return MEASURES[measure](self.ranks_U, int(k))

    def metrics(self) -> dict[str, Estimate]:
        """Mean and 95 % interval of every metric."""
        return {name: measures.interval(self.values(name)) for name in self.names}

    def to_json(self) -> dict[str, Any]:
        """Plain numbers for `everyitem evaluate --json` and `metrics.json`; time and memory only if measured."""
        return {
            **{name: estimate._asdict() for name, estimate in self.metrics().items()},
            **({} if self.timing is None else _timing_json(self.timing)),
            **({} if self.resident is None else {"resident_mb": self.resident._asdict()}),
            f"coverage@{self.shown}": self.coverage,
            **({} if self.head_share is None else {f"head_share@{self.shown}": self.head_share}),
            "seen_targets": self.seen_targets,
            "exclude_seen": self.exclude_seen,
            "num_items": self.num_items,
            "users": self.users,
        }


def evaluate(
    ranker: Ranker,
    histories: Histories,
    targets: Ids,
    *,
    num_items: int,
    ks: Sequence[int] = (1, 5, 10, 20, 100),
    shown: int = 10,
    exclude_seen: bool = False,
    batch: int = 1024,
    popularity: NDArray[np.integer] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Ranks the whole catalogue for every user and notes where the target stands.

    Args:
        ranker: a recommender or a baseline.
        histories: U rows, all before their target.
        targets: (U,) position of the one relevant item; one that training never saw simply misses.
        num_items: size of the catalogue.
        ks: cut-offs of the metrics.
        shown: length of the list that coverage and head share are about.
        exclude_seen: rank only items that the history does not hold (the papers do not, on Booking.com and Gowalla).
        batch: users ranked at a time.
        popularity: (I,) training events of every item, for the head share.
        progress: called with (users done, users) after every batch.

    Returns:
        Evaluation, users in the order given.

    Raises:
        ValueError: no users, or not one target per row.

    Cost: U / batch calls of the ranker; memory of one batch and O(U + I).
    """
    num_users, ks = len(histories), tuple(ks)
    if num_users == 0 or len(targets) != num_users:
        raise ValueError(
            f"got {num_users} histories and {len(targets)} targets; evaluation needs one target per history"
        )
    ranks = np.zeros(num_users, np.int64)
    exposure = np.zeros(num_items, np.int64)
    repeats = 0
    for start in range(0, num_users, batch):
        part = slice(start, min(start + batch, num_users))
        rows = histories.select(part)
        items = ranker.rank(rows, max(*ks, shown), exclude_seen=exclude_seen).items
        ranks[part] = measures.ranks_of(items[:, : max(ks)], targets[part])
        exposure += measures.exposure(items, num_items, shown)
        repeats += sum(target in row for target, row in zip(targets[part], rows, strict=True))
        if progress:
            progress(part.stop, num_users)
    return Evaluation(
        targets_U=targets,
        ranks_U=ranks,
        ks=ks,
        num_items=num_items,
        exclude_seen=exclude_seen,
        seen_targets=repeats / num_users,
        shown=shown,
        coverage=measures.coverage(exposure),
        head_share=None if popularity is None else measures.head_share(exposure, popularity),
    )


def compare(a: Evaluation, b: Evaluation) -> dict[str, Difference]:
    """A - B in every metric that both have, paired by user, with interval and p-value (`paired_difference`).

    Raises:
        ValueError: the two are not about the same users and targets.
    """
    if not np.array_equal(a.targets_U, b.targets_U):
        raise ValueError(
            f"got evaluations of different targets ({a.users} and {b.users} users); evaluate both on the same split"
        )
    common = [name for name in a.names if name in b.names]
    return {name: measures.paired_difference(a.values(name), b.values(name)) for name in common}


def time_stages(
    encode: Callable[[Histories], Query],
    top_k: Callable[[Query, int], TopK],
    histories: Histories,
    *,
    k: int = 10,
    num_users: int = 1000,
    warm_up: int = 20,
    seed: int = 0,
) -> Timing:
    """Time per user of the encoder and of scoring with top-K, as the RecJPQ papers take it: one user at a time.

    The papers report medians over users on a CPU (mRT: total, mST: scoring); a total is added up per user, before the
    median. Threads are the caller's: for the papers' single thread, build encoder and index with one.

    Args:
        encode: histories of one user -> query.
        top_k: (query, k) -> result.
        histories: users to draw from.
        k: results asked for.
        num_users: random users timed, without repetition; all of them if there are fewer.
        warm_up: untimed calls before, on the first of these users.
        seed: chooses the users.

    Returns:
        Timing in milliseconds.

    Raises:
        ValueError: no histories.
    """
    if not len(histories):
        raise ValueError("got no histories to time; give at least one")
    chosen = np.random.default_rng(seed).permutation(len(histories))[:num_users]
    users = [histories.select(chosen[u : u + 1]) for u in range(len(chosen))]
    for u in range(warm_up):
        top_k(encode(users[u % len(users)]), k)
    clock_U3 = np.array([_three_clocks(encode, top_k, user, k) for user in users])
    encoder, scoring = np.diff(clock_U3, axis=1).T
    return Timing(_latency(encoder), _latency(scoring), _latency(encoder + scoring), len(users))


def _three_clocks(
    encode: Callable[[Histories], Query], top_k: Callable[[Query, int], TopK], user: Histories, k: int
) -> tuple[float, float, float]:
    start = perf_counter()
    query = encode(user)
    encoded = perf_counter()
    top_k(query, k)
    return start, encoded, perf_counter()


def _latency(seconds_U: Values) -> Latency:
    median, p95 = np.quantile(seconds_U * 1e3, [0.5, 0.95])
    return Latency(float(median), float(p95))


def _timing_json(timing: Timing) -> dict[str, Any]:
    stages = timing._asdict()
    timed_users = stages.pop("users")
    return {**{stage: latency._asdict() for stage, latency in stages.items()}, "timed_users": timed_users}
