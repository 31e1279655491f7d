"""What every request passes before it reaches a route, and every answer after: keys, hosts, headers, log, metrics.

One ASGI layer, outermost. Knows no bodies and no model.
"""

import hmac
import logging
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from everyitem.serve.batcher import Full
from everyitem.serve.metrics import REFUSED, REQUEST_SECONDS, REQUESTS

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOG = logging.getLogger("everyitem.access")
MAX_BODY = 256 << 10
MAX_HEADERS = 16 << 10
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
OPEN_TO_ALL = ("/livez", "/readyz", "/api/health/live", "/api/health/ready")
ASK_THE_MODEL = ("/v1/recommend", "/v1/similar", "/v1/rank", "/recommendations", "/personalize-ranking")
ADMIN = ("/v1/items", "/v1/admin")
SECURITY_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Guard:
    """Lets through what may be asked, and says about every request how it ended.

    Args:
        app: what answers.
        api_key: every route but health and the page's files asks for it, as `Authorization: Bearer` or `X-API-Key`;
            None: no key.
        admin_key: routes that change catalogue or model ask for it. None: they ask for no key if there is no API key,
            else they are closed.
        hosts: names that the Host header may hold, without port; None: any. A page of another site whose name was
            pointed at this machine (DNS rebinding) does not have one of them.
        draining: whether the server is about to end; connections are then closed after their answer.
        overdue: seconds that a question to the model would have to wait if it would be refused; it then is, unread.
    """

    def __init__(
        self,
        app: App,
        *,
        api_key: str | None = None,
        admin_key: str | None = None,
        hosts: tuple[str, ...] | None = LOOPBACK,
        draining: Callable[[], bool] = lambda: False,
        overdue: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._app, self._api_key, self._admin_key, self._hosts = app, api_key, admin_key, hosts
        self._draining, self._overdue = draining, overdue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        notes: dict[str, Any] = {}
        scope["everyitem"] = {"request_id": request_id, "notes": notes}
        status = 0

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-request-id", request_id.encode()), *SECURITY_HEADERS]
                if self._draining():
                    added.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal:
                await refuse(answered, request_id, *refusal)
            else:
                await self._app(scope, receive, answered)
        except Exception:
            LOG.exception("a defect of the server", extra={"fields": {"request_id": request_id}})
            if status:
                raise
            await refuse(answered, request_id, 500, "the server has a defect; its log says more under this request_id")
        finally:
            seconds = time.perf_counter() - start
            unrouted = scope["path"] if scope["path"] in ASK_THE_MODEL else "other"
            route = getattr(scope.get("route"), "path", unrouted)
            REQUESTS.labels(route, str(status)).inc()
            REQUEST_SECONDS.labels(route).observe(seconds)
            said = {"request_id": request_id, "method": scope["method"], "route": route, "status": status}
            LOG.info("request", extra={"fields": said | {"ms": round(seconds * 1e3, 3)} | notes})

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str, float | None] | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            return 431, f"the headers of a request may have {MAX_HEADERS} bytes", None
        host = headers.get(b"host", b"").decode("latin-1")
        if self._hosts is not None and re.sub(r":\d+$", "", host).lower() not in self._hosts:
            REFUSED.labels("host").inc()
            return 421, "this name of the server is not known; start it with --allowed-hosts to add names", None
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").split("://")[-1].lower() != host.lower():
            REFUSED.labels("host").inc()
            return 403, "requests from the pages of other sites are not answered", None
        if (without := self._without_key(scope, headers)) is not None:
            return *without, None
        if scope["path"] in ASK_THE_MODEL and (seconds := self._overdue()) is not None:
            REFUSED.labels("full").inc()
            return 503, str(Full(seconds)), seconds
        return None

    def _without_key(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        path = scope["path"]
        page = scope["method"] in ("GET", "HEAD") and (path == "/" or path.startswith("/page/"))
        if page or path in OPEN_TO_ALL:
            return None
        if any(path == name or path.startswith(name + "/") for name in ADMIN):
            if self._admin_key is None and self._api_key is not None:
                return 403, "this server was started without --admin-key-file, so nothing can be changed through it"
            keys = [self._admin_key]
        else:
            keys = [self._api_key, self._admin_key]
        given = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if keys[0] is None or any(key and hmac.compare_digest(given, key.encode()) for key in keys):
            return None
        REFUSED.labels("key").inc()
        return 401, "send the key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"


async def refuse(send: Send, request_id: str, status: int, error: str, seconds: float | None = None) -> None:
    """An error as every route answers it; `seconds` until it may be tried again."""
    body = orjson.dumps({"error": error, "request_id": request_id})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if seconds is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(seconds))).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
