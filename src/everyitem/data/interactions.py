"""Reads interaction logs: who met which item when, as histories of item positions.

Knows the column names that other toolkits use and what a broken log looks like. Knows no data set, split or model.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everyitem.types import Histories

ALIASES = {
    "user_id": ("user", "userid", "user_idx", "uid", "session_id", "query_id"),
    "item_id": ("item", "itemid", "item_idx", "iid", "product_id", "asin"),
    "datetime": ("timestamp", "time", "ts", "date", "unixreviewtime"),
    "weight": ("rating", "count", "quantity"),
}
EARLIEST, LATEST = datetime(1970, 1, 1), datetime(2100, 1, 1)
# polars panics on some damaged parquet files
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


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

    The source is scanned lazily (polars streaming): what stays in memory is 4 bytes per event, 12 with times.
    Events are ordered by time within a user; equal times keep the order of the rows, as does a log without times.

    Args:
        source: a log folder (`interactions.parquet` + `items.parquet`), a .parquet or .csv file, or a pandas, polars
            or pyarrow table. Columns `user_id`, `item_id` (str or int), optional `datetime` (datetime, date, ISO text,
            or integer seconds/milliseconds/microseconds since 1970) and `weight`; the usual aliases are understood.
        items: attributes of the items (same kinds of source), one row per `item_id`. Its row order gives the positions.
            None: the folder's own `items.parquet`, else the sorted ids of the log.

    Returns:
        A `Log`. Users in sorted order of id; items in the order of `items`, unknown ones after them.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: a missing column, a null id, a wrong type, a time outside 1970..2099, duplicate items, or no rows.
            The message names file, column, row and remedy.
    """
    frame, name = _scan(source, "interactions.parquet")
    frame = _canonical(frame, name)
    if items is None and isinstance(source, str | Path) and (Path(source) / "items.parquet").is_file():
        items = source
    catalogue = _read_items(items) if items is not None else None
    return _encode(frame, name, catalogue)


def _scan(source: Any, member: str) -> tuple[pl.LazyFrame, str]:
    if isinstance(source, pl.LazyFrame | pl.DataFrame):
        return source.lazy(), "the polars frame"
    if isinstance(source, str | Path):
        return _scan_path(Path(source), member)
    kind = f"{type(source).__module__.split('.')[0]}.{type(source).__name__}"
    if kind in ("pandas.DataFrame", "pyarrow.Table", "pyarrow.RecordBatch"):
        return _convert(source, f"the {kind}"), f"the {kind}"
    raise ValueError(
        f"cannot read a log from {kind}; give a log folder, a .parquet or .csv path, "
        "or a pandas, polars or pyarrow table"
    )


def _convert(table: Any, name: str) -> pl.LazyFrame:
    try:
        frame = pl.from_pandas(table) if "pandas" in name else pl.from_arrow(table)
    except (TypeError, ValueError, NotImplementedError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{name}: cannot be read ({_first_line(error)}). Give every column one type") from None
    assert isinstance(frame, pl.DataFrame)
    return frame.lazy()


def _scan_path(path: Path, member: str) -> tuple[pl.LazyFrame, str]:
    if path.is_dir():
        path = path / member
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; give a log folder (holding {member}) or a .parquet or .csv file"
        )
    try:
        if path.suffix in (".parquet", ".pq"):
            frame = pl.scan_parquet(path, glob=False)
        elif path.suffix in (".csv", ".tsv") or path.name.endswith((".csv.gz", ".tsv.gz")):
            separator = "\t" if ".tsv" in path.name else ","
            frame = pl.scan_csv(path, separator=separator, infer_schema_length=10_000, glob=False)
        else:
            raise ValueError(
                f"{path}: cannot read {path.suffix or 'a file without ending'}; allowed: .parquet .csv .tsv"
            )
        frame.collect_schema()
    except UNREADABLE as error:
        raise ValueError(f"{path}: damaged or not in the format of its name ({_first_line(error)})") from None
    return frame, str(path)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def _canonical(frame: pl.LazyFrame, name: str) -> pl.LazyFrame:
    """Rename aliases, keep the four columns we know, bring each to its type."""
    schema = frame.collect_schema()
    lower = {column.lower(): column for column in reversed(schema.names())}
    found: dict[str, str] = {}
    for wanted, others in ALIASES.items():
        match = next((lower[c] for c in (wanted, *others) if c in lower and lower[c] not in found.values()), None)
        if match is not None:
            found[wanted] = match
        elif wanted in ("user_id", "item_id"):
            raise ValueError(
                f"{name}: no column {wanted}; got {', '.join(schema.names())}. Rename one of them to {wanted} "
                f"(also understood: {', '.join(others)})"
            )
    columns = [_id_column(found[c], schema[found[c]], name).alias(c) for c in ("user_id", "item_id")]
    if "datetime" in found:
        columns.append(_time_column(found["datetime"], schema[found["datetime"]], name).alias("datetime"))
    if "weight" in found and schema[found["weight"]].is_numeric():
        columns.append(pl.col(found["weight"]).cast(pl.Float32).alias("weight"))
    return frame.select(columns)


def _id_column(column: str, dtype: pl.DataType, name: str) -> pl.Expr:
    if dtype.is_integer():
        return pl.col(column).cast(pl.Int64)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return pl.col(column).cast(pl.String)
    raise ValueError(f"{name}: column {column} has type {dtype}; ids are text or integers. Cast it first")


def _time_column(column: str, dtype: pl.DataType, name: str) -> pl.Expr:
    time = pl.col(column)
    if isinstance(dtype, pl.Datetime):
        time = time.cast(pl.Datetime(dtype.time_unit))  # drops the zone and keeps the instant, as UTC
    if dtype in (pl.Datetime, pl.Date):
        # clipped in its own unit, as a cast to microseconds may overflow; `_ordered_times` refuses what was clipped
        return time.clip(EARLIEST - timedelta(days=1), LATEST).cast(pl.Datetime("us"))
    if dtype == pl.String:
        return time.str.to_datetime(time_unit="us", time_zone="UTC", strict=False).dt.replace_time_zone(None)
    if dtype.is_numeric():
        # seconds, milliseconds or microseconds, told apart by size: 1e11 seconds is the year 5138, 1e11 ms is 1973;
        # in float64, as narrow integers would overflow
        ticks = time.cast(pl.Float64)
        factor = pl.when(ticks.abs() < 1e11).then(1_000_000).when(ticks.abs() < 1e14).then(1_000).otherwise(1)
        limit = (
            4.2e15  # the year 2103 in microseconds: beyond it a cast could overflow, and `_ordered_times` refuses it
        )
        return (ticks * factor).clip(-limit, limit).cast(pl.Int64).cast(pl.Datetime("us"))
    raise ValueError(f"{name}: column {column} has type {dtype}; times are datetimes, ISO text or integers since 1970")


def _read_items(source: Any) -> pl.DataFrame:
    frame, name = _scan(source, "items.parquet")
    schema = frame.collect_schema()
    if "item_id" not in schema:
        raise ValueError(f"{name}: no column item_id; got {', '.join(schema.names())}")
    frame = frame.with_columns(_id_column("item_id", schema["item_id"], name))
    items = _collect(frame.select("item_id", pl.exclude("item_id")), name)
    _refuse_nulls(items["item_id"], "item_id", name)
    if items["item_id"].n_unique() < len(items):
        twice = items["item_id"].filter(items["item_id"].is_duplicated()).unique(maintain_order=True).head(5).to_list()
        raise ValueError(f"{name}: item_id must be unique; seen more than once: {twice}. Keep one row per item")
    return items


def _collect(frame: pl.LazyFrame, name: str) -> pl.DataFrame:
    try:
        return frame.collect(engine="streaming")
    except UNREADABLE as error:
        raise ValueError(f"{name}: cannot be read ({_first_line(error)})") from None


def _refuse_nulls(column: pl.Series, label: str, name: str) -> None:
    if column.null_count():
        row = int(column.is_null().arg_max() or 0)
        raise ValueError(
            f"{name}: column {label} is null in {column.null_count():,} rows, first in row {row}. "
            "Drop or fill these rows"
        )


def _encode(frame: pl.LazyFrame, name: str, catalogue: pl.DataFrame | None) -> Log:
    """Replace ids by positions while streaming, then order by user and time."""
    users = _distinct(frame, "user_id", name)
    seen = _distinct(frame, "item_id", name)
    catalogue = _extend(catalogue, seen, name)
    events = _collect(
        frame.with_row_index("row")
        .join(_positions(users, "user_id"), on="user_id", how="left")
        .join(_positions(catalogue["item_id"], "item_id"), on="item_id", how="left")
        .drop("user_id", "item_id")
        .sort("row"),  # a streaming join may emit rows in another order
        name,
    ).drop("row")
    notes = []
    if "datetime" in events.columns:
        events, note = _ordered_times(events, name)
        notes += [note] if note else []
        events = events.sort("user", "datetime", maintain_order=True)
    else:
        notes.append("no datetime column: the rows of a user are taken to be in the order of time")
        events = events.sort("user", maintain_order=True)
    stops = np.searchsorted(events["user"].to_numpy(), np.arange(len(users)), side="right").astype(np.int64)
    histories = Histories(_read_only(events["item"]), np.concatenate([[0], stops[:-1]]).astype(np.int64), stops)
    times = _read_only(events["datetime"].to_physical()) if "datetime" in events.columns else None
    weights = _read_only(events["weight"]) if "weight" in events.columns else None
    return Log(histories, times, weights, users, catalogue, tuple(notes))


def _read_only(column: pl.Series) -> NDArray[Any]:
    array = np.ascontiguousarray(column.to_numpy())
    array.flags.writeable = False
    return array


def _distinct(frame: pl.LazyFrame, label: str, name: str) -> pl.Series:
    ids = _collect(frame.select(pl.col(label).unique()), name)[label]
    if ids.null_count():
        _refuse_nulls(_collect(frame.select(label), name)[label], label, name)
    if not len(ids):
        raise ValueError(f"{name}: holds no rows. Give a log with at least one interaction")
    return ids.sort()


def _positions(ids: pl.Series, label: str) -> pl.LazyFrame:
    short = label.removesuffix("_id")
    return pl.LazyFrame({label: ids, short: pl.arange(0, len(ids), dtype=pl.Int32, eager=True)})


def _extend(catalogue: pl.DataFrame | None, seen: pl.Series, name: str) -> pl.DataFrame:
    """The catalogue, plus the items of the log that it does not list."""
    if catalogue is None:
        return pl.DataFrame({"item_id": seen})
    if catalogue["item_id"].dtype != seen.dtype:
        raise ValueError(
            f"{name}: item_id is {seen.dtype} in the log and {catalogue['item_id'].dtype} in the items. Use one type"
        )
    missing = seen.filter(~seen.is_in(catalogue["item_id"].implode()))
    return pl.concat([catalogue, pl.DataFrame({"item_id": missing})], how="diagonal") if len(missing) else catalogue


def _ordered_times(events: pl.DataFrame, name: str) -> tuple[pl.DataFrame, str | None]:
    """Check the range; give a row without time the time of the user's row before it, so that row order decides."""
    time = events["datetime"]
    outside = (time < EARLIEST) | (time >= LATEST)
    if outside.any():
        row = int(outside.arg_max() or 0)
        raise ValueError(
            f"{name}: column datetime is outside {EARLIEST:%Y}..{LATEST.year - 1} in {outside.sum():,} rows, "
            f"first in row {row}. Integers are read as seconds, milliseconds or microseconds since 1970"
        )
    if not time.null_count():
        return events, None
    if time.null_count() == len(time):
        raise ValueError(f"{name}: no datetime could be read. Give ISO text (2024-05-01 12:00:00) or drop the column")
    filled = events.with_columns(pl.col("datetime").forward_fill().backward_fill().over("user"))
    filled = filled.with_columns(pl.col("datetime").fill_null(EARLIEST))
    return filled, f"{time.null_count():,} rows without a datetime keep their place in the order of the rows"
