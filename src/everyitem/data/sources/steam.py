"""Steam reviews (Kang and McAuley, 2018)."""

import polars as pl

from everyitem.data.sources.filters import first_of_pairs, k_core
from everyitem.data.sources.raw import Raw, collect, literal_lines


def steam(raw: Raw) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Steam: a user's first review of every game, then 5 reviews per user and game.

    BERT4Rec's text file, which RecJPQ and gSASRec read, comes without its filter; this one is our reading of the paper.
    """
    path = raw.find("steam_reviews.json")
    reviews = literal_lines(path, ["username", "product_id", "date"]).lazy()
    rows = reviews.select(
        "line",
        user_id="username",
        item_id=pl.col("product_id").cast(pl.Int64, strict=False),
        datetime=pl.col("date").str.to_datetime("%Y-%m-%d", time_unit="us", strict=False),
    )
    form = "a Python dictionary with username, a whole product_id and date as 2017-12-17"
    return k_core(first_of_pairs(collect(rows, path, form)), 5), _games(raw)


def _games(raw: Raw) -> pl.DataFrame:
    games = literal_lines(raw.find("steam_games.json"), ["id", "app_name", "developer", "price"])
    return games.select(
        item_id=pl.col("id").cast(pl.Int64, strict=False),
        title="app_name",
        brand="developer",
        price=pl.col("price").cast(pl.Float64, strict=False),
    )
