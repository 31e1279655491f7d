"""A log that may be longer than memory, some users at a time, in the sorted order of their ids.

Knows how to cut a log between users so that a part has a bounded number of events; does not know what is done with it.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from everyitem.data.columns import EARLIEST, LATEST, Table, are_integers_in, collect, scan_events
from everyitem.data.interactions import catalogue_of, count_missing, in_order, notes_on, positions_of, refuse_nulls
from everyitem.types import Histories

SAMPLE = 1 << 20
"""Events whose users say where a log is cut."""


class Cut(NamedTuple):
    """Where a log is cut. Plain values, so that other processes can be told by a file."""

    num_events: int
    integer_users: bool
    """User ids are read as integers, else as text."""
    borders: list[Any]
    """The first user of every part but the first."""

    @property
    def num_parts(self) -> int:
        """Parts, some of which may hold no user of the log."""
        return len(self.borders) + 1


class Part(NamedTuple):
    """Some users of a log with their histories."""

    user_ids: pl.Series
    """Sorted."""
    histories: Histories
    """Positions in the catalogue that was given."""
    num_events: int
    unknown_events: int
    """Events whose item the catalogue does not have; they stand in no history."""


def cut_log(source: Any, events_per_part: int) -> Cut:
    """Look at all of a log once, refuse what is wrong with it, and say where to cut it.

    Borders are quantiles of the users of evenly spaced events, so parts have about `events_per_part` events; a user is
    never divided.

    Args:
        source: as `read_log` takes it.
        events_per_part: about so many.

    Raises:
        FileNotFoundError, ValueError: as `read_log` does.

    Cost: two scans (three of a csv), in the memory of a sample of a million user ids.
    """
    events = scan_events(source)
    facts = collect(events._replace(frame=events.frame.select(_facts(events)))).row(0, named=True)
    if not facts["events"]:
        raise ValueError(f"{events.name}: holds no rows. Give a log with at least one interaction")
    _refuse_bad_rows(events, facts)
    spaced = events.frame.select("user_id").gather_every(max(1, facts["events"] // SAMPLE))
    users = collect(events._replace(frame=spaced))["user_id"]
    users = (users.cast(pl.Int64) if facts["integer_users"] else users).sort()
    num_parts = -(-facts["events"] // events_per_part)
    borders = users.gather(np.arange(1, num_parts) * len(users) // num_parts).unique(maintain_order=True)
    return Cut(facts["events"], facts["integer_users"], borders.to_list())


def read_part(source: Any, cut: Cut, number: int, item_ids: pl.Series) -> Part:
    """The users of one part, with histories of positions in a catalogue.

    A user's events come in the order in which `read_log` puts them.

    Args:
        source: the log that was cut.
        cut: from `cut_log`.
        number: of the part, from 0.
        item_ids: the catalogue's, unique; the log's ids are read in their type (`catalogue.read_as`).

    Raises:
        ValueError: the log is damaged, or has changed since it was cut.

    Cost: one scan of the log, in the memory of the part and 60 bytes an event.
    """
    events = scan_events(source)
    user, last = pl.col("user_id"), len(cut.borders)
    inside = [user >= cut.borders[number - 1]] if number else []
    inside += [user < cut.borders[number]] if number < last else []
    frame = (
        events.frame.with_row_index("row")
        .select(pl.exclude("weight"))
        .with_columns(user.cast(pl.Int64 if cut.integer_users else pl.String))
        .filter(*inside)
        .with_columns(pl.col("item_id").cast(item_ids.dtype, strict=False))
        .join(positions_of(item_ids, "item"), on="item_id", how="left")
        .drop("item_id")
        .sort("row")
    )
    rows = collect(events._replace(frame=frame))
    count_missing(rows, events.name)  # refuses times outside
    user_ids = rows["user_id"].unique().sort()
    rows = rows.with_columns(user_ids.search_sorted(rows["user_id"]).cast(pl.Int32).alias("user")).drop("user_id")
    rows = in_order(rows)
    known = rows.drop_nulls("item")
    stops = np.cumsum(np.bincount(known["user"].to_numpy(), minlength=len(user_ids)))
    starts = np.concatenate([[0], stops[:-1]])[: len(stops)]
    histories = Histories(known["item"].to_numpy(), starts, stops)
    return Part(user_ids, histories, len(rows), len(rows) - len(known))


def item_ids_in(source: Any) -> pl.Series:
    """The distinct item ids of a log, in the type that `read_log` gives them. Cost: a scan; keeps the ids alone."""
    return catalogue_of(scan_events(source), None)["item_id"]


def digest(source: str | Path) -> str:
    """The sha256 of a log's events file: another content is another log, whatever its name and date."""
    path = Path(source)
    with (path / "interactions.parquet" if path.is_dir() else path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _facts(events: Table) -> list[pl.Expr]:
    """What must be known of all rows, in one pass."""
    facts = [pl.len().alias("events"), are_integers_in(events, "user_id").alias("integer_users")]
    facts += [pl.col(name).null_count().alias(f"no_{name}") for name in ("user_id", "item_id")]
    if "datetime" in events.frame.collect_schema():
        time = pl.col("datetime")
        facts += [time.null_count().alias("untimed"), ((time < EARLIEST) | (time >= LATEST)).any().alias("outside")]
    return facts


def _refuse_bad_rows(events: Table, facts: dict[str, Any]) -> None:
    """What `read_log` refuses; who reads the rows again finds the first bad one."""
    for name in ("user_id", "item_id"):
        if facts[f"no_{name}"]:
            refuse_nulls(collect(events._replace(frame=events.frame.select(name)))[name], events.name)
    if facts.get("outside") or facts.get("untimed") == facts["events"]:
        rows = collect(events._replace(frame=events.frame.select("datetime", "has_time").with_row_index("row")))
        notes_on(Counter(count_missing(rows, events.name)), len(rows), {"datetime"}, events.name)
