from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from everyitem.serve.history import SqliteHistory
from everyitem.serve.http import create_app
from everyitem.serve.live import LiveModel
from everyitem.serve.service import Service


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Callable[..., Any]]:
    """A client of an application in this process, for a model folder."""
    from fastapi.testclient import TestClient

    clients = []

    def serve(folder: Path, *, most_seconds: float = 60.0, **guarded: Any) -> TestClient:
        history = SqliteHistory(tmp_path_factory.mktemp("history") / "history.sqlite")
        service = Service(LiveModel(folder), history, salt=b"salt", most_seconds=most_seconds)
        client = TestClient(create_app(service, **guarded), base_url="http://localhost")
        client.__enter__()
        clients.append(client)
        return client

    yield serve
    for client in clients:
        client.__exit__(None, None, None)
