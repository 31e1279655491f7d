"""Writes log folders: `interactions.parquet` and `items.parquet`, both or neither. Knows no data set."""

import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

import polars as pl

MEMBERS = ("interactions.parquet", "items.parquet")


def write_log(folder: str | Path, interactions: Iterable[pl.DataFrame], items: Iterable[pl.DataFrame]) -> Path:
    """Write a log folder at once: readers see the old one or the new one, never a part.

    The tables are written beside the folder, flushed to disk, and renamed into place. A crash between the two renames
    of a replacement leaves the old log beside it under a hidden name, and nothing half-written anywhere.

    Args:
        folder: to be made, empty, or an older log folder, which is replaced.
        interactions: one or more frames in the order of the rows: user_id, item_id, datetime[, weight].
        items: one or more frames in the order of positions: item_id, attributes.

    Raises:
        ValueError: the folder holds something else than a log.

    Cost: memory for one frame at a time; where there are several, twice the table on disk.
    """
    folder = Path(folder).absolute()
    refuse_other_content(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    fresh.mkdir()
    try:
        for name, frames in zip(MEMBERS, (interactions, items), strict=True):
            _write_parquet(fresh / name, frames)
        _put_in_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def refuse_other_content(folder: Path) -> None:
    """Raise ValueError unless `folder` is missing, empty, or a log folder."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder}: is a file; a log is a folder. Choose another name")
    others = sorted(path.name for path in folder.iterdir() if path.name not in MEMBERS)
    if others:
        raise ValueError(
            f"{folder}: not a log folder, as it holds {', '.join(others[:3])}; it is not overwritten. "
            f"Choose another folder, or empty this one"
        )


def _write_parquet(path: Path, frames: Iterable[pl.DataFrame]) -> None:
    parts = []
    for number, frame in enumerate(frames):
        parts.append(path.with_suffix(f".{number}"))
        frame.write_parquet(parts[-1])
    assert parts, "at least one frame, even an empty one, gives the columns"
    if len(parts) == 1:
        os.rename(parts[0], path)
    else:
        pl.scan_parquet(parts, glob=False).sink_parquet(path)
        for part in parts:
            part.unlink()
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _put_in_place(fresh: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(fresh, folder)
        return
    old = fresh.with_name(fresh.name + ".old")
    os.rename(folder, old)
    try:
        os.rename(fresh, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old)
