"""From what the service says to a response. Knows requests; no routes."""

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from everyitem.serve.answers import Unknown
from everyitem.serve.batcher import Full, TooLate
from everyitem.serve.history import Unavailable
from everyitem.serve.metrics import REFUSED
from everyitem.serve.service import Service

GONE = 499
"""Logged where the client left before its answer."""
STATUS: dict[type[Exception], int] = {
    ValueError: 422,
    Unknown: 404,
    Full: 503,
    Unavailable: 503,
    BlockingIOError: 503,
    TooLate: 504,
}


def service_of(request: Request) -> Service:
    """The service behind the application."""
    service: Service = request.app.state.service
    return service


async def answered(request: Request, answer: Coroutine[Any, Any, dict[str, Any]], *, user_id: Any = None) -> Response:
    """The answer as a response; the question is taken back if the client leaves before."""
    start = time.perf_counter()
    content = await unless_gone(request, answer, user_id=user_id)
    if content is None:
        return Response(status_code=GONE)
    content["request_id"] = request.scope["everyitem"]["request_id"]
    content["took_ms"] = round((time.perf_counter() - start) * 1e3, 3)
    return as_json(content)


async def unless_gone(
    request: Request, answer: Coroutine[Any, Any, dict[str, Any]], *, user_id: Any = None
) -> dict[str, Any] | None:
    """The answer, or None if the client leaves before; the log gets its version and whom it was for, hashed."""
    notes = request.scope["everyitem"]["notes"]
    if user_id is not None:
        notes["user"] = service_of(request).hashed(user_id)
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_end(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if not task.done():
        task.cancel()
        return None
    content = task.result()
    notes["model_version"] = content["model_version"]
    return content


async def _end(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def as_json(content: Any, status: int = 200) -> Response:
    """A response whose body was made at once; NaN and infinity are null."""
    return Response(orjson.dumps(content, default=str), status, media_type="application/json")


def problem(request: Request, status: int, error: str, headers: dict[str, str] | None = None) -> Response:
    """An error as every route answers it."""
    response = as_json({"error": error, "request_id": request.scope["everyitem"]["request_id"]}, status)
    response.headers.update(headers or {})
    return response


async def refused(request: Request, error: Exception) -> Response:
    """An exception of `STATUS`; 503 says when to come back."""
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    if status in (503, 504):
        REFUSED.labels(type(error).__name__.lower()).inc()
    if status != 503:
        return problem(request, status, str(error))
    seconds = error.retry_after if isinstance(error, Full) else 1.0
    return problem(request, status, str(error), {"retry-after": str(max(1, math.ceil(seconds)))})
