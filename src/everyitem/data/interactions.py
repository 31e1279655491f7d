"""Interaction logs: who met which item when, as histories of item positions.

Knows how ids become positions and how events are ordered. Knows no file, no data set, no split and no model.
"""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everyitem.data.columns import EARLIEST, LATEST, Table, are_integers, collect, scan_events, scan_items
from everyitem.types import Histories

EVENTS_AT_ONCE = 1 << 24
"""Events ordered at a time: about 1 GB. A longer log is read once per so many, some users at a time."""


@dataclass(frozen=True)
class Log:
    """Every user's events in time order, ids replaced by positions.

    `histories` row u belongs to `user_ids[u]`; position i to row i of `items` (item_id, then attributes).
    `times` are microseconds since 1970, one per entry of `histories.items`; None when the log has no times and its
    rows are in the order of time. `notes` says in words what reading had to decide (for people).
    """

    histories: Histories
    times: NDArray[np.int64] | None
    weights: NDArray[np.float32] | None
    user_ids: pl.Series
    items: pl.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def num_users(self) -> int:
        """Users with at least one event in the source."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Positions in the catalogue, items without an event included."""
        return len(self.items)

    @property
    def num_events(self) -> int:
        """Events inside the histories: a training split has fewer than its source."""
        return int(self.histories.lengths.sum())

    def with_histories(self, histories: Histories) -> "Log":
        """The same users and items with other (usually shorter) histories."""
        return replace(self, histories=histories)


def read_log(source: Any, *, items: Any = None) -> Log:
    """Read a log of interactions and map its ids to positions.

    The source is scanned lazily (polars streaming) and may be larger than memory: what stays is 4 bytes per event, 12
    with times, and events are ordered some users at a time (`EVENTS_AT_ONCE`), for which a long log is read repeatedly.
    Events are ordered by time within a user; equal times keep the order of the rows, as does a log without times.

    Args:
        source: a log folder (`interactions.parquet` + `items.parquet`), a .parquet or .csv file, or a pandas, polars
            or pyarrow table. Columns `user_id`, `item_id` (str or int), optional `datetime` (datetime, date, ISO text,
            or integer seconds/milliseconds/microseconds since 1970) and `weight`; the usual aliases are understood.
            Ids of a .csv are integers if all of the column (and of `items`) are written as int64 writes them, else
            text: `007` and `7` stay two ids.
        items: attributes of the items (same kinds of source), one row per `item_id`. Its row order gives the positions.
            None: the folder's own `items.parquet`, else the sorted ids of the log.

    Returns:
        A `Log`. Users in sorted order of id; items in the order of `items`, unknown ones after them. Datetimes and
        weights that cannot be read are counted in its `notes`.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a missing column, a null id, a wrong type, a time outside 1970..2099, duplicate items, or no rows.
            The message names file, column, row and remedy.
    """
    if items is None and isinstance(source, str | Path) and (Path(source) / "items.parquet").is_file():
        items = source
    events = scan_events(source)
    (users,) = _one_type((_distinct(events, "user_id"), events))
    return _encode(events, users.sort(), catalogue_of(events, None if items is None else scan_items(items)))


def _distinct(events: Table, label: str) -> pl.Series:
    ids = collect(events._replace(frame=events.frame.select(pl.col(label).unique())))[label]
    if ids.null_count():
        refuse_nulls(collect(events._replace(frame=events.frame.select(label)))[label], events.name)
    if not len(ids):
        raise ValueError(f"{events.name}: holds no rows. Give a log with at least one interaction")
    return ids


def refuse_nulls(ids: pl.Series, name: str) -> None:
    """Raise ValueError where an id is null; it names the first row."""
    if ids.null_count():
        row = int(ids.is_null().arg_max() or 0)
        raise ValueError(
            f"{name}: column {ids.name} is null in {ids.null_count():,} rows, first in row {row}. "
            "Drop or fill these rows"
        )


def _one_type(*columns: tuple[pl.Series, Table]) -> list[pl.Series]:
    """Ids that meet each other: integers if all of them are, else as they were read."""
    integers = all(are_integers(ids, untyped=table.untyped) for ids, table in columns)
    return [ids.cast(pl.Int64) if integers else ids for ids, _ in columns]


def catalogue_of(events: Table, items: Table | None) -> pl.DataFrame:
    """item_id and attributes: the listed items in their order, then those that only the log knows."""
    seen = _distinct(events, "item_id")
    if items is None:
        return _one_type((seen, events))[0].sort().to_frame()
    catalogue = _listed(items)
    seen, listed = _one_type((seen, events), (catalogue["item_id"], items))
    if listed.dtype != seen.dtype:
        raise ValueError(
            f"{events.name}: item_id is {seen.dtype} in the log and {listed.dtype} in the items. Use one type"
        )
    missing = seen.filter(~seen.is_in(listed.implode())).sort()
    return pl.concat([catalogue.with_columns(listed), missing.to_frame()], how="diagonal")


def _listed(items: Table) -> pl.DataFrame:
    catalogue = collect(items)
    ids = catalogue["item_id"]
    refuse_nulls(ids, items.name)
    if ids.n_unique() < len(ids):
        twice = ids.filter(ids.is_duplicated()).unique(maintain_order=True).head(5).to_list()
        raise ValueError(f"{items.name}: item_id must be unique; seen more than once: {twice}. Keep one row per item")
    return catalogue


def _encode(events: Table, users: pl.Series, catalogue: pl.DataFrame) -> Log:
    """Replace ids by positions while streaming, then order by user and time: so many users at a time that it fits."""
    items = catalogue["item_id"]
    frame = (
        events.frame.with_columns(pl.col("user_id").cast(users.dtype), pl.col("item_id").cast(items.dtype))
        .with_row_index("row")
        .join(positions_of(users, "user"), on="user_id", how="left")
        .join(positions_of(items, "item"), on="item_id", how="left")
        .drop("user_id", "item_id")
    )
    total = int(collect(events._replace(frame=events.frame.select(pl.len())))[:, 0][0])
    kinds = {"item": np.int32, "datetime": np.int64, "weight": np.float32}
    out = {name: np.empty(total, kinds[name]) for name in frame.collect_schema().names() if name in kinds}
    filled, missing, lengths = 0, Counter[str](), np.zeros(len(users), np.int64)
    borders = np.linspace(0, len(users), -(-total // EVENTS_AT_ONCE) + 1).astype(int)
    for first, last in pairwise(borders.tolist()):
        part = frame if len(borders) == 2 else frame.filter(pl.col("user").is_between(first, last - 1))
        rows = collect(events._replace(frame=part.sort("row")))  # a streaming join may emit rows in another order
        missing.update(count_missing(rows, events.name))
        rows = in_order(rows)
        lengths[first:last] = np.bincount(rows["user"].to_numpy() - first, minlength=last - first)
        for name, column in out.items():
            column[filled : filled + len(rows)] = rows[name].to_physical().to_numpy()
        filled += len(rows)
    notes = notes_on(missing, total, set(out), events.name)
    if missing["weight"] == total:
        out.pop("weight", None)
    stops = np.cumsum(lengths)
    for column in out.values():
        column.flags.writeable = False
    histories = Histories(out["item"], stops - lengths, stops)
    return Log(histories, out.get("datetime"), out.get("weight"), users, catalogue, notes)


def positions_of(ids: pl.Series, label: str) -> pl.LazyFrame:
    """What turns ids into positions by a join."""
    return pl.LazyFrame({ids.name: ids, label: pl.arange(0, len(ids), dtype=pl.Int32, eager=True)})


def count_missing(rows: pl.DataFrame, name: str) -> dict[str, int]:
    """How many rows lack what; refuses times that cannot be."""
    found = {"weight": rows["weight"].null_count()} if "weight" in rows.columns else {}
    if "datetime" in rows.columns:
        _refuse_times_outside(rows, name)
        untimed = rows["datetime"].is_null()
        found |= {"datetime": int(untimed.sum()), "unreadable": int((untimed & rows["has_time"]).sum())}
    return found


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """By user, then time, then place in the source. A row without time takes that of the user's row before it."""
    if "datetime" not in rows.columns:
        return rows.sort("user", maintain_order=True)
    if rows["datetime"].null_count():
        rows = rows.with_columns(pl.col("datetime").forward_fill().backward_fill().over("user"))
        rows = rows.with_columns(pl.col("datetime").fill_null(EARLIEST))
    return rows.sort("user", "datetime", maintain_order=True)


def _refuse_times_outside(rows: pl.DataFrame, name: str) -> None:
    time = rows["datetime"]
    outside = (time < EARLIEST) | (time >= LATEST)
    if outside.any():
        row = rows["row"][int(outside.arg_max() or 0)]
        raise ValueError(
            f"{name}: column datetime is outside {EARLIEST:%Y}..{LATEST.year - 1} in {outside.sum():,} rows, "
            f"first in row {row}. Integers are read as seconds, milliseconds or microseconds since 1970"
        )


def notes_on(missing: Counter[str], total: int, columns: set[str], name: str) -> tuple[str, ...]:
    """What reading had to decide, in words."""
    notes = []
    if "datetime" not in columns:
        notes.append("no datetime column: the rows of a user are taken to be in the order of time")
    elif missing["datetime"] == total:
        raise ValueError(f"{name}: no datetime could be read. Give ISO text (2024-05-01 12:00:00) or drop the column")
    elif missing["datetime"]:
        which = f" ({missing['unreadable']:,} of them hold text that is none)" if missing["unreadable"] else ""
        notes.append(
            f"{missing['datetime']:,} rows without a datetime{which} keep their place in the order of the rows"
        )
    if "weight" in columns and missing["weight"] == total:
        notes.append(f"the weight column is left out: none of its {total:,} rows holds a number")
    elif missing["weight"]:
        notes.append(f"{missing['weight']:,} rows hold no number as weight: NaN there")
    return tuple(notes)
