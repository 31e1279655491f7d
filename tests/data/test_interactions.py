import gzip
import random
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def write(table, path):
    table.write_parquet(path) if path.suffix == ".parquet" else table.write_csv(path)
    return path


SOURCES = {
    "polars": lambda table, _: table,
    "lazy": lambda table, _: table.lazy(),
    "pandas": lambda table, _: table.to_pandas(),
    "arrow": lambda table, _: table.to_arrow(),
    "batch": lambda table, _: table.to_arrow().to_batches()[0],
    "parquet": lambda table, tmp: write(table, tmp / "log.parquet"),
    "text path": lambda table, tmp: str(write(table, tmp / "log.parquet")),
    "csv": lambda table, tmp: write(table, tmp / "log.csv"),
    "csv named like a pattern": lambda table, tmp: write(table, tmp / "log[1]*.csv"),
    "parquet named like a pattern": lambda table, tmp: write(table, tmp / "log[1]*.parquet"),
    "folder": lambda table, tmp: write_folder(table, tmp / "log"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_reads_the_same(kind, tmp_path):
    table = frame(datetime=[START + timedelta(seconds=s) for s in (2, 1, 0)], weight=[1.0, 2.0, 3.0])
    log = read_log(SOURCES[kind](table, tmp_path))
    assert lists(log) == {"a": [10], "b": [20, 30]}
    assert (log.times - START_US).tolist() == [1_000_000, 0, 2_000_000]
    assert log.weights.tolist() == [2.0, 3.0, 1.0]
    assert log.notes == ()


@pytest.mark.parametrize("ending", [".tsv", ".csv.gz", ".tsv.gz"])
def test_separated_text_may_use_tabs_and_gzip(ending, tmp_path):
    text = frame().write_csv(separator="\t" if "tsv" in ending else ",").encode()
    (tmp_path / f"log{ending}").write_bytes(gzip.compress(text) if "gz" in ending else text)
    assert lists(read_log(tmp_path / f"log{ending}")) == {"a": [10], "b": [30, 20]}


@pytest.mark.parametrize(
    "names", [("user", "item", "ts"), ("UserId", "asin", "unixReviewTime"), ("uid", "iid", "Date")]
)
def test_the_names_of_other_toolkits_are_understood(names):
    table = frame(datetime=[2, 1, 0]).rename(dict(zip(("user_id", "item_id", "datetime"), names, strict=True)))
    assert lists(read_log(table)) == {"a": [10], "b": [20, 30]}


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int32, pl.UInt32, pl.UInt64])
def test_integer_ids_of_any_width_come_back_as_integers(dtype):
    log = read_log(frame().with_columns(pl.col("item_id").cast(dtype)))
    assert log.items["item_id"].to_list() == [10, 20, 30]
    assert log.items["item_id"].dtype == pl.Int64


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["a", "b"])])
def test_categories_are_text(dtype):
    log = read_log(frame().with_columns(pl.col("user_id").cast(dtype)))
    assert log.user_ids.to_list() == ["a", "b"]


SECONDS = START_US // 1_000_000
TIMES = {
    "seconds": pl.Series([SECONDS + 2, SECONDS]),
    "seconds as int32": pl.Series([SECONDS + 2, SECONDS], dtype=pl.Int32),
    "seconds as uint32": pl.Series([SECONDS + 2, SECONDS], dtype=pl.UInt32),
    "seconds as float": pl.Series([SECONDS + 2.0, SECONDS]),
    "milliseconds": pl.Series([SECONDS * 1000 + 2000, SECONDS * 1000]),
    "microseconds": pl.Series([START_US + 2_000_000, START_US], dtype=pl.UInt64),
    "datetime[ms]": pl.Series([START + timedelta(seconds=2), START], dtype=pl.Datetime("ms")),
    "datetime[ns]": pl.Series([START + timedelta(seconds=2), START], dtype=pl.Datetime("ns")),
    "with a zone": pl.Series([START + timedelta(seconds=2), START])
    .dt.replace_time_zone("UTC")
    .dt.convert_time_zone("Asia/Tokyo"),
    "text": pl.Series(["2024-05-01 12:00:02", "2024-05-01T12:00:00"]),
    "text with a fraction": pl.Series(["2024-05-01 12:00:02.000", "2024-05-01T12:00:00"]),
    "text in UTC": pl.Series(["2024-05-01T12:00:02Z", "2024-05-01T12:00:00Z"]),
    "text with an offset": pl.Series(["2024-05-01T14:00:02+02:00", "2024-05-01T07:00:00-05:00"]),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_of_every_kind_mean_the_same_instant(kind):
    log = read_log(pl.DataFrame({"user_id": [1, 1], "item_id": [5, 6], "datetime": TIMES[kind]}))
    assert log.times.tolist() == [START_US, START_US + 2_000_000]
    assert lists(log) == {1: [6, 5]}


@pytest.mark.parametrize(
    "days", [pl.Series([date(2024, 5, 2), date(2024, 5, 1)]), pl.Series(["2024-05-02", "2024-05-01"])]
)
def test_days_are_midnights(days):
    log = read_log(pl.DataFrame({"user_id": [1, 1], "item_id": [5, 6], "datetime": days}))
    assert log.times.tolist() == [START_US - 12 * 3600 * 10**6, START_US + 12 * 3600 * 10**6]


OUTSIDE = {
    "negative": pl.Series([5, -1, 7]),
    "int64 max": pl.Series([5, 2**63 - 1, 7]),
    "int64 min": pl.Series([5, -(2**63), 7]),
    "year 292277026596": pl.Series([0, 292_277_026_596 * 31_556_952, 7]),
    "infinite": pl.Series([5.0, float("inf"), 7.0]),
    "before 1970": pl.Series([START, datetime(1969, 12, 31, 23, 59, 59), START]),
    "the year 2100": pl.Series([START, datetime(2100, 1, 1), START]),
    "datetime[ms] max": pl.Series([0, 2**63 - 1, 7]).cast(pl.Datetime("ms")),
    "datetime[us], year 33658": pl.Series([0, 10**18, 7]).cast(pl.Datetime("us")),
    "datetime[ms] with a zone": pl.Series([0, 2**63 - 1, 7]).cast(pl.Datetime("ms", "Asia/Tokyo")),
    "date max": pl.Series([0, 2**31 - 1, 7], dtype=pl.Int32).cast(pl.Date),
    "date min": pl.Series([0, -(2**31), 7], dtype=pl.Int32).cast(pl.Date),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_times_out_of_range_are_refused_with_their_row(kind):
    with pytest.raises(ValueError, match=r"column datetime is outside 1970\.\.2099 in 1 rows, first in row 1\."):
        read_log(frame(datetime=OUTSIDE[kind]))


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


FILES = {
    "log.xlsx": b"x",
    "log.csv": b"",
    "cut.csv.gz": gzip.compress(b"user_id,item_id\na,1\n" * 1000)[:-20],
    "latin.csv": "user_id,item_id\ncafé,1\n".encode("latin-1"),
    "late.csv": b"user_id,item_id\n" + b"1,1\n" * 20_000 + b"abc,1\n",
    "short.csv": b"user_id,item_id\na,1\nb\n",
    "empty.parquet": b"",
    "text.parquet": b"user_id,item_id\na,1\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_what_its_name_says_is_refused_by_name(name, tmp_path):
    (tmp_path / name).write_bytes(FILES[name])
    with pytest.raises(ValueError, match=name) as caught:
        read_log(tmp_path / name)
    assert "\n" not in str(caught.value)


def originals(folder):
    table = pl.DataFrame({"user_id": [f"u{i % 17}" for i in range(200)], "item_id": [i * 7 % 31 for i in range(200)]})
    table = table.with_columns(datetime=pl.Series([START_US + i for i in range(200)]).cast(pl.Datetime("us")))
    table.write_parquet(folder / "zstd.parquet")
    table.write_parquet(folder / "plain.parquet", compression="uncompressed")
    pq.write_table(table.to_arrow(), folder / "groups.parquet", row_group_size=50, compression="none")
    pq.write_table(table.to_arrow(), folder / "pages.parquet", data_page_version="2.0", compression="gzip")
    return [path.read_bytes() for path in sorted(folder.glob("*.parquet"))]


def mutated(data, rng):
    data = bytearray(data)
    place, footer = rng.randrange(len(data)), int.from_bytes(data[-8:-4], "little")
    match rng.choice(["flip", "flips", "zeros", "cut", "more", "footer"]):
        case "flip":
            data[place] ^= 1 << rng.randrange(8)
        case "flips":
            for _ in range(20):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "zeros":
            data[place : place + 64] = bytes(len(data[place : place + 64]))
        case "cut":
            del data[place:]
        case "more":
            data += rng.randbytes(9)
        case "footer":
            data[-9 - rng.randrange(footer)] = rng.choice([0, 1, 127, 128, 255])
    return bytes(data)


def test_damaged_parquet_is_an_error_of_one_line_or_another_valid_log(tmp_path):
    files, rng, complaints = originals(tmp_path), random.Random(8), []
    path = tmp_path / "damaged.parquet"
    for _ in range(600):
        path.write_bytes(mutated(rng.choice(files), rng))
        try:
            log = read_log(path)
        except ValueError as error:
            complaints.append(str(error))
        else:
            assert log.histories.lengths.sum() == log.num_events > 0
            assert 0 <= log.histories.items.min() <= log.histories.items.max() < log.num_items
    assert len(complaints) > 300
    assert [words for words in complaints if not words.startswith(str(path)) or "\n" in words] == []


def test_times_are_utc():
    aware = [datetime(2024, 5, 1, 12, tzinfo=UTC)]
    log = read_log(pd.DataFrame({"user_id": [1], "item_id": [1], "datetime": pd.to_datetime(aware)}))
    assert log.times.tolist() == [START_US]
