"""Keeps the workers of a server alive on one socket. Standard library only; knows no model and no HTTP.

A worker is a fresh process, `python -m everyitem.serve.worker`: it inherits the listening socket, reads its settings
from its standard input, and writes one line when it serves. Its input stays open as long as the supervisor lives.
"""

import importlib.util
import ipaddress
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MIN_KEY = 32
"""Characters of a key, at least."""
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LASTED_SECONDS = 10.0
"""A worker that lasted so long is replaced at once when it dies."""
PAUSES = (0.0, 0.5, 1.0, 2.0)
"""Seconds before a worker that dies early is replaced: first, second, ... time."""
NEEDS = {"fastapi", "uvicorn", "orjson", "prometheus_client"}


def serve(
    model: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    history: str | None = None,
    history_days: float = 90.0,
    api_key_file: Path | None = None,
    admin_key_file: Path | None = None,
    insecure: bool = False,
    allowed_hosts: str = "",
    max_wait_ms: float = 40.0,
    drain_seconds: float = 10.0,
) -> int:
    """Serve a model over HTTP until SIGTERM or SIGINT; see `serve/http.py` for the routes.

    A new version in the model folder is served without a restart (SIGHUP: look now). SIGTERM lets requests finish; a
    second one does not.

    Args:
        model: a model folder.
        host: address to listen at. Any but loopback needs --api-key-file, or --insecure.
        port: port to listen at; 0: any free one.
        workers: processes; they share the memory of the index. One per core.
        history: where users' events are kept: path of a SQLite file, or redis://HOST/DB. Default: MODEL.history.sqlite,
            beside the model.
        history_days: events older than that are forgotten; 0: never.
        api_key_file: file with the key that every request must bring (32 characters or more).
        admin_key_file: file with the key for /v1/items and /v1/admin; without it, they are closed where there is an API
            key.
        insecure: listen at any host without a key.
        allowed_hosts: names that requests may call this server by, separated by commas, beside those of loopback.
        max_wait_ms: a request that would wait longer than that for the model is refused with 503 and Retry-After.
        drain_seconds: how long requests may take to finish after SIGTERM.

    Returns:
        Exit code: 0 after SIGTERM or SIGINT.

    Raises:
        ValueError, FileNotFoundError, ModuleNotFoundError: a setting is at fault, or a package is missing.
        OSError: the address cannot be listened at.
    """
    if not (model / "recommender.json").is_file():
        raise FileNotFoundError(
            f"{model}: no model here (recommender.json is missing); train one with `everyitem train`"
        )
    _check_packages(history)
    keys = {"api_key": _key(api_key_file), "admin_key": _key(admin_key_file)}
    if not is_loopback(host) and keys["api_key"] is None and not insecure:
        raise ValueError(
            f"--host {host} can be reached from elsewhere: give --api-key-file, or --insecure if that is meant"
        )
    _check_least(("workers", workers, 1), ("history-days", history_days, 0), ("max-wait-ms", max_wait_ms, 1))
    settings = keys | {
        "model": str(model),
        "history": history or f"{model.resolve()}.history.sqlite",
        "ttl": history_days * 86400 or None,
        "hosts": _host_names(host, allowed_hosts),
        "most_seconds": max_wait_ms / 1000,
        "drain_seconds": drain_seconds,
        "salt": secrets.token_hex(16),
    }
    with _listening(host, port) as listener:
        return _Supervisor(listener, workers, settings, drain_seconds).run()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Worker:
    """One process, and what is known about it."""

    def __init__(self, listener: socket.socket, settings: dict[str, Any], metrics: str) -> None:
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": metrics, "POLARS_MAX_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "everyitem.serve.worker", str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            env=environment,
            start_new_session=True,  # an interrupt at the terminal is for the supervisor
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(settings).encode() + b"\n")
        self.process.stdin.flush()
        self.started = time.monotonic()


class _Supervisor:
    def __init__(self, listener: socket.socket, count: int, settings: dict[str, Any], drain_seconds: float) -> None:
        self._listener, self._count, self._settings = listener, count, settings
        self._drain_seconds = drain_seconds
        self._metrics = tempfile.mkdtemp(prefix="everyitem-metrics-")
        self._workers: list[_Worker] = []
        self._early_deaths = 0
        self._due = [0.0] * count
        """When to start the workers that are missing."""

    def run(self) -> int:
        """Start the workers, replace them when they die, end them when told."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they are waited for, one at a time
        try:
            code = self._start_first()
            return self._watch() if code is None else code
        finally:
            for worker in self._workers:
                worker.process.kill()
                worker.process.wait()
            shutil.rmtree(self._metrics, ignore_errors=True)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start_first(self) -> int | None:
        """The first worker shows whether the model can be served; its exit code if it cannot."""
        first = self._start()
        assert first.process.stdout is not None
        while not select.select([first.process.stdout], [], [], 0.1)[0]:
            if signal.sigtimedwait((signal.SIGTERM, signal.SIGINT), 0):
                return 0
        if not (line := first.process.stdout.readline()):
            return first.process.wait() or 1
        host, port = self._listener.getsockname()[:2]
        where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(f"serving {line.decode().strip()} at {where}", flush=True)
        self._due.pop()
        return None

    def _start(self) -> _Worker:
        worker = _Worker(self._listener, self._settings, self._metrics)
        self._workers.append(worker)
        return worker

    def _watch(self) -> int:
        while True:
            now = time.monotonic()
            for due in [due for due in self._due if due <= now]:
                self._due.remove(due)
                self._start()
            wait = min(self._due, default=now + 60.0) - now
            caught = signal.sigtimedwait(SIGNALS, max(0.0, wait))
            number = caught.si_signo if caught else None
            if number == signal.SIGHUP:
                self._send(signal.SIGHUP)
            elif number in (signal.SIGTERM, signal.SIGINT):
                return self._end()
            self._bury()

    def _bury(self) -> None:
        """Note workers that have died, and when others shall take their place."""
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._workers.remove(worker)
            _forget_gauges(self._metrics, worker.process.pid)
            lasted = time.monotonic() - worker.started > LASTED_SECONDS
            self._early_deaths = 0 if lasted else self._early_deaths + 1
            pause = PAUSES[min(self._early_deaths, len(PAUSES) - 1)]
            self._due.append(time.monotonic() + pause)
            said = {"event": "worker_died", "pid": worker.process.pid, "code": worker.process.returncode}
            print(json.dumps(said), file=sys.stderr, flush=True)

    def _end(self) -> int:
        """Stop listening, let requests finish; at a second signal, or after the time for it, kill."""
        self._send(signal.SIGTERM)
        self._listener.close()
        until = time.monotonic() + self._drain_seconds + 5.0
        while any(worker.process.poll() is None for worker in self._workers):
            caught = signal.sigtimedwait(SIGNALS, max(0.0, min(0.5, until - time.monotonic())))
            if (caught and caught.si_signo in (signal.SIGTERM, signal.SIGINT)) or time.monotonic() > until:
                return 1
        clean = (0, -signal.SIGTERM)  # the latter: not yet serving
        return int(any(worker.process.returncode not in clean for worker in self._workers))

    def _send(self, number: int) -> None:
        for worker in self._workers:
            worker.process.send_signal(number)


def _forget_gauges(folder: str, pid: int) -> None:
    """A dead worker waits for nothing and serves nothing; what it counted stays."""
    for path in Path(folder).glob(f"gauge_live*_{pid}.db"):
        path.unlink(missing_ok=True)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ValueError(f"cannot listen at {host}, port {port} ({error.strerror or error}); choose others") from None
    os.set_inheritable(listener.fileno(), True)
    return listener


def _host_names(host: str, allowed: str) -> list[str] | None:
    """Names that the Host header may hold; None: any, as whoever reaches another address than loopback brings a key."""
    names = [name.strip().lower() for name in allowed.split(",") if name.strip()]
    if not is_loopback(host) and not names:
        return None
    return ["localhost", "127.0.0.1", "[::1]", host if ":" not in host else f"[{host}]", *names]


def _key(path: Path | None) -> str | None:
    if path is None:
        return None
    key = path.read_text().strip()
    if len(key) < MIN_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            f"{path}: the key must have {MIN_KEY} or more printable characters without blanks; "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return key


def _check_least(*settings: tuple[str, float, int]) -> None:
    for name, value, least in settings:
        if not value >= least:
            raise ValueError(f"--{name} is {value}, but it must be at least {least}")


def _check_packages(history: str | None) -> None:
    wanted = NEEDS | ({"redis"} if history and "://" in history else set())
    for name in sorted(wanted):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
