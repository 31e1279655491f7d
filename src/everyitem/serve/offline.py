"""Recommendations for every user of a log, streamed to a parquet file in the memory of one batch."""

from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from everyitem.data.interactions import read_log
from everyitem.recommender import Recommender

USERS_PER_BATCH = 2048


class Written(NamedTuple):
    """What went into a file of recommendations."""

    users: int
    unknown_events: int
    """Events whose item the catalogue does not have."""


def recommend_to_parquet(
    recommender: Recommender,
    source: Path,
    out: Path,
    *,
    k: int = 10,
    where: str | None = None,
    exclude_seen: bool = True,
    console: Console | None = None,
) -> Written:
    """Write user_id, item_id, score, rank for every user of a log.

    The file appears under its name only when it is complete.

    Args:
        recommender: the model.
        source: a log, see `read_log`.
        out: the parquet file to write.
        k: items per user.
        where: SQL condition on the item attributes.
        exclude_seen: leave out what the history holds.
        console: shows progress.

    Returns:
        How many users got a list, and how many events were skipped.

    Raises:
        ValueError: the log or the condition is at fault; nothing is written then.
    """
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise ValueError(f"{out}: is a folder, or in none; give a .parquet file in a folder that exists")
    log = read_log(source)
    allow = None if where is None else recommender.matching(where)
    histories = log.histories.translate(recommender.positions_in(log))
    unknown = log.num_events - int(histories.lengths.sum())
    most = min(k, len(recommender.items))
    temporary = out.with_name(out.name + ".part")
    columns = (TextColumn("users"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=console is None) as bar:
        task = bar.add_task("", total=log.num_users)
        writer: pq.ParquetWriter | None = None
        for first in range(0, log.num_users, USERS_PER_BATCH):
            part = slice(first, first + USERS_PER_BATCH)
            top = recommender.rank(histories.select(part), most, exclude_seen=exclude_seen, allow=allow)
            table = recommender.table(log.user_ids[part], top).to_arrow()
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
            bar.advance(task, min(USERS_PER_BATCH, log.num_users - first))
        assert writer is not None  # a log has at least one user
        writer.close()
    temporary.replace(out)
    return Written(log.num_users, unknown)
