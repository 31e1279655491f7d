"""The filters that papers apply before they count. Knows user_id, item_id, datetime, line; no data set."""

import polars as pl


def at_least(rows: pl.DataFrame, column: str, events: int) -> pl.DataFrame:
    """Rows whose `column` value occurs in at least `events` rows. One pass: other columns may fall below theirs."""
    return rows.filter(pl.len().over(column) >= events)


def k_core(rows: pl.DataFrame, k: int) -> pl.DataFrame:
    """The largest part in which every user and every item has at least `k` rows (Seidman 1983). The order stays."""
    while True:
        kept = rows.filter((pl.len().over("user_id") >= k) & (pl.len().over("item_id") >= k))
        if len(kept) == len(rows):
            return kept
        rows = kept


def first_of_pairs(rows: pl.DataFrame) -> pl.DataFrame:
    """The earliest row of every (user, item) pair; of equal times the one that stands first in the file."""
    return rows.sort("datetime", "line").unique(["user_id", "item_id"], keep="first", maintain_order=True)
