"""Open-loop load over keep-alive connections: requests are due at fixed times, whatever became of earlier ones.

Latency counts from when a request was due, so a server that stalls is charged for all whom it kept waiting (no
coordinated omission). Plain asyncio streams, as a client library would be slower than the server.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

HEAD = "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"


class Answer(NamedTuple):
    """One request: which body, what came back (status 0: the connection broke), seconds since it was due, and sent."""

    number: int
    status: int
    seconds: float
    service_seconds: float
    content: dict[str, Any]
    retry_after: str | None


class Connection:
    """One keep-alive connection, opened again when the server has closed it."""

    def __init__(self, port: int) -> None:
        self.port, self.reader, self.writer = port, None, None

    async def ask(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, content; raises OSError or IncompleteReadError where the connection breaks."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = HEAD.format(path=path, length=len(body))
        try:
            self.writer.write(head.encode() + body)
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            content = await self.reader.readexactly(int(headers.get("content-length", 0)))
        except BaseException:
            self.close()
            raise
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1]), headers, content

    def close(self) -> None:
        """The next request opens it again."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def open_loop(
    port: int,
    bodies: Sequence[bytes],
    rate: float,
    seconds: float,
    *,
    connections: int = 16,
    path: str = "/v1/recommend",
) -> list[Answer]:
    """Send bodies in turn, `rate` a second; a request that finds no free connection waits, on its own time."""
    start = time.perf_counter() + 0.05
    due = asyncio.Queue[int]()
    answers: list[Answer] = []

    async def ask_in_turn() -> None:
        connection = Connection(port)
        while (number := await due.get()) >= 0:
            answers.append(await _asked(connection, path, bodies, number, start + number / rate))
        connection.close()

    asking = [asyncio.ensure_future(ask_in_turn()) for _ in range(connections)]
    for number in range(int(rate * seconds)):
        wait = start + number / rate - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        due.put_nowait(number)
    for _ in asking:
        due.put_nowait(-1)
    await asyncio.gather(*asking)
    return answers


async def closed_loop(
    port: int, bodies: Sequence[bytes], seconds: float, *, connections: int = 16, path: str = "/v1/recommend"
) -> list[Answer]:
    """Every connection sends its next request when the last one was answered: what the server can do at most."""
    until, count = time.perf_counter() + seconds, iter(range(10**9))
    answers: list[Answer] = []

    async def ask_on() -> None:
        connection = Connection(port)
        while time.perf_counter() < until:
            answers.append(await _asked(connection, path, bodies, next(count), time.perf_counter()))
        connection.close()

    await asyncio.gather(*(ask_on() for _ in range(connections)))
    return answers


async def _asked(connection: Connection, path: str, bodies: Sequence[bytes], number: int, due: float) -> Answer:
    sent = time.perf_counter()
    try:
        status, headers, content = await connection.ask(path, bodies[number % len(bodies)])
    except (OSError, asyncio.IncompleteReadError):
        return Answer(number, 0, time.perf_counter() - due, time.perf_counter() - sent, {}, None)
    now = time.perf_counter()
    return Answer(number, status, now - due, now - sent, json.loads(content), headers.get("retry-after"))


class Summary(NamedTuple):
    """Milliseconds of the answers with status 200, and how many had which status."""

    per_second: float
    p50: float
    p95: float
    p99: float
    p999: float
    statuses: dict[int, int]


def summary(answers: list[Answer], seconds: float) -> Summary:
    """Percentiles over everything that was answered with 200."""
    good = np.array([answer.seconds for answer in answers if answer.status == 200] or [np.nan]) * 1e3
    p50, p95, p99, p999 = np.percentile(good, [50, 95, 99, 99.9])
    return Summary(len(good) / seconds, p50, p95, p99, p999, dict(sorted(Counter(a.status for a in answers).items())))
