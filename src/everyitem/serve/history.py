"""What users did lately: SQLite beside the server, or Redis (Valkey) for several of them. Knows no model and no HTTP.

A store keeps a window of the newest events of every user, in the order in which they came; the log of record is
elsewhere. Times are those of the server, and serve `ttl` alone: an event older than that is neither returned nor kept.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson

ItemId = str | int
KEPT = 1000
"""Newest events kept of a user."""
SWEEP_SECONDS = 600.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, item NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS by_user ON events (user, seq);
"""


class Unavailable(Exception):
    """The store does not answer, or cannot write."""


class History(Protocol):
    """Four methods; both stores pass the same tests (`tests/serve/test_history.py`)."""

    def append(self, events: Sequence[tuple[str, ItemId]]) -> None:
        """Add (user, item) events, oldest first. When it returns, they survive the death of this process."""
        ...

    def last(self, user: str, count: int) -> list[ItemId]:
        """The user's newest `count` items, oldest first; ids keep their type."""
        ...

    def erase(self, user: str) -> int:
        """Forget a user; the number of events that were there."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


def open_history(where: str, *, ttl: float | None = None) -> History:
    """A store by its address: `redis://`, `rediss://` or `valkey://` URLs, anything else is a SQLite file.

    Args:
        where: the address.
        ttl: seconds after which an event is forgotten; None: never.

    Raises:
        Unavailable: it cannot be opened.
    """
    if where.startswith(("redis://", "rediss://", "valkey://")):
        return RedisHistory(where, ttl=ttl)
    if "://" in where:
        raise ValueError(f"history is {where!r}, but it must be the path of a SQLite file or a redis:// URL")
    return SqliteHistory(Path(where), ttl=ttl)


class SqliteHistory:
    """Events in one SQLite file, in WAL mode with a sync per transaction: also a power cut loses nothing acknowledged.

    Several processes may share it. Erasing overwrites the content (`secure_delete`) and empties the log file.
    """

    def __init__(self, path: Path, *, ttl: float | None = None) -> None:
        self._ttl, self._swept = ttl, 0.0
        self._writing, self._reading = threading.Lock(), threading.Lock()
        try:
            self._writer, self._reader = self._connect(path), self._connect(path)
            with self._writer:
                self._writer.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise Unavailable(
                f"{path}: cannot be used as history ({error}); give a SQLite file in a folder that exists"
            ) from None

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=5, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def append(self, events: Sequence[tuple[str, ItemId]]) -> None:
        """See `History`; one transaction."""
        now = time.time()
        rows = [(user, item, now) for user, item in events]
        trim = (
            "DELETE FROM events WHERE user = ?1 AND seq <= "
            "(SELECT seq FROM events WHERE user = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)"
        )
        with self._writing, _sqlite_errors(), self._writer:
            self._writer.executemany("INSERT INTO events (user, item, at) VALUES (?, ?, ?)", rows)
            self._writer.executemany(trim, [(user, KEPT) for user in {user for user, _ in events}])
            self._sweep(now)

    def last(self, user: str, count: int) -> list[ItemId]:
        """See `History`."""
        query = "SELECT item FROM events WHERE user = ? AND at >= ? ORDER BY seq DESC LIMIT ?"
        with self._reading, _sqlite_errors():
            rows = self._reader.execute(query, (user, self._oldest(time.time()), count)).fetchall()
        return [item for (item,) in reversed(rows)]

    def erase(self, user: str) -> int:
        """See `History`."""
        with self._writing, _sqlite_errors():
            with self._writer:
                erased = self._writer.execute("DELETE FROM events WHERE user = ?", (user,)).rowcount
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return erased

    def close(self) -> None:
        """See `History`."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def _oldest(self, now: float) -> float:
        return 0.0 if self._ttl is None else now - self._ttl

    def _sweep(self, now: float) -> None:
        """Delete what has expired, now and then: events lie in the order of time, so only those are read."""
        if self._ttl is None or now < self._swept + min(SWEEP_SECONDS, self._ttl):
            return
        self._swept = now
        fresh = "SELECT seq FROM events WHERE at >= ? ORDER BY seq LIMIT 1"
        self._writer.execute(f"DELETE FROM events WHERE seq < ({fresh})", (self._oldest(now),))


class RedisHistory:
    """A list per user in Redis or Valkey; append, trim and expiry are one transaction.

    What survives a crash of the Redis server is its own setting (`appendfsync always` for every acknowledged event).
    """

    def __init__(self, url: str, *, ttl: float | None = None) -> None:
        import redis

        self._ttl, self._errors = ttl, redis.RedisError
        try:
            self._redis: Any = redis.Redis.from_url(
                url.replace("valkey://", "redis://", 1), socket_timeout=1.0, socket_connect_timeout=1.0
            )
            self._redis.ping()
        except (redis.RedisError, ValueError) as error:
            raise Unavailable(
                f"the history store does not answer ({type(error).__name__}); is its URL right?"
            ) from None

    def append(self, events: Sequence[tuple[str, ItemId]]) -> None:
        """See `History`."""
        now = time.time()
        by_user: dict[str, list[bytes]] = {}
        for user, item in events:
            by_user.setdefault(user, []).append(orjson.dumps([now, item]))

        def send() -> None:
            pipeline = self._redis.pipeline(transaction=True)
            for user, entries in by_user.items():
                pipeline.rpush(_key(user), *entries)
                pipeline.ltrim(_key(user), -KEPT, -1)
                if self._ttl is not None:
                    pipeline.pexpire(_key(user), max(1, int(self._ttl * 1000)))
            pipeline.execute()

        self._asked(send)

    def last(self, user: str, count: int) -> list[ItemId]:
        """See `History`."""
        oldest = 0.0 if self._ttl is None else time.time() - self._ttl
        entries = [orjson.loads(entry) for entry in self._asked(self._redis.lrange, _key(user), -count, -1)]
        return [item for at, item in entries if at >= oldest]

    def erase(self, user: str) -> int:
        """See `History`."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.llen(_key(user)).delete(_key(user))
        return int(self._asked(pipeline.execute)[0])

    def close(self) -> None:
        """See `History`."""
        self._redis.close()

    def _asked(self, command: Any, *arguments: Any) -> Any:
        try:
            return command(*arguments)
        except self._errors as error:
            raise Unavailable(f"the history store does not answer ({type(error).__name__})") from None


def _key(user: str) -> str:
    return f"everyitem:history:{user}"


@contextlib.contextmanager
def _sqlite_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable(f"the history store does not answer ({error})") from None
