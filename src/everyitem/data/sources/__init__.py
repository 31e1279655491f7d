"""Public data sets and the user's own tables, as log folders. Knows where data come from; knows no split and no model.

One function per data set reads the official raw files and applies the filter of the papers that use it; `SOURCES` says
where the files come from and which counts the papers report.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from everyitem.data.interactions import read_log
from everyitem.data.sources.amazon import amazon_2018, amazon_2018_recent, amazon_2023
from everyitem.data.sources.folder import refuse_other_content, write_log
from everyitem.data.sources.movielens import ml_1m, ml_20m
from everyitem.data.sources.raw import Raw
from everyitem.data.sources.shops import tmall, yoochoose
from everyitem.data.sources.steam import steam
from everyitem.data.sources.trips import booking, gowalla

__all__ = ["SOURCES", "Counts", "Prepared", "Source", "prepare", "write_log"]


class Counts(NamedTuple):
    """Size of a log; None where a paper does not say."""

    users: int | None
    items: int | None
    interactions: int | None


class Source(NamedTuple):
    """A public data set: how to read it, which files it reads, from which page, and what papers count after the filter.

    `{category}` stands in the file names of a data set that comes in categories; `published` is then keyed by category,
    otherwise by the empty string. `download` is a direct link and its MD5, where both are public.
    """

    read: Callable[..., tuple[pl.DataFrame, pl.DataFrame | None]]
    files: str
    page: str
    published: dict[str, Counts]
    download: tuple[str, str] | None = None


AMAZON_2018 = "https://nijianmo.github.io/amazon/ (ratings only or per-category data, and metadata)"
MOVIELENS = "https://files.grouplens.org/datasets/movielens"
SNAP = "https://snap.stanford.edu/data/loc-gowalla"
SOURCES: dict[str, Source] = {
    "booking": Source(
        booking,
        "train_set.csv, test_set.csv",
        "https://github.com/bookingcom/ml-dataset-mdt",
        {"": Counts(140_746, 34_742, 917_729)},
    ),
    "gowalla": Source(
        gowalla,
        "loc-gowalla_totalCheckins.txt",
        f"{SNAP}.html",
        {"": Counts(86_168, 1_271_638, 6_397_903)},
        (f"{SNAP}_totalCheckins.txt.gz", "8ebd5ed2dd376d8982987c49429cb9f9"),
    ),
    "tmall": Source(
        tmall,
        "ijcai2016_taobao.csv",
        "https://tianchi.aliyun.com/dataset/53 (IJCAI-16, after registration)",
        {"": Counts(None, 2_194_464, None)},
    ),
    "ml-1m": Source(
        ml_1m,
        "ratings.dat, movies.dat",
        "https://grouplens.org/datasets/movielens/1m",
        {"": Counts(6_040, 3_416, 999_611)},
        (f"{MOVIELENS}/ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"),
    ),
    "ml-20m": Source(
        ml_20m,
        "ratings.csv, movies.csv",
        "https://grouplens.org/datasets/movielens/20m",
        {"": Counts(138_493, 26_744, 20_000_263)},
        (f"{MOVIELENS}/ml-20m.zip", "cd245b17a1ae2cc31bb14903e1204af3"),
    ),
    "amazon-2018": Source(
        amazon_2018,
        "{category}.csv or {category}.json, meta_{category}.json",
        AMAZON_2018,
        {"Video_Games": Counts(50_546, 16_859, 452_989)},
    ),
    "amazon-2018-recent": Source(
        amazon_2018_recent,
        "{category}_5.json or {category}.json, meta_{category}.json",
        AMAZON_2018,
        {},
    ),
    "amazon-2023": Source(
        amazon_2023,
        "{category}.csv or {category}.jsonl, meta_{category}.jsonl",
        "https://amazon-reviews-2023.github.io",
        {
            "Video_Games": Counts(94_762, 25_612, 814_586),
            "Musical_Instruments": Counts(57_439, 24_587, 511_836),
            "Industrial_and_Scientific": Counts(50_985, 25_848, 412_947),
        },
    ),
    "yoochoose": Source(
        yoochoose,
        "yoochoose-clicks.dat",
        "https://recsys.acm.org/recsys15/challenge (unpack the .7z)",
        {"": Counts(7_981_580, 37_483, None)},
    ),
    "steam": Source(
        steam,
        "steam_reviews.json, steam_games.json",
        "https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data (version 2)",
        {"": Counts(281_428, 13_044, None)},
    ),
}


@dataclass(frozen=True)
class Prepared:
    """A log folder that was written, and how its size compares with what papers report (None: no published counts)."""

    folder: Path
    counts: Counts
    published: Counts | None
    notes: tuple[str, ...] = ()

    @property
    def matches(self) -> bool | None:
        """Whether every published count is met; None where none is published."""
        if self.published is None:
            return None
        return all(theirs in (None, ours) for ours, theirs in zip(self.counts, self.published, strict=True))

    def __str__(self) -> str:
        published = self.published or Counts(None, None, None)
        rows = [
            _count_line(name, ours, theirs)
            for name, ours, theirs in zip(Counts._fields, self.counts, published, strict=True)
        ]
        return "\n".join([str(self.folder), *rows, *(f"  {note}" for note in self.notes)])


def _count_line(name: str, ours: int | None, theirs: int | None) -> str:
    verdict = "" if theirs is None else f"   published {theirs:>12,}   {'matches' if ours == theirs else 'differs'}"
    return f"  {name:<12} {ours:>12,}{verdict}"


def prepare(
    source: str | Path, folder: str | Path, *, raw: str | Path | None = None, items: str | Path | None = None
) -> Prepared:
    """Turn a public data set's raw files, or a table of the user's own, into a log folder.

    Args:
        source: a name in `SOURCES` (Amazon's with a category: "amazon-2018/Video_Games"), or whatever `read_log` reads.
        folder: the log folder to write: `interactions.parquet` sorted by user, then time, then place in the file;
            `items.parquet` with the items that the filter left, sorted by id. An older log there is replaced.
        raw: folder, zip or file with the official raw files. None: download them, where a direct link with a public
            checksum exists (needs the extra `train`; kept in $EVERYITEM_DATA or the user's cache folder).
        items: attributes for a table of the user's own, as `read_log` takes them.

    Returns:
        What was written, with the published counts beside its own; print it.

    Raises:
        ValueError: unknown source, malformed line (with file and line), damaged archive, or a folder that holds other
            things than a log.
        FileNotFoundError: a raw file is missing.

    Cost: memory for the ids and times of all events; compressed files are unpacked beside `folder` for the duration.
    """
    folder = Path(folder).absolute()
    refuse_other_content(folder)
    name, _, category = str(source).partition("/")
    if name not in SOURCES:
        return _prepare_own(source, folder, raw, items)
    if items is not None:
        raise ValueError(
            f"{source} brings its own items, items={str(items)!r} is for a table of your own. Leave it out"
        )
    chosen = SOURCES[name]
    takes_category = "{category}" in chosen.files
    if takes_category != bool(category):
        example = f"{name}/Video_Games" if takes_category else name
        raise ValueError(f"{source}: {name} {'needs a' if takes_category else 'has no'} category. Write {example}")
    read = partial(chosen.read, category=category) if takes_category else chosen.read
    wanted = f"{source} reads {chosen.files.format(category=category)} from {chosen.page}"
    place = _download(source, chosen, wanted) if raw is None else Path(raw)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".raw-", dir=folder.parent) as scratch:
        interactions, attributes = read(Raw(place, Path(scratch), wanted))
        if interactions.is_empty():
            raise ValueError(f"{place}: nothing is left after the filter of {name}. {wanted}, whole and unchanged")
        return _write(folder, interactions, attributes, chosen.published.get(category))


def _write(folder: Path, rows: pl.DataFrame, attributes: pl.DataFrame | None, published: Counts | None) -> Prepared:
    rows = rows.sort("user_id", "datetime", "line")
    rows = rows.select("user_id", "item_id", "datetime", *(column for column in ("weight",) if column in rows.columns))
    items = rows.select(pl.col("item_id").unique().sort())
    if attributes is not None:
        items = items.join(attributes, on="item_id", how="left", maintain_order="left", validate="1:1")
    write_log(folder, [rows], [items])
    return Prepared(folder, Counts(rows["user_id"].n_unique(), len(items), len(rows)), published)


def _prepare_own(source: str | Path, folder: Path, raw: str | Path | None, items: str | Path | None) -> Prepared:
    if not Path(source).exists():
        raise ValueError(
            f"unknown source {str(source)!r}; give a .parquet or .csv file, or one of {', '.join(SOURCES)}"
        )
    if raw is not None:
        raise ValueError(f"{source} is a table of your own, raw={str(raw)!r} is for {', '.join(SOURCES)}. Leave it out")
    log = read_log(source, items=items)
    histories = log.histories
    columns = {
        "user_id": log.user_ids.gather(np.repeat(np.arange(log.num_users), histories.lengths)),
        "item_id": log.items["item_id"].gather(histories.items),
    }
    if log.times is not None:
        columns["datetime"] = pl.Series(log.times).cast(pl.Datetime("us"))
    if log.weights is not None:
        columns["weight"] = pl.Series(log.weights)
    write_log(folder, [pl.DataFrame(columns)], [log.items])
    return Prepared(folder, Counts(log.num_users, log.num_items, log.num_events), None, log.notes)


def _download(source: str | Path, chosen: Source, wanted: str) -> Path:
    if chosen.download is None:
        raise FileNotFoundError(f"{source} has no direct download. {wanted}; then name their folder with --raw")
    try:
        import pooch
    except ModuleNotFoundError:
        raise ValueError(
            f"downloading {source} needs pooch: pip install 'everyitem[train]'. Or name a folder with --raw"
        ) from None
    url, md5 = chosen.download
    try:
        cache = os.environ.get("EVERYITEM_DATA") or pooch.os_cache("everyitem")
        return Path(pooch.retrieve(url, f"md5:{md5}", fname=url.rsplit("/", 1)[-1], path=cache))
    except OSError as error:
        raise ValueError(
            f"{url}: download failed ({str(error)[:200]}). Get it by other means; {wanted}, and use --raw"
        ) from None
