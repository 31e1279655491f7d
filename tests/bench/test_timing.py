import time

import numpy as np
import pytest

from everyitem.bench.timing import EVICTING_BYTES, Evict, clocked, reading_seconds, summary


def test_a_summary_is_per_query_in_microseconds():
    times = summary(np.arange(1, 101) * 1e-3, batch=4)
    assert times.timed == 100
    assert times.median_us == pytest.approx(50.5e3 / 4)
    assert times.mean_us == pytest.approx(50.5e3 / 4)
    assert times.p95_us == pytest.approx(np.quantile(np.arange(1, 101), 0.95) * 1e3 / 4)
    assert times.p99_us == pytest.approx(np.quantile(np.arange(1, 101), 0.99) * 1e3 / 4)


@pytest.mark.parametrize(
    ("calls", "p95", "p99"), [(19, False, False), (20, True, False), (99, True, False), (100, True, True)]
)
def test_few_calls_have_no_tail(calls, p95, p99):
    times = summary(np.ones(calls))
    assert (times.p95_us is not None) == p95
    assert (times.p99_us is not None) == p99


def test_calls_are_timed_in_turn_without_what_comes_before_them():
    seen = []
    calls = [lambda i=i: seen.append(i) for i in range(5)]
    seconds = clocked(calls, budget=9.0, before=lambda: (seen.append("before"), time.sleep(0.02)))
    assert seen == ["before", 0, "before", 1, "before", 2, "before", 3, "before", 4]
    assert len(seconds) == 5
    assert np.median(seconds) < 0.01


def test_a_budget_ends_the_calls_but_one_is_always_made():
    assert len(clocked([lambda: time.sleep(0.01)] * 50, budget=0.025)) in (1, 2, 3)
    assert len(clocked([lambda: time.sleep(0.01)] * 50, budget=0.0)) == 1


def test_evicting_reads_more_than_it_says_and_reading_takes_longer_the_more_there_is():
    assert Evict()._other.nbytes >= EVICTING_BYTES
    assert 0 < reading_seconds(1000) < reading_seconds(40_000_000)
