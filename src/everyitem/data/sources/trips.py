"""Booking.com's multi-destination trips and Gowalla's check-ins, the catalogues of the PQTopK paper."""

import polars as pl

from everyitem.data.sources.filters import at_least
from everyitem.data.sources.raw import Raw, collect, split_lines, table


def booking(raw: Raw) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Booking.com: a user is a trip, an item a city. Concealed cities (0) go, then trips of fewer than 5 stays.

    Training and test file together, as in the RecJPQ code; rows of one check-in day keep file order.
    """
    names = {"utrip_id": "user_id", "city_id": "item_id", "checkin": "datetime", "hotel_country": "country"}
    parts = []
    for path in (raw.find("train_set.csv"), raw.find("test_set.csv")):
        rows = table(path, names).with_columns(
            pl.col("item_id").cast(pl.Int64, strict=False),
            pl.col("datetime").str.to_datetime("%Y-%m-%d", time_unit="us", strict=False),
        )
        form = "a stay with utrip_id, a whole city_id and checkin as 2016-08-13"
        parts.append(collect(rows, path, form))
    stays = pl.concat([parts[0], parts[1].with_columns(pl.col("line") + len(parts[0]) + 1)])
    stays = at_least(stays.filter(pl.col("item_id") != 0), "user_id", 5)
    return stays.drop("country"), _first_of_items(stays, "country")


def gowalla(raw: Raw) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Gowalla (SNAP): users with at least 5 check-ins. No filter on places; repeated check-ins stay."""
    path = raw.find("loc-gowalla_totalCheckins.txt")
    rows = split_lines(path, "\t", ["user_id", "datetime", "latitude", "longitude", "item_id"]).with_columns(
        pl.col("user_id", "item_id").cast(pl.Int64, strict=False),
        pl.col("datetime").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", strict=False),
        pl.col("latitude", "longitude").cast(pl.Float64, strict=False),
    )
    form = "user, 2010-10-19T23:55:27Z, latitude, longitude, location, separated by tabs"
    visits = at_least(collect(rows, path, form), "user_id", 5)
    return visits.drop("latitude", "longitude"), _first_of_items(visits, "latitude", "longitude")


def _first_of_items(rows: pl.DataFrame, *attributes: str) -> pl.DataFrame:
    return rows.select("item_id", *attributes).unique("item_id", keep="first", maintain_order=True)
