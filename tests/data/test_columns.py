"""Every kind of source, column and damage, through `read_log`, the one door to them."""

import gzip
import random
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyitem.data.interactions import read_log

START = datetime(2024, 5, 1, 12)
START_US = 1_714_564_800_000_000


def frame(**columns):
    return pl.DataFrame({"user_id": ["b", "a", "b"], "item_id": [30, 10, 20], **columns})


def lists(log):
    """Events as external ids: {user: [items, oldest first]}."""
    items = log.items["item_id"].to_list()
    return {user: [items[i] for i in row] for user, row in zip(log.user_ids, log.histories, strict=True)}


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


def csv(path, header, *lines):
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def is_integer(text):
    try:
        return str(int(text)) == text and -(2**63) <= int(text) < 2**63
    except ValueError:
        return False


written = st.one_of(
    st.integers(-(2**64), 2**64).map(str), st.text("0123456789", min_size=1), st.text("01+-. eax", min_size=1)
)


@given(st.lists(written, min_size=1, max_size=5), st.lists(written, min_size=1, max_size=5))
def test_ids_of_a_text_file_come_back_as_they_were_written(users, items):
    events = [(user, item) for user in users for item in items]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        pl.DataFrame(events, schema=["user_id", "item_id"], orient="row").write_csv(path)
        log = read_log(path)
    for ids, wanted in ((log.user_ids, users), (log.items["item_id"], items)):
        expected = [int(i) for i in wanted] if all(map(is_integer, wanted)) else wanted
        assert ids.to_list() == sorted(set(expected))


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz"])
def test_leading_zeros_are_part_of_an_id(ending, tmp_path):
    text = "UID,asin\n007,0001049623\n7,1049623\n".replace(",", "\t" if ending == "tsv" else ",").encode()
    (tmp_path / f"log.{ending}").write_bytes(gzip.compress(text) if ending == "csv.gz" else text)
    assert lists(read_log(tmp_path / f"log.{ending}")) == {"007": ["0001049623"], "7": ["1049623"]}


def test_one_id_that_is_no_integer_makes_text_of_all_wherever_it_stands(tmp_path):
    log = read_log(csv(tmp_path / "log.csv", "user_id,item_id", *["1,2"] * 20_000, "x,3"))
    assert log.user_ids.to_list() == ["1", "x"]
    assert log.items["item_id"].to_list() == [2, 3]


AGREEMENTS = {
    "integers": (["7", "8"], ["8", "7"], [8, 7]),
    "text in the log": (["007", "8"], ["8", "7"], ["8", "7", "007"]),
    "text in the items": (["7", "8"], ["8", "007"], ["8", "007", "7"]),
    "typed text in the items": (["7", "8"], pl.DataFrame({"item_id": ["8", "7"]}), ["8", "7"]),
    "typed integers in the items": (["7", "8"], pl.DataFrame({"item_id": [8, 7]}), [8, 7]),
    "typed text in the log": (pl.DataFrame({"user_id": [1], "item_id": ["7"]}), ["8", "7"], ["8", "7"]),
    "typed integers in the log": (pl.DataFrame({"user_id": [1], "item_id": [7]}), ["8", "7"], [8, 7]),
}


@pytest.mark.parametrize("case", AGREEMENTS)
def test_log_and_items_agree_on_the_type_of_ids(case, tmp_path):
    events, items, expected = AGREEMENTS[case]
    if isinstance(events, list):
        events = csv(tmp_path / "log.csv", "user_id,item_id", *(f"1,{item}" for item in events))
    if isinstance(items, list):
        items = csv(tmp_path / "items.csv", "item_id", *items)
    assert read_log(events, items=items).items["item_id"].to_list() == expected


def test_attributes_of_items_keep_their_types(tmp_path):
    items = csv(tmp_path / "items.csv", "item_id,user,rating", "10,5,4", "30,6,2")
    assert read_log(frame(), items=items).items.rows() == [(10, 5, 4), (30, 6, 2), (20, None, None)]


def test_integers_against_text_that_cannot_be_integers_is_a_mistake(tmp_path):
    items = csv(tmp_path / "items.csv", "item_id", "007")
    with pytest.raises(ValueError, match="item_id is Int64 in the log and String in the items"):
        read_log(frame(), items=items)


def test_text_of_a_typed_source_stays_text(tmp_path):
    pl.DataFrame({"user_id": ["1"], "item_id": ["2"]}).write_parquet(tmp_path / "log.parquet")
    assert lists(read_log(tmp_path / "log.parquet")) == {"1": ["2"]}


def test_weights_may_be_text_and_change_their_kind_late(tmp_path):
    log = read_log(csv(tmp_path / "log.csv", "user_id,item_id,rating", *["1,2,4"] * 20_000, "2,3,4.5"))
    assert log.weights[-1] == 4.5
    assert log.weights[:-1].tolist() == [4.0] * 20_000


@pytest.mark.parametrize(
    "weights", [["PG-13", "R", ""], [None, None, None], [START, START, START], [[1.0], [2.0], [3.0]]]
)
def test_weights_that_are_no_numbers_are_left_out_and_noted(weights):
    log = read_log(frame(datetime=[0, 0, 0], rating=weights))
    assert log.weights is None
    assert log.notes == ("the weight column is left out: none of its 3 rows holds a number",)


def test_rows_without_a_number_as_weight_are_noted():
    log = read_log(frame(datetime=[0, 1, 2], weight=["many", "2", "3.5"]))
    np.testing.assert_array_equal(log.weights, [2.0, np.nan, 3.5])
    assert log.notes == ("1 rows hold no number as weight: NaN there",)


def test_text_that_is_no_datetime_is_noted_apart_from_missing_ones():
    times = ["2024-05-01 12:00:00", "soon", None, "2024-05-01 11:00:00", "13 o'clock"]
    log = read_log(pl.DataFrame({"user_id": [1] * 5, "item_id": [1, 2, 3, 4, 5], "datetime": times}))
    assert lists(log) == {1: [4, 5, 1, 2, 3]}
    words = "3 rows without a datetime (2 of them hold text that is none) keep their place in the order of the rows"
    assert log.notes == (words,)


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


FILES = {
    "log.xlsx": b"x",
    "log.csv": b"",
    "cut.csv.gz": gzip.compress(b"user_id,item_id\na,1\n" * 1000)[:-20],
    "latin.csv": "user_id,item_id\ncafé,1\n".encode("latin-1"),
    "late.csv": b"user_id,item_id,ts\n" + b"1,1,5\n" * 20_000 + b"1,1,soon\n",
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
