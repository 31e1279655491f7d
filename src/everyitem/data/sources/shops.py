"""Two shops' click logs: Tmall (IJCAI-16 contest) and Yoochoose (RecSys Challenge 2015)."""

import polars as pl

from everyitem.data.sources.filters import at_least
from everyitem.data.sources.raw import Raw, collect, split_lines, table


def tmall(raw: Raw) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tmall: clicks and purchases of users with at least 5 of them; the time is a day, and a day keeps file order.

    The RecJPQPrune paper names the number of items (2,194,464) but not its filter; this one is our reading of it.
    """
    path = raw.find("ijcai2016_taobao.csv")
    names = {"use_ID": "user_id", "ite_ID": "item_id", "sel_ID": "seller", "cat_ID": "category", "time": "datetime"}
    rows = table(path, names).with_columns(
        pl.col("user_id", "item_id", "seller", "category").cast(pl.Int64, strict=False),
        pl.col("datetime").str.to_datetime("%Y%m%d", time_unit="us", strict=False),
    )
    events = at_least(collect(rows, path, "use_ID,sel_ID,ite_ID,cat_ID,act_ID,time as 20150826"), "user_id", 5)
    items = events.select("item_id", "seller", "category").unique("item_id", keep="first", maintain_order=True)
    return events.drop("seller", "category"), items


def yoochoose(raw: Raw) -> tuple[pl.DataFrame, None]:
    """Yoochoose clicks: sessions of 2 clicks and more, then items of 5 and more, then sessions again (GRU4Rec)."""
    path = raw.find("yoochoose-clicks.dat")
    rows = split_lines(path, ",", ["user_id", "datetime", "item_id", "category"]).select(
        "line",
        pl.col("user_id", "item_id").cast(pl.Int64, strict=False),
        pl.col("datetime").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", strict=False),
    )
    clicks = at_least(collect(rows, path, "session,2014-04-07T10:51:09.277Z,item,category"), "user_id", 2)
    return at_least(at_least(clicks, "item_id", 5), "user_id", 2), None
