"""Finds a data set's raw files and turns their lines into columns.

Knows folders, zips, gz and line numbers. Knows no data set.
"""

import ast
import gzip
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import polars as pl


@dataclass(frozen=True)
class Raw:
    """The place where a user keeps raw files: a folder, a zip, or one file.

    Compressed files are unpacked into `scratch`, so that everything downstream may scan instead of load.
    `wanted` says in words which files the data set reads and where they come from (for error messages).
    """

    where: Path
    scratch: Path
    wanted: str

    def find(self, *names: str) -> Path:
        """The first of `names` that is there, as itself, as .gz or inside a zip; unpacked.

        Raises:
            FileNotFoundError: none of them is there; the message says what is expected and from which page.
        """
        for name in names:
            for path in self._places():
                if found := self._unpack(path, name):
                    return found
        raise FileNotFoundError(
            f"{self.where}: no {' or '.join(names)} (also looked for .gz and in zips). {self.wanted}"
        )

    def _places(self) -> list[Path]:
        if not self.where.exists():
            raise FileNotFoundError(f"{self.where}: no such file or folder. {self.wanted}")
        if self.where.is_file():
            return [self.where]
        files = (path for path in self.where.rglob("*") if path.is_file())
        return sorted(files, key=lambda path: (path.suffix == ".zip", len(path.parts), path))

    def _unpack(self, path: Path, name: str) -> Path | None:
        try:
            if path.name == name:
                return path
            if path.name == name + ".gz":
                return self._copy(gzip.open(path), name)
            return self._from_zip(path, name) if path.suffix == ".zip" else None
        except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: damaged ({error}). Download it again. {self.wanted}") from None

    def _from_zip(self, path: Path, name: str) -> Path | None:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                base = member.filename.rsplit("/", 1)[-1]
                if base == name:
                    return self._copy(archive.open(member), name)
                if base == name + ".gz":
                    return self._copy(gzip.open(archive.open(member)), name)
        return None

    def _copy(self, stream: Any, name: str) -> Path:
        with stream, open(self.scratch / name, "wb") as target:
            shutil.copyfileobj(stream, target)
        return self.scratch / name


def header(path: Path, separator: str) -> list[str]:
    """The column names in the first line."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        return lines.readline().strip().split(separator)


def split_lines(path: Path, separator: str, columns: list[str], *, skip: int = 0) -> pl.LazyFrame:
    """Lines as text columns, without any quoting rule, plus `line` (1 is the first). No blank lines.

    A line with too few or too many fields has nulls in all columns; `collect` then names it.
    """
    text = pl.scan_csv(
        path,
        glob=False,
        has_header=False,
        skip_lines=skip,
        new_columns=["text"],
        separator="\x1e",  # a byte that no line holds: the whole line is one column
        quote_char=None,
        infer_schema=False,
        row_index_name="line",
        row_index_offset=1 + skip,
    )
    fields = pl.col("text").str.strip_chars_end("\r").str.split_exact(separator, len(columns))
    names = [*columns, "beyond"]
    rows = text.filter(pl.col("text").is_not_null()).select("line", fields.struct.rename_fields(names).struct.unnest())
    whole = pl.col(columns[-1]).is_not_null() & pl.col("beyond").is_null()
    return rows.select("line", *(pl.when(whole).then(pl.col(column)).alias(column) for column in columns))


def table(path: Path, needed: Mapping[str, str], separator: str = ",") -> pl.LazyFrame:
    """A separated file with a header line: the `needed` columns (file's name to ours) as text, plus `line`.

    Raises:
        ValueError: the header lacks one of them.
    """
    columns = header(path, separator)
    if missing := [column for column in needed if column not in columns]:
        raise ValueError(
            f"{path}, line 1: no column {', '.join(missing)}; got {', '.join(columns)[:200]}. "
            f"The official file begins with a line of column names; do not edit it"
        )
    rows = split_lines(path, separator, [column or "index" for column in columns], skip=1)
    return rows.select("line", *(pl.col(column).alias(ours) for column, ours in needed.items()))


def json_lines(path: Path, schema: Mapping[str, Any]) -> pl.LazyFrame:
    """One JSON object a line: the columns of `schema`, null where a line has no such key, plus `line`."""
    rows = pl.scan_ndjson(path, schema=dict(schema), row_index_name="line", row_index_offset=1)
    return rows.with_columns(pl.col("line").cast(pl.UInt32))


def literal_lines(path: Path, keys: list[str], *, chunk: int = 100_000) -> pl.DataFrame:
    """One Python dictionary a line (what `ast.literal_eval` reads: nothing is executed): `keys` as text, plus `line`.

    Cost: one core, about 30,000 lines a second.
    """
    with open(path, encoding="utf-8") as file:
        rows = _literals(file, path, keys)
        schema = {"line": pl.UInt32} | dict.fromkeys(keys, pl.String)
        chunks = [pl.DataFrame(schema=schema)]
        while part := list(islice(rows, chunk)):
            chunks.append(pl.DataFrame(part, schema=schema, orient="row"))
    return pl.concat(chunks)


def _literals(lines: Iterator[str], path: Path, keys: list[str]) -> Iterator[tuple[Any, ...]]:
    for number, line in enumerate(lines, 1):
        try:
            row = ast.literal_eval(line)
            yield number, *(None if row.get(key) is None else str(row[key]) for key in keys)
        except (ValueError, SyntaxError, AttributeError, MemoryError, RecursionError):
            _refuse_line(path, number, "a Python dictionary")


def collect(
    frame: pl.LazyFrame, path: Path, form: str, *, required: tuple[str, ...] = ("user_id", "item_id", "datetime")
) -> pl.DataFrame:
    """Run a scan and refuse the first line of which a required column could not be read.

    Args:
        frame: `line`, the required columns, and whatever else.
        path: the file behind it.
        form: what a line looks like, for the message.
        required: columns that no line may lack.

    Raises:
        ValueError: file and line.
    """
    try:
        rows = frame.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        _refuse_broken(path, form, error)
    bad = rows.filter(pl.any_horizontal(pl.col(required).is_null()))["line"].sort()
    if len(bad):
        _refuse_line(path, bad[0], form)
    return rows


def _refuse_broken(path: Path, form: str, error: Exception) -> NoReturn:
    """A scan failed without naming a line: find the first that its format forbids."""
    readable: Callable[[str], Any] = _json_object if ".json" in path.name else str
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                readable(line.decode())
            except ValueError:
                _refuse_line(path, number, form)
    raise ValueError(f"{path}: cannot be read ({str(error).splitlines()[0][:200]}). Download it again")


def _json_object(text: str) -> None:
    if not isinstance(json.loads(text), dict):
        raise ValueError


def _refuse_line(path: Path, number: int, form: str) -> NoReturn:
    with open(path, encoding="utf-8", errors="replace") as lines:
        text = next(islice(lines, number - 1, None), "").strip()
    raise ValueError(f"{path}, line {number}: got {text[:120]!r}; a line is {form}. Download the file again")
