"""MovieLens 1M and 20M (GroupLens)."""

import polars as pl

from everyitem.data.sources.filters import at_least
from everyitem.data.sources.raw import Raw, collect, split_lines, table

RATING = (
    pl.col("user_id").cast(pl.Int64, strict=False),
    pl.col("item_id").cast(pl.Int64, strict=False),
    pl.from_epoch(pl.col("time").cast(pl.Int64, strict=False)).cast(pl.Datetime("us")).alias("datetime"),
    pl.col("rating").cast(pl.Float32, strict=False).alias("weight"),
)


def ml_1m(raw: Raw) -> tuple[pl.DataFrame, pl.DataFrame]:
    """MovieLens 1M: movies with at least 5 ratings, the text file of BERT4Rec that gSASRec and RecJPQ use.

    Every user keeps at least 18 ratings, so a user filter would change nothing. Ratings of one second keep file order.
    """
    path = raw.find("ratings.dat")
    rows = split_lines(path, "::", ["user_id", "item_id", "rating", "time"]).select("line", *RATING)
    ratings = collect(rows, path, "UserID::MovieID::Rating::Timestamp")
    return at_least(ratings, "item_id", 5), _movies_dat(raw)


def _movies_dat(raw: Raw) -> pl.DataFrame:
    text = raw.find("movies.dat").read_text(encoding="latin-1")
    fields = (
        pl.Series("text", text.splitlines()).str.split_exact("::", 2).struct.rename_fields(["id", "title", "genres"])
    )
    return _movies(fields.struct.unnest())


def ml_20m(raw: Raw) -> tuple[pl.DataFrame, pl.DataFrame]:
    """MovieLens 20M: every rating; the set is published with users of 20 ratings and more."""
    path = raw.find("ratings.csv")
    names = {"userId": "user_id", "movieId": "item_id", "rating": "rating", "timestamp": "time"}
    ratings = collect(table(path, names).select("line", *RATING), path, "userId,movieId,rating,timestamp")
    movies = pl.read_csv(raw.find("movies.csv"), infer_schema=False).rename({"movieId": "id"})
    return ratings, _movies(movies)


def _movies(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        item_id=pl.col("id").cast(pl.Int64),
        title="title",
        category=pl.col("genres").str.replace_all("|", ", ", literal=True),
    )
