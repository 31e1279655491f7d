import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from everyitem.data.interactions import Log, read_log
from everyitem.data.splits import leave_one_out, split_by_time, split_log

events = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 30)), min_size=2, max_size=60)


def log_of(user_times):
    """A log in which event number n is item n, so that an event can be followed through a split."""
    users, times = zip(*user_times, strict=True)
    frame = pl.DataFrame({"user_id": users, "item_id": range(len(users)), "datetime": times})
    return read_log(frame), np.array(times) * 1_000_000


def lists(histories):
    return [row.tolist() for row in histories]


@given(events, st.integers(0, 5))
def test_leave_one_out_equals_its_naive_twin(user_times, valid_users):
    log, _ = log_of(user_times)
    rows = lists(log.histories)
    assume(max(map(len, rows)) >= 2)
    train, valid, test = leave_one_out(log, valid_users=valid_users, seed=3)
    tested = [u for u, row in enumerate(rows) if len(row) >= 2]
    assert test.rows.tolist() == tested
    assert lists(test.histories) == [rows[u][:-1] for u in tested]
    assert test.targets.tolist() == [rows[u][-1] for u in tested]
    candidates = {u for u in tested if len(rows[u]) >= 3}
    assert len(valid.rows) == min(valid_users, len(candidates))
    assert set(valid.rows.tolist()) <= candidates
    assert valid.rows.tolist() == sorted(set(valid.rows.tolist()))
    assert lists(valid.histories) == [rows[u][:-2] for u in valid.rows]
    assert valid.targets.tolist() == [rows[u][-2] for u in valid.rows]
    hidden = [2 if u in valid.rows else 1 if u in tested else 0 for u in range(len(rows))]
    assert lists(train.histories) == [row[: len(row) - n] for row, n in zip(rows, hidden, strict=True)]


@given(events, st.sampled_from([0.1, 0.3, 0.5]), st.sampled_from([0.0, 0.1, 0.4]))
def test_no_training_event_happens_at_or_after_the_instant(user_times, test_share, valid_share):
    log, times = log_of(user_times)
    instant = np.quantile(times, 1 - test_share, method="higher")
    assume(any(times[row].min() < instant <= times[row].max() for row in log.histories))
    train, valid, test = split_by_time(log, test_share=test_share, valid_share=valid_share)
    first_test, first_valid = times[test.targets].min(), times[valid.targets].min(initial=10**12)
    assert times[train.histories.events()].max(initial=-1) < min(first_test, first_valid)
    assert times[test.histories.events()].max() < first_test
    assert times[valid.histories.events()].max(initial=-1) < first_valid
    assert times[valid.targets].max(initial=-1) < first_test
    for holdout in (valid, test):
        assert (holdout.histories.lengths > 0).all()
        for user, history, target in zip(holdout.rows, holdout.histories, holdout.targets, strict=True):
            row = log.histories[user].tolist()
            assert row[: len(history) + 1] == [*history.tolist(), target]


@given(events)
def test_every_user_with_events_on_both_sides_is_asked(user_times):
    log, times = log_of(user_times)
    instant = np.quantile(times, 0.7, method="higher")
    both = [u for u, row in enumerate(log.histories) if times[row].min() < instant <= times[row].max()]
    assume(both)
    assert split_by_time(log, test_share=0.3).test.rows.tolist() == both


def test_users_below_min_events_only_train():
    log, _ = log_of([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)])
    split = leave_one_out(log, min_events=4)
    assert split.test.rows.tolist() == [1]
    assert lists(split.train.histories)[0] == lists(log.histories)[0]


def test_a_split_copies_no_events_and_leaves_the_log_alone():
    log, _ = log_of([(u, t) for u in range(5) for t in range(6)])
    before = lists(log.histories)
    for kind in ("leave-one-out", "time"):
        for part in split_log(log, kind, seed=0):
            histories = part.histories
            assert histories.items is log.histories.items
    assert lists(log.histories) == before


def test_a_seed_chooses_the_validation_users():
    log, _ = log_of([(u, t) for u in range(50) for t in range(3)])
    chosen = [leave_one_out(log, valid_users=10, seed=seed).valid.rows.tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_impossible_splits_say_what_to_do_instead():
    lonely, _ = log_of([(0, 0), (1, 1)])
    with pytest.raises(ValueError, match="longer log"):
        leave_one_out(lonely)
    with pytest.raises(ValueError, match="choose another share"):
        split_by_time(lonely)
    timeless: Log = read_log(pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2]}))
    with pytest.raises(ValueError, match="leave_one_out"):
        split_by_time(timeless)
