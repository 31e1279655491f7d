from unittest.mock import patch

import numpy as np
import polars as pl
import pytest

from everyitem.data import parts
from everyitem.data.interactions import read_log
from everyitem.data.parts import cut_log, digest, read_part


def events(seed=0, *, text=False, times="some", num_events=400):
    rng = np.random.default_rng(seed)
    users, items = rng.zipf(1.4, num_events) % 40, rng.integers(0, 30, num_events)
    columns = {"user_id": [f"u{u}" for u in users] if text else users, "item_id": items, "weight": items / 7}
    if times != "none":
        when = rng.integers(0, 9, num_events) + 1_600_000_000
        columns["datetime"] = [None if times == "some" and t % 4 == 0 else int(t) for t in when]
    return pl.DataFrame(columns)


def read_in_parts(source, events_per_part, item_ids):
    cut = cut_log(source, events_per_part)
    return cut, [read_part(source, cut, number, item_ids) for number in range(cut.num_parts)]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("times", ["none", "some", "all"])
@pytest.mark.parametrize("kind", ["frame", "csv", "parquet", "folder"])
def test_parts_are_the_log(tmp_path, text, times, kind):
    table = events(text=text, times=times)
    source = {"frame": table}.get(kind, tmp_path / (f"log.{kind}" if kind != "folder" else "interactions.parquet"))
    if kind == "csv":
        table.write_csv(source)
    elif kind != "frame":
        table.write_parquet(source)
    source = tmp_path if kind == "folder" else source
    log = read_log(source)
    cut, found = read_in_parts(source, 50, log.items["item_id"])
    assert cut.num_events == log.num_events == sum(part.num_events for part in found)
    assert 4 <= len(found) <= 8
    assert max(part.num_events for part in found) < 200  # one user alone has more than a hundred
    assert pl.concat([part.user_ids for part in found]).equals(log.user_ids)
    assert [row.tolist() for part in found for row in part.histories] == [row.tolist() for row in log.histories]


def test_a_sample_of_the_events_cuts_as_well(tmp_path):
    table = events(num_events=5000)
    with patch.object(parts, "SAMPLE", 100):
        _, found = read_in_parts(table, 500, pl.Series("item_id", range(30)))
    assert sum(part.num_events for part in found) == 5000
    assert len(found) > 4


def test_items_that_the_catalogue_lacks_are_counted_and_ids_read_in_its_type():
    table = pl.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [7, 8, 9, 7]})
    part = read_part(table, cut_log(table, 10), 0, pl.Series("item_id", ["x", "7"]))
    assert (part.num_events, part.unknown_events) == (4, 2)
    assert [row.tolist() for row in part.histories] == [[1], [1]]
    nothing = read_part(table, cut_log(table, 10), 0, pl.Series("item_id", ["x"]))
    assert [len(row) for row in nothing.histories] == [0, 0]


MISTAKES = {
    "column user_id is null in 1 rows, first in row 1": {"user_id": [1, None], "item_id": [1, 2]},
    "column item_id is null in 2 rows, first in row 0": {"user_id": [1, 2], "item_id": ["", ""]},
    "column datetime is outside 1970..2099 in 1 rows, first in row 1": {
        **{"user_id": [1, 2], "item_id": [1, 2]},
        "datetime": [5, 10**17],
    },
    "no datetime could be read": {"user_id": [1, 2], "item_id": [1, 2], "datetime": ["x", "y"]},
    "holds no rows": {"user_id": [], "item_id": []},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_is_wrong_anywhere_is_refused_at_once(message):
    columns = {name: [None if value == "" else value for value in values] for name, values in MISTAKES[message].items()}
    table = pl.DataFrame(columns, schema_overrides={"user_id": pl.Int64, "item_id": pl.Int64})
    with pytest.raises(ValueError, match=message):
        cut_log(table, 1)
    with pytest.raises(ValueError, match=message):
        read_log(table)


def test_another_content_is_another_log(tmp_path):
    for name, content in (("a.csv", b"1"), ("b.csv", b"1"), ("c.csv", b"2"), ("interactions.parquet", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (digest(tmp_path / f"{name}.csv") for name in "abc")
    assert a == b != c == digest(tmp_path)
