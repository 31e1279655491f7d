"""Amazon reviews of 2018 (Ni et al.) and 2023 (Hou et al.), one category at a time."""

from datetime import datetime
from pathlib import Path

import polars as pl

from everyitem.data.sources.filters import first_of_pairs, k_core
from everyitem.data.sources.raw import Raw, collect, json_lines, split_lines, table

AMOUNT = r"^\$?\s*([0-9][0-9,]*(?:\.[0-9]+)?)$"


def amazon_2018(raw: Raw, category: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The first review of every (user, item) pair, items with metadata, then the 5-core (LC-Rec, arXiv:2311.09049)."""
    items = _meta_2018(raw, category)
    reviews = first_of_pairs(_reviews_2018(raw, f"{category}.csv", f"{category}.json"))
    return k_core(reviews.filter(pl.col("item_id").is_in(items["item_id"].implode())), 5), items


def amazon_2018_recent(raw: Raw, category: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The newest reviews of readable items: the protocol of D3 (EMNLP 2024), which PruneRec follows.

    Items whose title is missing, holds markup or has more than 20 words are dropped. Reviews from October 2017 to
    October 2018 (UTC) make a 5-core; while it has fewer than 10,000 items the window begins a year earlier. Repeated
    reviews stay. Like D3 it reads the official 5-core file where that is at hand, else all reviews.
    """
    items = _meta_2018(raw, category).filter(
        ~pl.col("title").str.contains("<span id", literal=True)
        & (pl.col("title").str.split(" ").list.len() <= 20)
        & (pl.col("title").str.len_chars() > 1)
    )
    reviews = _reviews_2018(raw, f"{category}_5.json", f"{category}.json")
    reviews = reviews.filter(
        pl.col("item_id").is_in(items["item_id"].implode()), pl.col("datetime") <= datetime(2018, 11, 1)
    )
    for year in range(2017, 1995, -1):
        core = k_core(reviews.filter(pl.col("datetime") >= datetime(year, 10, 1)), 5)
        if core["item_id"].n_unique() >= 10_000:
            break
    return core, items


def _reviews_2018(raw: Raw, *names: str) -> pl.DataFrame:
    path = raw.find(*names)
    time = pl.from_epoch(pl.col("time").cast(pl.Int64, strict=False)).cast(pl.Datetime("us")).alias("datetime")
    weight = pl.col("rating").cast(pl.Float32, strict=False).alias("weight")
    if path.suffix == ".csv":
        rows, form = split_lines(path, ",", ["item_id", "user_id", "rating", "time"]), "item,user,rating,Unix seconds"
    else:
        keys = {"reviewerID": "user_id", "asin": "item_id", "overall": "rating", "unixReviewTime": "time"}
        rows, form = (
            json_lines(path, dict.fromkeys(keys, pl.String)).rename(keys),
            f"a JSON object with {', '.join(keys)}",
        )
    return collect(rows.select("line", "user_id", "item_id", time, weight), path, form)


def _meta_2018(raw: Raw, category: str) -> pl.DataFrame:
    return _meta(raw.find(f"meta_{category}.json"), {"asin": "item_id", "brand": "brand", "category": "category"})


def amazon_2023(raw: Raw, category: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The first review of every (user, item) pair, then the 5-core, as in the authors' benchmark files.

    Reads either the raw reviews (.jsonl) or the ready 5-core (.csv), which the filter leaves as it is.
    """
    path = raw.find(f"{category}.csv", f"{category}.jsonl")
    keys = {"user_id": "user_id", "parent_asin": "item_id", "rating": "weight", "timestamp": "datetime"}
    rows = table(path, keys) if path.suffix == ".csv" else json_lines(path, dict.fromkeys(keys, pl.String)).rename(keys)
    rows = rows.with_columns(
        pl.from_epoch(pl.col("datetime").cast(pl.Int64, strict=False), "ms").cast(pl.Datetime("us")),
        pl.col("weight").cast(pl.Float32, strict=False),
    )
    reviews = collect(rows, path, "a review with user_id, parent_asin, rating, timestamp in milliseconds")
    items = _meta(
        raw.find(f"meta_{category}.jsonl"), {"parent_asin": "item_id", "store": "brand", "categories": "category"}
    )
    return k_core(first_of_pairs(reviews), 5), items


def _meta(path: Path, keys: dict[str, str]) -> pl.DataFrame:
    """Items with title, category, brand, price; `keys` translates where the two years differ."""
    (categories,) = (theirs for theirs, ours in keys.items() if ours == "category")
    schema = pl.Schema(dict.fromkeys([*keys, "title", "price"], pl.String()) | {categories: pl.List(pl.String())})
    title = pl.col("title").str.replace_many(["&quot;", "&amp;"], ['"', "&"]).str.strip_chars(" ").str.strip_chars('"')
    price = pl.col("price").str.extract(AMOUNT).str.replace_all(",", "").cast(pl.Float64, strict=False)
    category = pl.col("category").list.join(", ", ignore_nulls=True)
    rows = json_lines(path, schema).rename(keys).select("line", "item_id", title, category, "brand", price)
    items = collect(rows, path, "a JSON object with the item's id, title, price", required=("item_id",))
    return items.drop("line").unique("item_id", keep="last", maintain_order=True)
