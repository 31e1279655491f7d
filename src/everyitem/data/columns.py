"""Reads tables of interactions and of items: which kinds of source, which column means what, and of which type.

Knows the column names that other toolkits use and what a broken file looks like. Knows no positions and no order.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

ALIASES = {
    "user_id": ("user", "userid", "user_idx", "uid", "session_id", "query_id"),
    "item_id": ("item", "itemid", "item_idx", "iid", "product_id", "asin"),
    "datetime": ("timestamp", "time", "ts", "date", "unixreviewtime"),
    "weight": ("rating", "count", "quantity"),
}
EARLIEST, LATEST = datetime(1970, 1, 1), datetime(2100, 1, 1)
# polars panics on some damaged parquet files
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


class Table(NamedTuple):
    """Rows still to be read."""

    frame: pl.LazyFrame
    name: str
    """What messages call it."""
    untyped: bool = False
    """It is a text file: its ids come as text, and `are_integers` says whether they are numbers."""


def scan_events(source: Any) -> Table:
    """The events of a log, see `interactions.read_log`, under the names and in the types that we use.

    Returns:
        user_id and item_id (Int64 or String); where the source has them also datetime (microseconds, UTC, null where
        it cannot be read) with has_time (whether the source says something there), and weight (Float32, null where it
        is no number).

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: an unknown kind of source, a damaged file, a missing column or one of a wrong type.
    """
    table = _scan(source, "interactions.parquet", as_text=("user_id", "item_id", "weight"))
    schema = table.frame.collect_schema()
    found = _find(schema.names())
    for wanted in ("user_id", "item_id"):
        if wanted not in found:
            raise ValueError(
                f"{table.name}: no column {wanted}; got {', '.join(schema.names())}. Rename one of them to {wanted} "
                f"(also understood: {', '.join(ALIASES[wanted])})"
            )
    columns = {wanted: _id_column(found[wanted], schema, table.name) for wanted in ("user_id", "item_id")}
    if "datetime" in found:
        columns["datetime"] = _time_column(found["datetime"], schema, table.name)
        columns["has_time"] = pl.col(found["datetime"]).is_not_null()
    if "weight" in found:
        columns["weight"] = _weight_column(found["weight"], schema)
    return table._replace(frame=table.frame.select(**columns))


def scan_items(source: Any) -> Table:
    """Items and their attributes: item_id (Int64 or String) first, then the other columns as they are.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: an unknown kind of source, a damaged file, no item_id or one of a wrong type.
    """
    table = _scan(source, "items.parquet", as_text=("item_id",))
    schema = table.frame.collect_schema()
    if "item_id" not in schema:
        raise ValueError(f"{table.name}: no column item_id; got {', '.join(schema.names())}")
    return table._replace(
        frame=table.frame.select(_id_column("item_id", schema, table.name).alias("item_id"), pl.exclude("item_id"))
    )


def collect(table: Table) -> pl.DataFrame:
    """Read the rows, batch by batch; ValueError when the file turns out to be damaged."""
    try:
        return table.frame.collect(engine="streaming")
    except UNREADABLE as error:
        raise ValueError(f"{table.name}: cannot be read ({_first_line(error)})") from None


def are_integers(ids: pl.Series, *, untyped: bool) -> bool:
    """Whether ids are int64, or text of a text file that int64 gives back to the letter: `007` and `7` are two ids."""
    return ids.dtype == pl.Int64 or (untyped and bool(ids.to_frame().select(_spell_integers(ids.name)).item()))


def are_integers_in(table: Table, column: str) -> pl.Expr:
    """The same of a column of rows still to be read."""
    integers = table.frame.collect_schema()[column] == pl.Int64
    return _spell_integers(column) if table.untyped and not integers else pl.lit(integers)


def _spell_integers(column: str) -> pl.Expr:
    ids = pl.col(column)
    return ids.eq_missing(ids.cast(pl.Int64, strict=False).cast(pl.String)).all()


def _scan(source: Any, member: str, as_text: tuple[str, ...]) -> Table:
    if isinstance(source, pl.LazyFrame | pl.DataFrame):
        return Table(source.lazy(), "the polars frame")
    if isinstance(source, str | Path):
        return _scan_path(Path(source), member, as_text)
    kind = f"{type(source).__module__.split('.')[0]}.{type(source).__name__}"
    if kind in ("pandas.DataFrame", "pyarrow.Table", "pyarrow.RecordBatch"):
        return _convert(source, f"the {kind}")
    raise ValueError(
        f"cannot read a log from {kind}; give a log folder, a .parquet or .csv path, "
        "or a pandas, polars or pyarrow table"
    )


def _convert(table: Any, name: str) -> Table:
    try:
        frame = pl.from_pandas(table) if "pandas" in name else pl.from_arrow(table)
    except (TypeError, ValueError, NotImplementedError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{name}: cannot be read ({_first_line(error)}). Give every column one type") from None
    assert isinstance(frame, pl.DataFrame)
    return Table(frame.lazy(), name)


def _scan_path(path: Path, member: str, as_text: tuple[str, ...]) -> Table:
    if path.is_dir():
        path = path / member
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; give a log folder (holding {member}) or a .parquet or .csv file"
        )
    try:
        if path.suffix in (".parquet", ".pq"):
            table = Table(pl.scan_parquet(path, glob=False), str(path))
        elif path.suffix in (".csv", ".tsv") or path.name.endswith((".csv.gz", ".tsv.gz")):
            table = Table(_scan_separated(path, as_text), str(path), untyped=True)
        else:
            raise ValueError(
                f"{path}: cannot read {path.suffix or 'a file without ending'}; allowed: .parquet .csv .tsv"
            )
        table.frame.collect_schema()
    except UNREADABLE as error:
        raise ValueError(f"{path}: damaged or not in the format of its name ({_first_line(error)})") from None
    return table


def _scan_separated(path: Path, as_text: tuple[str, ...]) -> pl.LazyFrame:
    """Text with commas or tabs; types are inferred, except of the columns `as_text`."""
    separator = "\t" if ".tsv" in path.name else ","
    found = _find(pl.scan_csv(path, separator=separator, infer_schema=False, glob=False).collect_schema().names())
    text = {found[wanted]: pl.String for wanted in as_text if wanted in found}
    return pl.scan_csv(path, separator=separator, schema_overrides=text, infer_schema_length=10_000, glob=False)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def _find(names: list[str]) -> dict[str, str]:
    """Which column is which: our name -> the source's name, case ignored, our own name before its aliases."""
    lower = {name.lower(): name for name in reversed(names)}
    found: dict[str, str] = {}
    for wanted, others in ALIASES.items():
        match = next((lower[c] for c in (wanted, *others) if c in lower), None)
        if match is not None:
            found[wanted] = match
    return found


def _id_column(column: str, schema: pl.Schema, name: str) -> pl.Expr:
    dtype = schema[column]
    if dtype.is_integer():
        return pl.col(column).cast(pl.Int64)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return pl.col(column).cast(pl.String)
    raise ValueError(f"{name}: column {column} has type {dtype}; ids are text or integers. Cast it first")


def _weight_column(column: str, schema: pl.Schema) -> pl.Expr:
    if schema[column].is_numeric() or schema[column] == pl.String:
        return pl.col(column).cast(pl.Float32, strict=False)
    return pl.lit(None, pl.Float32)


def _time_column(column: str, schema: pl.Schema, name: str) -> pl.Expr:
    time, dtype = pl.col(column), schema[column]
    if isinstance(dtype, pl.Datetime):
        time = time.cast(pl.Datetime(dtype.time_unit))  # drops the zone and keeps the instant, as UTC
    if dtype in (pl.Datetime, pl.Date):
        # clipped in its own unit, as a cast to microseconds may overflow; who reads it refuses what was clipped
        return time.clip(EARLIEST - timedelta(days=1), LATEST).cast(pl.Datetime("us"))
    if dtype == pl.String:
        return time.str.to_datetime(time_unit="us", time_zone="UTC", strict=False).dt.replace_time_zone(None)
    if dtype.is_numeric():
        # seconds, milliseconds or microseconds, told apart by size: 1e11 seconds is the year 5138, 1e11 ms is 1973;
        # in float64, as narrow integers would overflow
        ticks = time.cast(pl.Float64)
        factor = pl.when(ticks.abs() < 1e11).then(1_000_000).when(ticks.abs() < 1e14).then(1_000).otherwise(1)
        limit = 4.2e15  # the year 2103 in microseconds: beyond it a cast could overflow, and who reads it refuses it
        return (ticks * factor).clip(-limit, limit).cast(pl.Int64).cast(pl.Datetime("us"))
    raise ValueError(f"{name}: column {column} has type {dtype}; times are datetimes, ISO text or integers since 1970")
