"""One process of a server: `python -m everyitem.serve.worker SOCKET`, started by `supervisor.py`. Knows no routes."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from everyitem.serve.guard import MAX_HEADERS
from everyitem.serve.history import Unavailable, open_history
from everyitem.serve.http import create_app
from everyitem.serve.live import LiveModel
from everyitem.serve.service import Service

KEEP_ALIVE_SECONDS = 5
SWITCH_SECONDS = 0.0005
"""How long the thread that answers may keep the interpreter from the one that takes requests; Python's own is 5 ms."""
HEADER_SECONDS = 10.0
"""A connection that has not sent all headers of a request by then is closed."""
LAST_CALLS_SECONDS = 1.0
"""After SIGTERM open connections are still answered for so long, and closed after the answer; then idle ones are."""


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    sys.setswitchinterval(SWITCH_SECONDS)
    _log_as_json()
    settings = json.loads(sys.stdin.readline())
    try:
        service = _service(settings)
    except (ValueError, FileNotFoundError, Unavailable) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    hosts = settings["hosts"]
    app = create_app(
        service,
        api_key=settings["api_key"],
        admin_key=settings["admin_key"],
        hosts=None if hosts is None else tuple(hosts),
    )
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings["drain_seconds"],
    )
    server = uvicorn.Server(config)
    listener = socket.socket(fileno=int(sys.argv[1]))
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(server, service, listener))
    return 0


def _service(settings: dict[str, Any]) -> Service:
    history = open_history(settings["history"], ttl=settings["ttl"])
    live = LiveModel(Path(settings["model"]), announce=_tell_supervisor)
    salt = bytes.fromhex(settings["salt"])
    return Service(live, history, salt=salt, most_seconds=settings["most_seconds"])


def _tell_supervisor() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(os.getppid(), signal.SIGHUP)


async def _serve(server: uvicorn.Server, service: Service, listener: socket.socket) -> None:
    """uvicorn's life, with our signals: it would close connections that are about to be used."""
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: loop.create_task(_drain(server, service)))
        loop.add_signal_handler(signal.SIGHUP, service.live.wake)
        threading.Thread(target=_end_with_supervisor, daemon=True).start()
        print(service.version.name, flush=True)
    await serving


async def _drain(server: uvicorn.Server, service: Service) -> None:
    """Take no new connections, answer what comes over the open ones and close each after it, then end."""
    if service.draining:
        server.should_exit = server.force_exit = True
        return
    service.draining = True
    for listening in server.servers:
        listening.close()
    until = time.monotonic() + LAST_CALLS_SECONDS
    while server.server_state.connections and time.monotonic() < until:
        await asyncio.sleep(0.02)
    server.should_exit = True


def _end_with_supervisor() -> None:
    """The supervisor holds our input open; when it is gone, so are we."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a bound on the bytes and the time of a request's headers, which it does not have."""

    _clock: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_headers = True

    def connection_made(self, transport: Any) -> None:
        """The first request is expected at once."""
        super().connection_made(transport)
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Bytes count until the headers are complete."""
        if self._in_headers:
            self._start_clock()
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > MAX_HEADERS and not self.transport.is_closing():
            self.send_400_response(f"The headers of a request may have {MAX_HEADERS} bytes.")

    def on_headers_complete(self) -> None:
        """A request has arrived."""
        self._in_headers = False
        self._stop_clock()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What comes next are headers again."""
        super().on_message_complete()
        self._in_headers, self._header_bytes = True, 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is expected any more."""
        self._stop_clock()
        super().connection_lost(exc)

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock = None


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        said = {"time": record.created, "level": record.levelname.lower(), "worker": os.getpid()}
        said |= {"message": record.getMessage()} | getattr(record, "fields", {})
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(said, default=str).decode()


def _log_as_json() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("everyitem.serve", "everyitem.access"):
        logging.getLogger(name).setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
