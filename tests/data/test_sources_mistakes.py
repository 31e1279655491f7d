"""What can go wrong on the way to a log folder: raw files, names, downloads, and a folder that must not be lost."""

import gzip
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from everyitem.data.sources import SOURCES, Counts, prepare, write_log


def tables(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    return pl.read_parquet(folder / "interactions.parquet"), pl.read_parquet(folder / "items.parquet")


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "log"


RATING = "1::2::3::4"


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ([RATING, "1::2::3"], 2),
        ([RATING, RATING, "1::2::3::4::5"], 3),
        (["", RATING, "1::two::3::4"], 3),  # a blank line counts, and is no mistake
        ([RATING, "1::2::3::soon"], 2),
        (["userId,movieId,rating,timestamp"], 1),
    ],
)
def test_malformed_line_is_named(raw, log, lines, number):
    write(raw / "ratings.dat", lines)
    with pytest.raises(ValueError, match=rf"ratings.dat, line {number}: got '.*a line is UserID::MovieID"):
        prepare("ml-1m", log, raw=raw)
    assert list(log.parent.iterdir()) == []


@pytest.mark.parametrize(
    "line", ['{"reviewerID": "A"', '{"reviewerID": "A"}', "[1]", '{"reviewerID": "A", "asin": null}']
)
def test_malformed_json_line_is_named(raw, log, line):
    fine = json.dumps({"reviewerID": "A", "asin": "B", "overall": 5.0, "unixReviewTime": 5})
    write(raw / "Video_Games.json", [fine, line, fine])
    write(raw / "meta_Video_Games.json", [json.dumps({"asin": "B"})])
    with pytest.raises(
        ValueError, match=r"Video_Games.json, line 2: got .*a line is a JSON object with reviewerID, asin"
    ):
        prepare("amazon-2018/Video_Games", log, raw=raw)


@pytest.mark.parametrize("line", ["{'username': 'a'", "['a']", "__import__('os').getcwd()", "(" * 10_000])
def test_malformed_literal_line_is_named_and_never_run(raw, log, line):
    write(raw / "steam_reviews.json", [repr({"username": "a", "product_id": "1", "date": "2017-01-01"}), line])
    with pytest.raises(ValueError, match=r"steam_reviews.json, line 2: got .*a line is a Python dictionary"):
        prepare("steam", log, raw=raw)


def test_bytes_that_are_no_text(raw, log):
    (raw / "ratings.dat").write_bytes(b"1::2::3::4\n1::2::\xff\xfe::4\n")
    with pytest.raises(ValueError, match=r"ratings.dat, line 2"):
        prepare("ml-1m", log, raw=raw)


def test_missing_column(raw, log):
    write(raw / "train_set.csv", ["user_id,checkin,city", "1,2016-08-13,5"])
    write(raw / "test_set.csv", ["user_id,checkin,city"])
    with pytest.raises(
        ValueError, match=r"train_set.csv, line 1: no column utrip_id, city_id, hotel_country; got user_id"
    ):
        prepare("booking", log, raw=raw)


def test_missing_files(raw, log, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no loc-gowalla_totalCheckins.txt \(also .*\.gz.*snap.stanford.edu"):
        prepare("gowalla", log, raw=raw)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file or folder. gowalla reads"):
        prepare("gowalla", log, raw=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"booking has no direct download.*train_set.csv, test_set.csv.*--raw"):
        prepare("booking", log)
    write(raw / "Books.csv", ["a,b,5.0,1"])
    with pytest.raises(FileNotFoundError, match=r"no meta_Books.json .*amazon-2018/Books reads Books.csv"):
        prepare("amazon-2018/Books", log, raw=raw)


@pytest.mark.parametrize("name", ["loc-gowalla_totalCheckins.txt.gz", "gowalla.zip"])
def test_damaged_archive(raw, log, name):
    (raw / name).write_bytes(gzip.compress(b"0\t1\t2\t3\t4\n" * 100)[:-20] if name.endswith("gz") else b"no zip")
    with pytest.raises(ValueError, match=rf"{name}: damaged .*Download it again"):
        prepare("gowalla", log, raw=raw)


def test_nothing_left(raw, log):
    write(raw / "loc-gowalla_totalCheckins.txt", ["0\t2010-10-19T23:55:27Z\t30.2\t-97.7\t22"])
    with pytest.raises(ValueError, match="nothing is left after the filter of gowalla"):
        prepare("gowalla", log, raw=raw)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("movielens", "unknown source 'movielens'.*booking, gowalla, tmall, ml-1m"),
        ("ml-1m/small", "ml-1m has no category. Write ml-1m"),
        ("amazon-2018", "amazon-2018 needs a category. Write amazon-2018/Video_Games"),
    ],
)
def test_wrong_source(log, source, message):
    with pytest.raises(ValueError, match=message):
        prepare(source, log)


def test_own_table_has_no_raw_files(tmp_path, log):
    write(tmp_path / "events.csv", ["user_id,item_id", "a,x"])
    with pytest.raises(ValueError, match="raw='elsewhere' is for booking"):
        prepare(tmp_path / "events.csv", log, raw="elsewhere")


def test_checksums_are_md5():
    for source in SOURCES.values():
        assert source.download is None or len(bytes.fromhex(source.download[1])) == 16


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on this machine, and an empty folder for downloads."""
    pytest.importorskip("pooch")
    monkeypatch.setenv("EVERYITEM_DATA", str(tmp_path / "downloads"))
    (tmp_path / "www").mkdir()
    handler = partial(QuietHandler, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/loc-gowalla_totalCheckins.txt.gz"
        server.shutdown()


def test_download_is_checked_and_kept(tmp_path, log, mirror, monkeypatch):
    lines = "".join(f"0\t2010-10-1{day}T23:55:27Z\t1.0\t2.0\t{day}\n" for day in range(5))
    packed = gzip.compress(lines.encode())
    (tmp_path / "www" / "loc-gowalla_totalCheckins.txt.gz").write_bytes(packed)
    offer = SOURCES["gowalla"]
    monkeypatch.setitem(SOURCES, "gowalla", offer._replace(download=(mirror, "0" * 32)))
    with pytest.raises(ValueError, match="hash of downloaded file"):
        prepare("gowalla", log)
    monkeypatch.setitem(SOURCES, "gowalla", offer._replace(download=(mirror, hashlib.md5(packed).hexdigest())))
    assert prepare("gowalla", log).counts == Counts(1, 5, 5)
    assert os.listdir(tmp_path / "downloads") == ["loc-gowalla_totalCheckins.txt.gz"]


def test_failed_download_names_the_other_way(tmp_path, log, mirror, monkeypatch):
    monkeypatch.setitem(SOURCES, "gowalla", SOURCES["gowalla"]._replace(download=(mirror, "0" * 32)))
    with pytest.raises(ValueError, match=r"download failed \(.*404.*gowalla reads loc-gowalla.*--raw"):
        prepare("gowalla", log)


# ------------------------------------------------------------------------------------------------- log folders

ROWS = pl.DataFrame({"user_id": [1], "item_id": [2], "datetime": [datetime(2016, 8, 1)]})
ITEM = pl.DataFrame({"item_id": [2]})


def test_log_folder_is_replaced_but_nothing_else_is(tmp_path):
    folder = write_log(tmp_path / "log", [ROWS, ROWS], [ITEM])
    assert len(tables(folder)[0]) == 2
    write_log(folder, [ROWS], [ITEM])
    assert len(tables(folder)[0]) == 1
    write(folder / "notes.txt", ["mine"])
    with pytest.raises(ValueError, match=r"not a log folder, as it holds notes.txt; it is not overwritten"):
        write_log(folder, [ROWS], [ITEM])
    assert (folder / "notes.txt").read_text() == "mine\n"
    file = write(tmp_path / "file", ["x"])
    with pytest.raises(ValueError, match="is a file; a log is a folder"):
        write_log(file, [ROWS], [ITEM])
    (tmp_path / "empty").mkdir()
    assert len(tables(write_log(tmp_path / "empty", [ROWS], [ITEM]))[0]) == 1


def test_other_folder_is_refused_before_any_work(raw, tmp_path):
    with pytest.raises(ValueError, match="not a log folder"):
        prepare("gowalla", write(tmp_path / "full" / "thesis.tex", ["x"]).parent, raw=tmp_path / "nowhere")


def test_a_failure_leaves_the_old_log_and_nothing_else(tmp_path):
    def broken():
        yield ROWS
        raise OSError("disk full")

    folder = write_log(tmp_path / "log", [ROWS], [ITEM])
    with pytest.raises(OSError, match="disk full"):
        write_log(folder, broken(), [ITEM])
    with pytest.raises(OSError, match="disk full"):
        write_log(tmp_path / "new", [ROWS], broken())
    assert os.listdir(tmp_path) == ["log"]
    assert tables(folder)[0].equals(ROWS)
