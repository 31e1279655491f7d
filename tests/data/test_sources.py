"""Every data set from a tiny file in its official raw format (values made up), with rows that the filter must drop."""

import gzip
import json
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from everyitem.data.interactions import read_log
from everyitem.data.sources import Counts, Prepared, prepare

DAY = datetime(2016, 8, 1)


def tables(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    return pl.read_parquet(folder / "interactions.parquet"), pl.read_parquet(folder / "items.parquet")


def events(folder: Path) -> list[tuple]:
    return tables(folder)[0].select("user_id", "item_id", "datetime").rows()


def seconds(time: datetime) -> int:
    return int((time - datetime(1970, 1, 1)).total_seconds())


def write(path: Path, lines: list[str], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def json_gz(path: Path, rows: list, dump=json.dumps) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(dump(row) + "\n" for row in rows)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "log"


def block(users: range | list, items: range | list) -> list[tuple]:
    """A 5-core: everybody meets everything, item after item, a day apart; rows (user, item, time)."""
    return [(user, item, DAY + timedelta(days=day)) for user in users for day, item in enumerate(items)]


def test_ml_1m(raw, log):
    ratings = [(user, 10, 5, 500 - user) for user in range(1, 6)] + [(1, 20, 4, 100), (1, 30, 3, 499)]
    ratings += [(user, 30, 1, 499) for user in (5, 4, 3, 2)]  # movie 20 has one rating and goes
    write(raw / "ml-1m" / "ratings.dat", [f"{u}::{i}::{r}::{t}" for u, i, r, t in ratings])
    movies = ["10::Caf\xe9, Le (1999)::Comedy|Drama", "20::Gone: The Film (1998)::Drama", "30::Plain (1997)::Horror"]
    write(raw / "ml-1m" / "movies.dat", movies, "latin-1")
    prepared = prepare("ml-1m", log, raw=raw)
    interactions, items = tables(log)
    at = datetime(1970, 1, 1)
    expected = [(1, 10, 499, 5.0), (1, 30, 499, 3.0)]  # same second: file order
    expected += [row for u in (2, 3, 4, 5) for row in ((u, 10, 500 - u, 5.0), (u, 30, 499, 1.0))]
    assert interactions.rows() == [(u, i, at + timedelta(seconds=t), w) for u, i, t, w in expected]
    assert interactions.columns == ["user_id", "item_id", "datetime", "weight"]
    assert items.rows() == [(10, "Caf\xe9, Le (1999)", "Comedy, Drama"), (30, "Plain (1997)", "Horror")]
    assert prepared.counts == Counts(5, 2, 10)
    assert prepared.matches is False


def test_ml_20m(raw, log):
    write(raw / "ratings.csv", ["userId,movieId,rating,timestamp", "1,2,3.5,200", "1,7,4.0,100"])
    write(
        raw / "movies.csv", ["movieId,title,genres", '2,"American President, The (1995)",Comedy', "7,Heat (1995),Crime"]
    )
    prepare("ml-20m", log, raw=raw)
    interactions, items = tables(log)
    assert interactions.select("user_id", "item_id", "weight").rows() == [(1, 7, 4.0), (1, 2, 3.5)]
    assert items["title"].to_list() == ["American President, The (1995)", "Heat (1995)"]


BOOKING = "user_id,checkin,checkout,city_id,device_class,affiliate_id,booker_country,hotel_country,utrip_id"


def stay(trip: str, day: int, city: int, country: str = "Elbonia") -> str:
    return f"1,2016-08-{day:02},2016-08-{day + 1:02},{city},desktop,9,The Devilfire Empire,{country},{trip}"


def test_booking(raw, log):
    train = [stay("1_1", day, 100 + day, "Cobra Island") for day in (5, 4, 3, 2, 1)]  # newest first: sorted by the log
    train += [stay("1_2", day, 200 + day) for day in (1, 2, 3, 4)]  # 4 stays: goes
    test = [stay("9_1", day, 101) for day in (1, 2, 3, 4, 5)] + [
        stay("9_1", 6, 0)
    ]  # repeats stay, the concealed city goes
    test += [stay("9_2", day, 102) for day in (1, 2, 3, 4)] + [stay("9_2", 5, 0)]  # 4 without the concealed one: goes
    write(raw / "train_set.csv", [BOOKING, *train])
    write(raw / "test_set.csv", [BOOKING, *test])
    prepare("booking", log, raw=raw)
    one = [("1_1", 100 + day, datetime(2016, 8, day)) for day in range(1, 6)]
    assert events(log) == one + [("9_1", 101, datetime(2016, 8, day)) for day in range(1, 6)]
    assert tables(log)[1].rows() == [(100 + day, "Cobra Island") for day in range(1, 6)]


def test_booking_test_file_comes_after_the_training_file_on_one_day(raw, log):
    write(raw / "train_set.csv", [BOOKING, *(stay("1_1", 1, city) for city in (5, 3, 4))])
    write(raw / "test_set.csv", [BOOKING, *(stay("1_1", 1, city) for city in (2, 1))])
    prepare("booking", log, raw=raw)
    assert [item for _, item, _ in events(log)] == [5, 3, 4, 2, 1]


def test_gowalla(raw, log):
    lines = [f"0\t2010-10-{day}T23:55:27Z\t30.25\t-97.75\t{place}" for day, place in ((19, 22), (18, 22), (17, 7))]
    lines += ["0\t2010-10-17T23:55:27Z\t40.5\t-3.0\t9", "0\t2010-10-01T00:00:00Z\t40.5\t-3.0\t8"]
    lines += [f"1\t2010-10-{day}T10:00:00Z\t1.0\t2.0\t{day}" for day in (14, 13, 12, 11)]  # 4 check-ins: goes
    with gzip.open(raw / "loc-gowalla_totalCheckins.txt.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    prepare("gowalla", log, raw=raw)
    days = [(8, 1, 0, 0), (7, 17, 23, 55), (9, 17, 23, 55), (22, 18, 23, 55), (22, 19, 23, 55)]
    assert events(log) == [(0, i, datetime(2010, 10, d, h, m, 27 if h else 0)) for i, d, h, m in days]
    assert tables(log)[1].rows() == [(7, 30.25, -97.75), (8, 40.5, -3.0), (9, 40.5, -3.0), (22, 30.25, -97.75)]


def test_tmall(raw, log):
    lines = ["use_ID,sel_ID,ite_ID,cat_ID,act_ID,time"]
    lines += [f"3,70,{item},6,{item % 2},2015082{day}" for item, day in ((5, 6), (4, 6), (5, 3), (2, 3), (1, 1))]
    lines += [f"4,70,{item},6,0,20150826" for item in range(4)]
    with zipfile.ZipFile(raw / "IJCAI16_data.zip", "w") as archive:
        archive.writestr("IJCAI16_data/ijcai2016_taobao.csv", "\r\n".join(lines) + "\r\n")
    prepare("tmall", log, raw=raw)
    assert events(log) == [(3, i, datetime(2015, 8, 20 + d)) for i, d in ((1, 1), (5, 3), (2, 3), (5, 6), (4, 6))]
    assert tables(log)[1].rows() == [(item, 70, 6) for item in (1, 2, 4, 5)]


def test_yoochoose(raw, log):
    rows = [(session, item) for session in range(1, 6) for item in (11, 12)]
    rows += [
        (6, 11),
        (7, 11),
        (7, 99),
        (8, 98),
        (8, 97),
    ]  # one click; 99 is rare, then 7 has one click; only rare items
    lines = [f"{session},2014-04-07T10:5{row % 10}:09.277Z,{item},S" for row, (session, item) in enumerate(rows)]
    write(raw / "yoochoose-clicks.dat", lines)
    prepare("yoochoose", log, raw=raw)
    assert [row[:2] for row in events(log)] == rows[:10]
    assert events(log)[0][2] == datetime(2014, 4, 7, 10, 50, 9, 277_000)
    assert tables(log)[1].rows() == [(11,), (12,)]


def test_steam(raw, log):
    rows = block([f"u{n}" for n in range(5)], [30, 10, 20, 40, 50])
    reviews = [{"username": u, "product_id": str(i), "date": f"{t:%Y-%m-%d}", "text": "it's"} for u, i, t in rows]
    reviews += [{"username": "u0", "product_id": "10", "date": "2017-01-01"}]  # a second review of the same game
    reviews += [{"username": "rare", "product_id": "10", "date": "2017-01-01"}]
    json_gz(raw / "steam_reviews.json.gz", reviews, repr)
    games = [
        {"id": str(i), "app_name": f"Game {i}", "price": 9.5 if i > 10 else "Free To Play"}
        for i in (10, 20, 30, 40, 50)
    ]
    json_gz(raw / "steam_games.json.gz", [*games, {"app_name": "no id"}], repr)
    prepare("steam", log, raw=raw)
    assert events(log) == rows
    assert tables(log)[1].head(2).rows() == [(10, "Game 10", None, None), (20, "Game 20", None, 9.5)]


def amazon_meta(raw: Path, suffix: str, ids: list[str], key: str, categories: str, brand: str) -> None:
    rows = [
        {key: i, "title": f"Tom &amp; {i}", categories: ["A", "B"], brand: "Acme", "price": "$1,009.50"} for i in ids
    ]
    rows[0] |= {"price": "from 3", categories: []}
    rows[1] |= {"price": 12.5, "details": {"any": 1}}
    json_gz(raw / f"meta_Video_Games.{suffix}.gz", rows)


ITEMS = [f"B00000000{n}" for n in range(6)]
USERS = [f"A{n}" for n in range(5)]


def test_amazon_2018(raw, log):
    rows = block(USERS, ITEMS)  # item 5 has no metadata: its rows go
    late = [(USERS[0], ITEMS[0], DAY + timedelta(days=50)), ("A9", ITEMS[0], DAY)]  # repeated; rare user
    write(raw / "Video_Games.csv", [f"{item},{user},4.0,{seconds(time)}" for user, item, time in [*late, *rows]])
    amazon_meta(raw, "json", ITEMS[:5], "asin", "category", "brand")
    prepare("amazon-2018/Video_Games", log, raw=raw)
    assert events(log) == [row for row in rows if row[1] != ITEMS[5]]
    assert tables(log)[1].head(3).rows() == [
        (ITEMS[0], f"Tom & {ITEMS[0]}", "", "Acme", None),
        (ITEMS[1], f"Tom & {ITEMS[1]}", "A, B", "Acme", 12.5),
        (ITEMS[2], f"Tom & {ITEMS[2]}", "A, B", "Acme", 1009.5),
    ]


def test_amazon_2018_reads_full_reviews_too(raw, log):
    keys = ("reviewerID", "asin", "unixReviewTime", "overall", "reviewText")
    rows = [dict(zip(keys, (u, i, seconds(t), 5.0, "fine"), strict=True)) for u, i, t in block(USERS, ITEMS[:5])]
    json_gz(raw / "Video_Games.json.gz", rows)
    amazon_meta(raw, "json", ITEMS, "asin", "category", "brand")
    prepare("amazon-2018/Video_Games", log, raw=raw)
    assert events(log) == block(USERS, ITEMS[:5])
    assert tables(log)[0]["weight"].unique().to_list() == [5.0]


def test_amazon_2018_recent(raw, log):
    keys = ("reviewerID", "asin", "unixReviewTime", "overall")
    rows = [*block(USERS, ITEMS), (USERS[0], ITEMS[1], DAY), (USERS[1], ITEMS[1], datetime(2018, 11, 2))]
    json_gz(raw / "Video_Games_5.json.gz", [dict(zip(keys, (u, i, seconds(t), 5.0), strict=True)) for u, i, t in rows])
    titles = ["Fine", "Fine too", '"Quoted"', "Four", "Five", " ".join(["word"] * 21)]
    metas = [{"asin": item, "title": title} for item, title in zip(ITEMS, titles, strict=True)]
    metas += [{"asin": "B1"}, {"asin": "B2", "title": "<span id='x'>"}, {"asin": "B3", "title": "a"}]
    json_gz(raw / "meta_Video_Games.json.gz", metas)
    prepare("amazon-2018-recent/Video_Games", log, raw=raw)
    # few items open the window back to 1996; the long title and the late review go, the repeated review stays
    kept = [row for row in rows if row[1] != ITEMS[5] and row[2] < datetime(2018, 1, 1)]
    assert sorted(events(log)) == sorted(kept)
    assert tables(log)[1]["title"].to_list() == ["Fine", "Fine too", "Quoted", "Four", "Five"]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_amazon_2023(raw, log, form):
    late = [(USERS[0], ITEMS[0], DAY + timedelta(days=50)), ("A9", ITEMS[0], DAY)]
    keys = ("user_id", "parent_asin", "rating", "timestamp")
    rows = [(u, i, 4.0, seconds(t) * 1000 + 7) for u, i, t in [*late, *block(USERS, ITEMS)]]
    if form == "csv":
        write(raw / "Video_Games.csv", [",".join(keys), *(",".join(map(str, row)) for row in rows)])
    else:
        json_gz(raw / "Video_Games.jsonl.gz", [dict(zip(keys, row, strict=True)) for row in rows])
    amazon_meta(raw, "jsonl", ITEMS[:5], "parent_asin", "categories", "store")  # items without metadata stay
    prepare("amazon-2023/Video_Games", log, raw=raw)
    assert events(log) == [(u, i, t + timedelta(milliseconds=7)) for u, i, t in block(USERS, ITEMS)]
    assert tables(log)[1].rows()[2] == (ITEMS[2], f"Tom & {ITEMS[2]}", "A, B", "Acme", 1009.5)
    assert tables(log)[1].rows()[5] == (ITEMS[5], None, None, None, None)


def test_every_log_can_be_read(raw, log):
    write(raw / "yoochoose-clicks.dat", [f"{s},2014-04-07T10:51:09.277Z,{i},0" for s in range(5) for i in (8, 9)])
    prepare("yoochoose", log, raw=raw)
    read = read_log(log)
    assert (read.num_users, read.num_items, read.num_events) == (5, 2, 10)


def test_own_table(tmp_path, log):
    write(tmp_path / "events.csv", ["uid,item,ts,rating", "b,x,20,1", "a,y,30,2", "a,x,10,3"])
    prepared = prepare(tmp_path / "events.csv", log)
    assert tables(log)[0].rows() == [
        ("a", "x", datetime(1970, 1, 1, 0, 0, 10), 3.0),
        ("a", "y", datetime(1970, 1, 1, 0, 0, 30), 2.0),
        ("b", "x", datetime(1970, 1, 1, 0, 0, 20), 1.0),
    ]
    assert tables(log)[1]["item_id"].to_list() == ["x", "y"]
    assert prepared.matches is None
    assert "published" not in str(prepared)


def test_report_names_what_differs():
    text = str(Prepared(Path("log"), Counts(6_040, 3_706, 5), Counts(6_040, 3_416, None)))
    assert [line.split() for line in text.splitlines()] == [
        ["log"],
        ["users", "6,040", "published", "6,040", "matches"],
        ["items", "3,706", "published", "3,416", "differs"],
        ["interactions", "5"],
    ]
    assert Prepared(Path("log"), Counts(1, 2, 3), Counts(1, None, 3)).matches
