"""Recommendations for every user of a log, in one parquet file: on all cores, in bounded memory, past any kill.

    out.parquet.parts/job.json            what is being done: model, log, options; another job never uses these files
    out.parquet.parts/000007/0003.parquet the fourth slice of users of part 7 of the log
    out.parquet.parts/000007.json         part 7 is complete, and what it holds
    out.parquet                           appears when all of it is there

The log is cut between users into parts (`data/parts.py`), a part into slices of users, in order. A slice is what one
thread answers, so its rows do not depend on how many there are; a run that goes on where another was killed ends with
the same bytes. Torch-free. Who runs the parts of a job, here or elsewhere, is the caller's choice: see `cluster.py`.
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from everyitem.data.parts import Cut, Part, cut_log, digest, item_ids_in, read_part
from everyitem.index.door import count, num_threads
from everyitem.index.files import killpoint, sync, write_synced
from everyitem.recommender import Recommender, load
from everyitem.types import Histories

USERS_PER_SLICE = 4096
USERS_PER_BATCH = 1024
"""Answered at once: more fill the caches with score tables, fewer leave the encoder small groups."""
EVENTS_PER_PART = 1 << 22
ROWS_PER_GROUP = 1 << 20
"""Of the file that comes out."""


class Written(NamedTuple):
    """What went into a file of recommendations."""

    users: int
    unknown_events: int
    """Events whose item the catalogue does not have."""


@dataclass(frozen=True)
class Job:
    """Everything that decides the bytes of the result; written down, so that other processes can do its parts."""

    model: str
    source: str
    out: str
    k: int
    where: str | None
    exclude_seen: bool
    made_of: dict[str, Any]
    """Digests of model and log, versions of the programs, sizes of parts and slices."""
    cut: Cut

    @property
    def folder(self) -> Path:
        """Where the parts are kept until the file is there."""
        return Path(self.out + ".parts")

    def part(self, number: int) -> Path:
        """The folder of a part's slices."""
        return self.folder / f"{number:06d}"

    def done(self, number: int) -> Path:
        """The file that says that a part is complete."""
        return self.folder / f"{number:06d}.json"

    def missing(self) -> list[int]:
        """Parts that are still to be done."""
        return [number for number in range(self.cut.num_parts) if not self.done(number).is_file()]

    def facts(self) -> list[dict[str, int]]:
        """What the complete parts hold, in order."""
        done = set(range(self.cut.num_parts)) - set(self.missing())
        return [json.loads(self.done(number).read_text()) for number in sorted(done)]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `job.json`."""
        return asdict(self) | {"cut": self.cut._asdict()}


def recommend_to_parquet(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    k: int = 10,
    where: str | None = None,
    exclude_seen: bool = True,
    threads: int | None = None,
    console: Console | None = None,
) -> Written:
    """Write user_id, item_id, score, rank for every user of a log, in the sorted order of user ids.

    The file appears under its name only when it is complete. Killed at any time and called again with the same
    arguments, it goes on with the slice of users where it was, and ends with the same bytes (on the same kind of CPU).

    Args:
        model: a model folder.
        source: a log folder, .parquet or .csv file, see `read_log`.
        out: the parquet file to write; its parts are kept in `<out>.parts` meanwhile.
        k: items per user.
        where: SQL condition on the item attributes.
        exclude_seen: leave out what the history holds.
        threads: cores to use; None: all that this process may use.
        console: shows progress.

    Returns:
        How many users got a list, and how many events were skipped.

    Raises:
        FileNotFoundError, ValueError: the model, the log or an option is at fault; nothing is written then.
        BlockingIOError: another process is writing the same file.

    Cost: the log is read once to be checked, once for its digest, twice to be cut, and once per 4 million events.
    Memory: the model, 60 bytes for each of 4 million events, and 4,096 lists per thread, however long the log is.
    """
    threads = num_threads(threads)
    with opened_job(model, source, out, k=k, where=where, exclude_seen=exclude_seen) as job:
        worker = Worker(job)
        with progress(job, console) as advance:
            for number in job.missing():
                worker.do(number, threads, advance)
        return finish(job)


@contextlib.contextmanager
def opened_job(model: str | Path, source: str | Path, out: str | Path, **options: Any) -> Iterator[Job]:
    """The job of these arguments, new or as far as an earlier run came; nobody else works on it meanwhile.

    `options` and errors are those of `recommend_to_parquet`.
    """
    job = _planned(Path(model), Path(source), Path(out), **options)
    job.folder.mkdir(exist_ok=True)
    with (job.folder / "LOCK").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{job.out}: another process is writing it; wait until it has finished"
            raise BlockingIOError(error.errno, message) from None
        _clear_unless_same(job)
        _write(job.folder / "job.json", json.dumps(job.to_json(), indent=1).encode())
        yield job


def read_job(path: str | Path) -> Job:
    """What `opened_job` wrote, for another process that does some of its parts."""
    stored = json.loads(Path(path).read_text())
    return Job(**stored | {"cut": Cut(**stored["cut"])})


def _planned(model: Path, source: Path, out: Path, *, k: int, where: str | None, exclude_seen: bool) -> Job:
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise ValueError(f"{out}: is a folder, or in none; give a .parquet file in a folder that exists")
    recommender = load(model)
    k = min(count(k, "k"), len(recommender.items))
    if where is not None:
        recommender.matching(where)  # refuses what cannot be evaluated
    recommender.positions_in(item_ids_in(source))  # refuses a log of other ids
    made_of = {
        "model": _fingerprint(recommender),
        "log": digest(source),
        "versions": {name: version(name) for name in ("everyitem", "onnxruntime", "pyarrow")},
        "sizes": [USERS_PER_SLICE, USERS_PER_BATCH, EVENTS_PER_PART, ROWS_PER_GROUP],
    }
    cut = cut_log(source, EVENTS_PER_PART)
    model, source, out = (path.absolute() for path in (model, source, out))
    return Job(str(model), str(source), str(out), k, where, exclude_seen, made_of, cut)


def _fingerprint(recommender: Recommender) -> str:
    """Of everything in the model's folder that answers."""
    own: str = recommender.metadata["fingerprints"]["recommender.json"]
    return own


def _clear_unless_same(job: Job) -> None:
    """Keep what an earlier run of the same job left, wherever model and log were; delete the parts of any other job."""
    path = job.folder / "job.json"
    there = [name for name in job.folder.iterdir() if name.name != "LOCK"]
    if path.is_file():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            before, now = read_job(path).to_json(), json.loads(json.dumps(job.to_json()))
            if all(before[name] == now[name] for name in now if name not in ("model", "source", "out")):
                return
    elif there:
        raise ValueError(
            f"{job.folder}: holds files that are not of an earlier run; move them, or write to another file"
        )
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class Worker:
    """What a process needs to do parts of a job: the model, opened once."""

    def __init__(self, job: Job) -> None:
        self.job, self.recommender = job, load(job.model)
        if _fingerprint(self.recommender) != job.made_of["model"]:
            raise ValueError(f"{job.model}: changed since this run began; start the command again")
        self._allow = None if job.where is None else self.recommender.matching(job.where)

    def do(self, number: int, threads: int, advance: Callable[[int, int], None] | None = None) -> dict[str, int]:
        """Answer the users of one part, on so many threads, and leave its slices and the file that says so.

        Args:
            number: of the part.
            threads: at most.
            advance: is told after every slice how many users it had, and their share of the part's events.

        Returns:
            What the part holds: slices, users, events, unknown_events.
        """
        part = read_part(self.job.source, self.job.cut, number, self.recommender.items["item_id"])
        self.job.part(number).mkdir(exist_ok=True)
        slices = range(-(-len(part.user_ids) // self.job.made_of["sizes"][0]))
        with ThreadPoolExecutor(threads) as pool:
            for users in pool.map(lambda index: self._slice(part, number, index), slices):
                if advance is not None:
                    advance(users, part.num_events * users // len(part.user_ids))
        facts = {"slices": len(slices), "users": len(part.user_ids), "events": part.num_events}
        facts |= {"unknown_events": part.unknown_events}
        _write(self.job.done(number), json.dumps(facts).encode())
        killpoint(f"after-part-{number}")
        return facts

    def _slice(self, part: Part, number: int, index: int) -> int:
        """Write one slice unless it is there; the number of its users."""
        size = self.job.made_of["sizes"][0]
        rows = slice(index * size, (index + 1) * size)
        users, path = part.user_ids[rows], self.job.part(number) / f"{index:04d}.parquet"
        if not path.is_file():
            histories = part.histories.select(rows)
            batches = [slice(first, first + USERS_PER_BATCH) for first in range(0, len(users), USERS_PER_BATCH)]
            frames = [self._answered(users[batch], histories.select(batch)) for batch in batches]
            new = path.with_suffix(".new")
            pl.concat(frames).write_parquet(new)
            sync(new)
            new.replace(path)
            killpoint(f"after-slice-{number}-{index}")
        return len(users)

    def _answered(self, users: pl.Series, histories: Histories) -> pl.DataFrame:
        """One thread's work: user_id, item_id, score, rank."""
        job = self.job
        top = self.recommender.rank(histories, job.k, exclude_seen=job.exclude_seen, allow=self._allow, threads=1)
        return self.recommender.table(users, top)


def finish(job: Job) -> Written:
    """Put the parts of a job of which nothing is missing together under its name, and delete them."""
    facts = job.facts()
    slices = [
        job.part(number) / f"{index:04d}.parquet"
        for number, fact in enumerate(facts)
        for index in range(fact["slices"])
    ]
    result = job.folder / "result.parquet"
    with pq.ParquetWriter(result, pq.read_schema(slices[0])) as writer:
        for table in _grouped(slices):
            writer.write_table(table)
    sync(result)
    killpoint("before-result")
    result.replace(job.out)
    sync(Path(job.out).parent)
    killpoint("after-result")
    shutil.rmtree(job.folder)
    return Written(sum(fact["users"] for fact in facts), sum(fact["unknown_events"] for fact in facts))


def _grouped(slices: list[Path]) -> Iterator[pa.Table]:
    """The rows of the slices, in groups of about a million."""
    waiting: list[pa.Table] = []
    for path in slices:
        waiting.append(pq.read_table(path))
        if sum(map(len, waiting)) >= ROWS_PER_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _write(path: Path, content: bytes) -> None:
    """Replace a file all at once."""
    new = path.with_suffix(".new")
    write_synced(new, content)
    new.replace(path)
    sync(path.parent)


@contextlib.contextmanager
def progress(job: Job, console: Console | None) -> Iterator[Callable[[int, int], None]]:
    """A bar over the events of the log, from where an earlier run stopped; gives what to tell (users, events) done."""
    columns = (BarColumn(), TextColumn("{task.percentage:.0f} %"), TextColumn("{task.fields[users]:,} users"))
    times = (TextColumn("{task.fields[rate]:,.0f} users/s"), TimeElapsedColumn(), TimeRemainingColumn())
    before = {name: sum(fact[name] for fact in job.facts()) for name in ("users", "events")}
    if before["users"] and console is not None:
        console.print(f"going on after {before['users']:,} users, which an earlier run has done")
    with Progress(*columns, *times, console=console, disable=console is None) as bar:
        task = bar.add_task("", total=job.cut.num_events, completed=before["events"], users=before["users"], rate=0.0)
        now = bar.tasks[task]

        def advance(users: int, events: int) -> None:
            users += now.fields["users"]
            rate = (users - before["users"]) / max(now.elapsed or 0, 1e-3)
            bar.update(task, advance=events, users=users, rate=rate)

        yield advance
