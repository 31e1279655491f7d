"""The routes: what is asked over HTTP, which method of `service.py` does it, which status says how it went."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

import everyitem
from everyitem.serve import bodies, compatible, page
from everyitem.serve.guard import LOOPBACK, MAX_BODY, Guard
from everyitem.serve.metrics import exposition
from everyitem.serve.respond import STATUS, answered, as_json, problem, refused, service_of
from everyitem.serve.service import Service

SAID = {
    400: "Not JSON.",
    401: "No key, or not the right one.",
    403: "Not allowed here.",
    404: "No such item, or no such page.",
    421: "Unknown Host.",
    431: "Too many headers.",
    422: "The request is at fault; the error says what is allowed.",
    503: "Too much to do, or a store is down; Retry-After says when to come back.",
    504: "The deadline passed before the model was free.",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    413: {"description": "The body is too large.", "content": {"text/plain": {}}},
    **{status: {"model": bodies.Problem, "description": text} for status, text in SAID.items()},
}
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": bodies.Ready, "description": "Not ready."}}
UserId = Annotated[str, Path(min_length=1, max_length=bodies.MAX_ID)]

router = APIRouter(responses=PROBLEMS)


def create_app(
    service: Service,
    *,
    api_key: str | None = None,
    admin_key: str | None = None,
    hosts: tuple[str, ...] | None = LOOPBACK,
) -> FastAPI:
    """The application: routes behind a `Guard`, which takes the other arguments. It closes the service at its end."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="everyitem",
        version=everyitem.__version__,
        summary="Exact recommendations from a model folder.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(router)
    app.include_router(compatible.router, responses=PROBLEMS)
    app.include_router(page.router)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY)
    app.add_middleware(
        Guard,
        api_key=api_key,
        admin_key=admin_key,
        hosts=hosts,
        draining=lambda: service.draining,
        overdue=service.overdue,
    )
    for error in STATUS:
        app.add_exception_handler(error, refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    return app


@router.post("/v1/recommend", response_model=bodies.Recommended, tags=["recommend"])
async def recommend(body: bodies.Recommend, request: Request) -> Response:
    """The k best items for a user or a history: exactly, with a certificate; fewer only if fewer are eligible."""
    return await answered(request, service_of(request).ask(body), user_id=body.user_id)


@router.post("/v1/similar", response_model=bodies.Recommended, tags=["recommend"])
async def similar(body: bodies.Similar, request: Request) -> Response:
    """The items most like one item."""
    return await answered(request, service_of(request).ask(body))


@router.post("/v1/rank", response_model=bodies.Ranked, tags=["recommend"])
async def rank(body: bodies.Rank, request: Request) -> Response:
    """Given candidates, best first, with the scores that they have in /v1/recommend."""
    return await answered(request, service_of(request).ask(body), user_id=body.user_id)


@router.post("/v1/explain", response_model=bodies.Explained, tags=["recommend"])
async def explain(body: bodies.Explain, request: Request) -> Response:
    """Why an item has its score: shares of its sub-items that add up to it, and the nearest items of the history."""
    return await answered(request, service_of(request).ask(body), user_id=body.user_id)


@router.post("/v1/found", response_model=bodies.FoundAnswer, tags=["recommend"])
async def found(body: bodies.Found, request: Request) -> Response:
    """Like /v1/recommend, with how the answer was found: all sub-item scores, and what the bounds ruled out."""
    return await answered(request, service_of(request).ask(body), user_id=body.user_id)


@router.post("/v1/events", response_model=bodies.Stored, tags=["users"])
async def events(body: bodies.Events, request: Request) -> Response:
    """Append to the histories of users. Once answered, the events survive a crash of the server."""
    return await answered(request, service_of(request).store(body))


@router.get("/v1/users/{user_id}", response_model=bodies.User, tags=["users"])
async def user(user_id: UserId, request: Request) -> Response:
    """The stored history of a user, oldest first."""
    return await answered(request, service_of(request).user(user_id), user_id=user_id)


@router.delete("/v1/users/{user_id}", response_model=bodies.Erased, tags=["users"])
async def erase(user_id: UserId, request: Request) -> Response:
    """Erase everything that is stored about a user."""
    return await answered(request, service_of(request).erase(user_id), user_id=user_id)


@router.post("/v1/items", response_model=bodies.Changed, tags=["catalogue"])
async def items(body: bodies.Items, request: Request) -> Response:
    """Add, update and delete items, all or none, for good and for all workers; costs a second per million items.

    The answer comes when this worker serves the change; the others follow as fast as they can open the version.
    """
    return await answered(request, service_of(request).change(body))


@router.get("/v1/catalogue", response_model=bodies.Catalogue, tags=["catalogue"])
async def catalogue(
    request: Request,
    query: Annotated[str, Query(max_length=200, examples=["red shoe"])] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Items whose title contains every word, the most popular first; without a word the most popular ones."""
    return await answered(request, service_of(request).catalogue(query, limit))


@router.post("/v1/admin/reload", response_model=bodies.Reloaded, tags=["operation"])
async def reload(request: Request) -> Response:
    """Look at the model folder now, in every worker, instead of within half a second."""
    return await answered(request, service_of(request).reload())


@router.get("/api/health/live", tags=["compatible"])
@router.get("/livez", tags=["operation"])
async def livez() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@router.get("/api/health/ready", response_model=bodies.Ready, responses=NOT_READY, tags=["compatible"])
@router.get("/readyz", response_model=bodies.Ready, responses=NOT_READY, tags=["operation"])
async def readyz(request: Request) -> Response:
    """The model answers its golden query, and the server is not shutting down."""
    service = service_of(request)
    problem = await asyncio.to_thread(service.problem)
    body = {"ready": problem is None, "model_version": service.version.name, "problem": problem}
    return as_json(body, 200 if problem is None else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}},
    tags=["operation"],
)
async def metrics() -> Response:
    """For Prometheus; sums over all workers."""
    return Response(await asyncio.to_thread(exposition), headers={"content-type": CONTENT_TYPE_LATEST})


async def _invalid(request: Request, error: Exception) -> Response:
    """Where in the request, and what is allowed there; never what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    if first["type"] == "json_invalid":
        return problem(request, 400, f"the body is not JSON (at character {where})")
    return problem(request, 422, f"{where}: {first['msg']}" if where else first["msg"])


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(request, error.status_code, str(error.detail), dict(error.headers or {}))
