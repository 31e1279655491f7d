"""How long does it take? One call at a time by the clock on the wall; percentiles; caches as found or emptied first.

Knows nothing of catalogues and indexes.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

EVICTING_BYTES = 64_000_000
"""More than the last cache of most machines; reading so much leaves little else in it."""
Seconds = NDArray[np.float64]


class Times(NamedTuple):
    """Microseconds per query. A percentile is None where too few calls were timed to speak of it."""

    timed: int
    """Calls."""
    median_us: float
    mean_us: float
    p95_us: float | None
    p99_us: float | None


def summary(seconds: Seconds, batch: int = 1) -> Times:
    """What calls of `batch` queries each took, per query."""
    us = np.asarray(seconds) * 1e6 / batch
    p95, p99 = (float(np.quantile(us, q)) if len(us) >= 1 / (1 - q) - 1e-6 else None for q in (0.95, 0.99))
    return Times(len(us), float(np.median(us)), float(us.mean()), p95, p99)


def clocked(
    calls: Iterable[Callable[[], Any]],
    *,
    budget: float,
    before: Callable[[], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """Seconds of every call, in turn, until they are through or have taken `budget` seconds; at least one.

    Args:
        calls: what to time.
        budget: seconds.
        before: done ahead of every call, outside its time.
        clock: what tells the time; `time.process_time` where other programs want the same core.
    """
    seconds: list[float] = []
    for call in calls:
        if before is not None:
            before()
        started = clock()
        call()
        seconds.append(clock() - started)
        if sum(seconds) > budget:
            break
    return np.array(seconds)


class Evict:
    """Called, it reads 64 MB, so that what was in the caches is gone: the state of an index that is asked seldom."""

    def __init__(self) -> None:
        self._other = np.ones(EVICTING_BYTES // 8, np.int64)

    def __call__(self) -> None:
        """Read it all."""
        self._other.max()


def reading_seconds(num_bytes: float, *, before: Callable[[], Any] | None = None, repeats: int = 30) -> float:
    """The median time to read an array of so many bytes on one core: the floor for whoever must look at all of it.

    The reduction is `max` of int64, which comes nearest to the memory's speed in NumPy (sums and BLAS do not). Steady,
    an array that fits a cache is read from there, as codes would be; `before` may empty the caches.
    """
    array = np.ones(max(1, int(num_bytes) // 8), np.int64)
    array.max()
    return float(np.median(clocked([array.max] * repeats, budget=2.0, before=before)))
