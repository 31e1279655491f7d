"""Splits a log into what a model may learn from and what it is asked. Copies no events: histories are views."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyitem.data import SplitName
from everyitem.data.interactions import Log
from everyitem.types import Histories, Ids


class Holdout(NamedTuple):
    """Questions with known answers: after `histories[j]`, user `rows[j]` chose `targets[j]`."""

    rows: NDArray[np.int64]
    """(J,) rows of the log."""
    histories: Histories
    """J histories, all before their target."""
    targets: Ids
    """(J,) positions; may be an item that no training history holds (then every honest model misses it)."""


class Split(NamedTuple):
    """Training log, validation questions, test questions."""

    train: Log
    valid: Holdout
    test: Holdout


def split_log(log: Log, kind: SplitName, *, seed: int) -> Split:
    """The split of that name; training and evaluation both call it, so that they mean the same one."""
    return leave_one_out(log, seed=seed) if kind == "leave-one-out" else split_by_time(log, seed=seed)


def leave_one_out(log: Log, *, valid_users: int = 1024, min_events: int = 2, seed: int = 0) -> Split:
    """The papers' protocol: the last event of every user is the test.

    Validation takes the last remaining event of `valid_users` random users, which training then does not see
    (RecJPQ, arXiv:2312.06165). It is not a split in time: other users' training events may be later than a test event.

    Args:
        log: the whole log.
        valid_users: users whose last but one event is held out for validation; all users where there are fewer.
        min_events: users with fewer events are not tested; all their events train.
        seed: chooses the validation users.

    Returns:
        Split; test and validation rows in ascending order of user.

    Raises:
        ValueError: no user has `min_events` events.
    """
    starts, stops = log.histories.starts, log.histories.stops
    tested = np.flatnonzero(log.histories.lengths >= max(min_events, 2))
    if not len(tested):
        raise ValueError(
            f"no user has {max(min_events, 2)} events, so leave-one-out has nothing to test; give a longer log"
        )
    train_stops = stops.copy()
    train_stops[tested] -= 1
    test = _holdout(log, tested, train_stops)
    candidates = tested[train_stops[tested] - starts[tested] >= 2]
    chosen = np.sort(np.random.default_rng(seed).choice(candidates, min(valid_users, len(candidates)), replace=False))
    train_stops = train_stops.copy()
    train_stops[chosen] -= 1
    valid = _holdout(log, chosen, train_stops)
    return Split(log.with_histories(Histories(log.histories.items, starts, train_stops)), valid, test)


def split_by_time(
    log: Log, *, test_share: float = 0.1, valid_share: float = 0.1, valid_users: int = 1024, seed: int = 0
) -> Split:
    """Global temporal split: one instant parts training from test for everybody, so nothing leaks from the future.

    The target of a user is the first event after the instant; the history is everything before it. Validation is cut
    the same way at an earlier instant; the test history includes the validation period, as a live system would.

    Args:
        log: a log with times.
        test_share: share of all events that lie after the test instant.
        valid_share: share of all events between the validation and the test instant.
        valid_users: at most so many validation users (random), all test users.
        seed: chooses the validation users.

    Returns:
        Split; users without any event before the instant are not asked.

    Raises:
        ValueError: the log has no times, or a share leaves no test user.
    """
    if log.times is None:
        raise ValueError("a split by time needs a datetime column; this log has none. Use leave_one_out instead")
    valid_time, test_time = np.quantile(log.times, [1 - test_share - valid_share, 1 - test_share], method="higher")
    valid_stops, test_stops = (_count_before(log, instant) for instant in (valid_time, test_time))
    starts, stops = log.histories.starts, log.histories.stops
    tested = np.flatnonzero((test_stops > starts) & (test_stops < stops))
    if not len(tested):
        raise ValueError(f"test_share={test_share} leaves no user with events on both sides; choose another share")
    candidates = np.flatnonzero((valid_stops > starts) & (valid_stops < test_stops))
    chosen = np.sort(np.random.default_rng(seed).choice(candidates, min(valid_users, len(candidates)), replace=False))
    train = log.with_histories(Histories(log.histories.items, starts, valid_stops))
    return Split(train, _holdout(log, chosen, valid_stops), _holdout(log, tested, test_stops))


def _holdout(log: Log, rows: NDArray[np.int64], cut: NDArray[np.int64]) -> Holdout:
    """Ask `rows` for the event at `cut`, given all events before it."""
    histories = Histories(log.histories.items, log.histories.starts[rows], cut[rows])
    return Holdout(rows, histories, np.asarray(log.histories.items[cut[rows]], np.int32))


def _count_before(log: Log, instant: float) -> NDArray[np.int64]:
    """(U,) stop of every history at an instant: times ascend within a user, so counting is enough."""
    assert log.times is not None
    before = np.concatenate([[0], np.cumsum(log.times < instant)])
    starts = log.histories.starts
    return np.asarray(starts + before[log.histories.stops] - before[starts], np.int64)
