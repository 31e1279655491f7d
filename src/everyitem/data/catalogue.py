"""The table of a catalogue: item_id and attributes, row i for position i. Knows no events, model or index."""

import re
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everyitem.data.columns import UNREADABLE

FEW_VALUES = 50
"""Distinct texts of a column that a person can choose from."""
# polars would open the files and addresses that a condition's subquery names, before it refuses the subquery
SUBQUERY = re.compile(r"\(\s*(select|values)\b|from\b.*read_", re.IGNORECASE | re.DOTALL)
QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
OTHER_QUOTES = re.compile(r"[\\$`]")
"""Where these are, texts may begin and end elsewhere (E'\\'', $$'$$), so all of the condition is looked at."""
REFUSED = re.compile(r"\|\||--|/\*|(\w+|\")\s*\(")
"""What makes texts longer, so that a short condition can need all the memory there is; comments; what is called."""
FUNCTIONS = {
    *("and", "or", "not", "in", "is", "between", "like", "ilike", "case", "when", "then", "else", "any"),  # look called
    *("abs", "ceil", "ceiling", "floor", "round", "sign", "sqrt", "ln", "log", "exp", "pow", "power", "mod", "div"),
    *("greatest", "least", "coalesce", "nullif", "ifnull", "if", "min", "max", "avg", "sum", "count", "median"),
    *("lower", "upper", "length", "char_length", "octet_length", "left", "right", "substr", "substring", "strpos"),
    *("starts_with", "ends_with", "trim", "ltrim", "rtrim", "regexp_like", "array_contains", "array_length"),
    *("cast", "try_cast", "varchar", "char", "decimal", "numeric", "extract", "date_part", "date"),
}


def matching(items: pl.DataFrame, where: str) -> NDArray[np.bool_]:
    """(I,) bool: the items for which an SQL condition on the columns is true; null counts as false.

    Raises:
        ValueError: the condition is not SQL, names an unknown column, is not true/false, has a subquery, or calls what
            is not in `FUNCTIONS`.
    """
    columns = f"Columns: {', '.join(items.columns)}"
    try:
        _refuse_unsafe(where)
        mask = items.select(pl.sql_expr(where).alias("where"))["where"]
    except (*UNREADABLE, ValueError) as error:
        problem = _first_line(error).split("; valid columns")[0]  # polars lists them in its own way
        raise ValueError(f"where={where!r}: {problem}. {columns}") from None
    if mask.dtype != pl.Boolean or len(mask) not in (1, len(items)):
        raise ValueError(
            f"where={where!r} gives {mask.dtype}, not true or false per item; compare a column with a value. {columns}"
        )
    return np.array(np.broadcast_to(mask.fill_null(False).to_numpy(), len(items)))


def described(items: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Per column its type and, where there are any, least and most of its numbers or the values of a text with few."""
    return {name: {"type": str(dtype)} | _range(items[name]) for name, dtype in items.schema.items()}


def _range(column: pl.Series) -> dict[str, Any]:
    if column.dtype.is_numeric():
        finite = column.cast(pl.Float64).replace([np.inf, -np.inf, np.nan], None)
        return {"least": finite.min(), "most": finite.max()}
    if column.dtype == pl.String:
        for part in (column.head(FEW_VALUES**2), column):  # most columns of many values show it early
            values = part.drop_nulls().unique()
            if len(values) > FEW_VALUES:
                return {}
        return {"values": values.sort().to_list()}
    return {}


def _refuse_unsafe(where: str) -> None:
    if SUBQUERY.search(where):
        raise ValueError("a condition on the columns is needed, without subqueries")
    outside = where if OTHER_QUOTES.search(where) else QUOTED.sub(lambda quoted: quoted[0][0], where)
    for found in REFUSED.finditer(outside):
        if found[1] is None or found[1].lower() not in FUNCTIONS:
            offered = ", ".join(sorted(FUNCTIONS))
            raise ValueError(f"{found[1] or found[0]} is not offered in a condition; of functions there are {offered}")


def ids_as(dtype: pl.DataType, ids: pl.Series | list[Any]) -> pl.Series:
    """Ids as a series of the catalogue's type.

    Raises:
        ValueError: they are of another type.
    """
    try:
        if not isinstance(ids, pl.Series):
            return pl.Series(ids, dtype=dtype)
        found = ids.cast(pl.Int64) if ids.dtype.is_integer() else ids
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"item ids are {dtype} in this model; {_first_line(error)}. Convert them") from None
    if found.dtype != dtype:
        raise ValueError(f"item ids are {dtype} in this model, got {found.dtype}; convert them")
    return found


def read_as(dtype: pl.DataType, ids: pl.Series) -> pl.Series:
    """A log's ids in the type of a catalogue: integers as they are written in digits, text as the integer it spells.

    Null where text spells none. `007` and `7` are two texts, but one integer.
    """
    return ids.cast(dtype, strict=False)


def extended(items: pl.DataFrame, new: pl.DataFrame, *, given: dict[str, Any]) -> pl.DataFrame:
    """The catalogue with new items at its end: their known attributes in the catalogue's types, the others null.

    Args:
        items: the catalogue.
        new: item_id and any attributes; unknown ones are left out.
        given: columns that new items have this value in, whatever `new` says.

    Raises:
        ValueError: an id that is null, there already or given twice, or an attribute of another type.
    """
    if "item_id" not in new.columns:
        raise ValueError(f"new items need a column item_id; got {', '.join(new.columns)}")
    known = {name: dtype for name, dtype in items.schema.items() if name in new.columns and name not in given}
    try:
        rows = new.select(pl.col(name).cast(dtype) for name, dtype in known.items())
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"the new items do not have the catalogue's types ({_first_line(error)})") from None
    rows = rows.with_columns(pl.lit(value, items.schema[name]).alias(name) for name, value in given.items())
    ids = rows["item_id"]
    if ids.null_count() or ids.n_unique() < len(ids) or ids.is_in(items["item_id"].implode()).any():
        raise ValueError("an item_id is null, given twice or already in the catalogue; ids must be new and unique")
    return pl.concat([items, rows], how="diagonal", rechunk=True)  # a thousand changes are not a thousand pieces


def updated(items: pl.DataFrame, changed: pl.DataFrame, *, kept: list[str]) -> pl.DataFrame:
    """The catalogue with other attributes for some of its items, in the same order.

    Args:
        items: the catalogue.
        changed: item_id and the attributes to replace, null included; unknown ones are left out.
        kept: columns that never change.

    Raises:
        ValueError: an id that is unknown or given twice, or an attribute of another type.
    """
    names = [name for name in items.columns if name in changed.columns and name not in (*kept, "item_id")]
    try:
        rows = changed.select(pl.col(name).cast(items.schema[name]) for name in ("item_id", *names))
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"the items do not have the catalogue's types ({_first_line(error)})") from None
    if rows["item_id"].n_unique() < len(rows) or not rows["item_id"].is_in(items["item_id"].implode()).all():
        raise ValueError("an item_id is given twice or not in the catalogue; update items that are there, once each")
    return items.update(rows, on="item_id", how="left", include_nulls=True) if names else items


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
