from datetime import datetime
from unittest.mock import patch

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyitem.data import interactions
from everyitem.data.interactions import read_log

START = datetime(2024, 5, 1, 12)
START_US = 1_714_564_800_000_000
ids = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5, unique=True),
    st.lists(st.text(max_size=3), min_size=1, max_size=5, unique=True),
)


def frame(**columns):
    return pl.DataFrame({"user_id": ["b", "a", "b"], "item_id": [30, 10, 20], **columns})


def lists(log):
    """Events as external ids: {user: [items, oldest first]}."""
    items = log.items["item_id"].to_list()
    return {user: [items[i] for i in row] for user, row in zip(log.user_ids, log.histories, strict=True)}


@given(ids, ids, st.data())
def test_reading_equals_its_naive_twin(users, items, data):
    event = st.tuples(st.sampled_from(users), st.sampled_from(items), st.integers(0, 3))
    events = data.draw(st.lists(event, min_size=1, max_size=25))
    columns = dict(zip(("user_id", "item_id", "datetime"), map(list, zip(*events, strict=True)), strict=True))
    log = read_log(pl.DataFrame(columns))
    ordered = sorted(events, key=lambda e: e[2])  # stable: equal times keep the order of the rows
    assert lists(log) == {user: [e[1] for e in ordered if e[0] == user] for user in sorted({e[0] for e in events})}
    assert log.items["item_id"].to_list() == sorted({e[1] for e in events})
    expected = [e[2] * 1_000_000 for user in log.user_ids for e in ordered if e[0] == user]
    assert log.times.tolist() == expected
    assert (log.num_users, log.num_items, log.num_events) == (len(log.user_ids), len(log.items), len(events))


def test_order_is_stable_in_a_log_larger_than_one_batch_of_the_reader():
    n = 300_000
    users = np.random.default_rng(0).integers(0, 50, n)
    for times in ({}, {"datetime": np.arange(n) // 1000}):
        log = read_log(pl.DataFrame({"user_id": users, "item_id": np.arange(n), **times}))
        assert all(row.tolist() == np.flatnonzero(users == u).tolist() for u, row in enumerate(log.histories))


def write_folder(table, folder):
    folder.mkdir()
    table.write_parquet(folder / "interactions.parquet")
    return folder


def test_a_row_without_time_keeps_its_place():
    table = pl.DataFrame({"user_id": [1] * 5, "item_id": [1, 2, 3, 4, 5], "datetime": [None, 9, None, 3, None]})
    log = read_log(table)
    assert lists(log) == {1: [4, 5, 1, 2, 3]}
    assert "3 rows without a datetime" in log.notes[0]


def test_a_log_without_times_is_in_the_order_of_its_rows_and_says_so():
    log = read_log(frame())
    assert lists(log) == {"a": [10], "b": [30, 20]}
    assert log.times is None
    assert "order of time" in log.notes[0]


def test_items_keep_their_order_and_attributes_and_unknown_ones_follow():
    log = read_log(frame(), items=pl.DataFrame({"title": ["x", "y"], "item_id": [20, 99]}))
    assert log.items["item_id"].to_list() == [20, 99, 10, 30]
    assert log.items["title"].to_list() == ["x", "y", None, None]
    assert [row.tolist() for row in log.histories] == [[2], [3, 0]]


def test_a_folder_brings_its_own_items_and_an_argument_replaces_them(tmp_path):
    folder = write_folder(frame(), tmp_path / "log")
    pl.DataFrame({"item_id": [30, 20, 10]}).write_parquet(folder / "items.parquet")
    assert read_log(folder).items["item_id"].to_list() == [30, 20, 10]
    assert read_log(folder, items=pl.DataFrame({"item_id": [20]})).items["item_id"].to_list() == [20, 10, 30]


def test_arrays_of_a_log_cannot_be_changed_by_accident():
    log = read_log(frame(datetime=[1, 2, 3], weight=[1, 2, 3]))
    assert not any(array.flags.writeable for array in (log.histories.items, log.times, log.weights))


MISTAKES = {
    "null user": (
        lambda: frame().with_columns(user_id=pl.Series(["a", None, "b"])),
        "user_id is null in 1 rows, first in row 1",
    ),
    "null item": (
        lambda: frame().with_columns(item_id=pl.Series([1, 2, None])),
        "item_id is null in 1 rows, first in row 2",
    ),
    "no item column": (lambda: frame().drop("item_id"), "no column item_id; got user_id"),
    "float ids": (lambda: frame().with_columns(pl.col("item_id").cast(float)), "item_id has type Float64"),
    "nested ids": (lambda: frame().with_columns(item_id=pl.Series([[1], [2], [3]])), "item_id has type List"),
    "too large an id": (
        lambda: frame().with_columns(item_id=pl.Series([1, 2, 2**64 - 1], dtype=pl.UInt64)),
        "cannot be read",
    ),
    "no rows": (lambda: frame().head(0), "holds no rows"),
    "unreadable times": (lambda: frame(datetime=["soon", "later", ""]), "no datetime could be read"),
    "only null times": (lambda: frame(datetime=pl.Series([None] * 3, dtype=pl.Int64)), "no datetime could be read"),
    "NaN time": (lambda: frame(datetime=[1.0, float("nan"), 2.0]), "datetime"),
    "boolean times": (lambda: frame(datetime=[True, False, True]), "datetime has type Boolean"),
    "mixed ids": (lambda: pd.DataFrame({"user_id": ["a", 1], "item_id": [1, 2]}), "pandas.DataFrame: cannot be read"),
    "twin columns": (
        lambda: pa.table([[1], [2], [3]], names=["user_id", "item_id", "item_id"]),
        "pyarrow.Table: cannot be read",
    ),
    "a list": (lambda: [1, 2], "cannot read a log from builtins.list"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_users_mistake_is_one_line_that_says_what_it_is(mistake):
    source, words = MISTAKES[mistake]
    with pytest.raises(ValueError, match=words) as caught:
        read_log(source())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ({"item_id": [1, 2, 1, 2, 3]}, r"more than once: \[1, 2\]"),
        ({"item_id": ["10"]}, "Int64 in the log and String in the items"),
        ({"item_id": [1, None]}, "item_id is null in 1 rows, first in row 1"),
        ({"title": ["x"]}, "no column item_id; got title"),
    ],
)
def test_items_must_name_every_item_once(items, words):
    with pytest.raises(ValueError, match=words):
        read_log(frame(), items=pl.DataFrame(items))


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "folder"])
def test_a_missing_file_is_named(name, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=name):
        read_log(tmp_path / name)


@pytest.mark.parametrize("columns", [("datetime", "weight"), ("datetime",), ()])
def test_some_users_at_a_time_give_the_same_log(tmp_path, columns):
    rng = np.random.default_rng(0)
    size = 500
    frame = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, 40, size)],
            "item_id": rng.integers(0, 60, size),
            "datetime": [None if rng.random() < 0.05 else 1_600_000_000 + int(t) for t in rng.integers(0, 50, size)],
            "weight": [None if rng.random() < 0.1 else float(w) for w in rng.integers(0, 5, size)],
        }
    ).select("user_id", "item_id", *columns)
    frame.write_parquet(tmp_path / "log.parquet")
    whole = read_log(tmp_path / "log.parquet")
    with patch.object(interactions, "EVENTS_AT_ONCE", 37):
        parts = read_log(tmp_path / "log.parquet")
    assert parts.notes == whole.notes
    assert parts.user_ids.equals(whole.user_ids)
    assert parts.histories.items.tobytes() == whole.histories.items.tobytes()
    assert parts.histories.stops.tobytes() == whole.histories.stops.tobytes()
    for name in ("times", "weights"):
        one, other = getattr(whole, name), getattr(parts, name)
        assert (one is None) == (other is None)
        assert one is None or one.tobytes() == other.tobytes()


def test_a_time_outside_names_its_row_whoever_is_read_first(tmp_path):
    frame = pl.DataFrame({"user_id": ["b", "a", "b", "c"], "item_id": [1, 2, 3, 4], "datetime": [1, 2, 3, -5]})
    frame.write_parquet(tmp_path / "log.parquet")
    with patch.object(interactions, "EVENTS_AT_ONCE", 1), pytest.raises(ValueError, match="first in row 3"):
        read_log(tmp_path / "log.parquet")
