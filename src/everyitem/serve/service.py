"""What the routes do, one method each, every slow kind of work on a thread of its own. Knows no HTTP."""

import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from everyitem.serve import found
from everyitem.serve.answers import NEVER, Asked, Body, answers, search_of
from everyitem.serve.batcher import Batcher
from everyitem.serve.bodies import MAX_HISTORY, Events, Found, Items, Recommend, Similar
from everyitem.serve.history import History
from everyitem.serve.live import Change, LiveModel, NewItem
from everyitem.serve.metrics import EVENTS, STAGE_SECONDS, WAITING
from everyitem.serve.version import Version

PATIENCE_SECONDS = 2.0
"""How long a request without a deadline of its own may wait."""
READY_SECONDS = 1.0
"""How long the answer to the golden query is believed."""


class Service:
    """A live model and a history store, asked through bounded queues.

    Args:
        live: the model.
        history: the events of users.
        salt: user ids are hashed with it before they are logged.
        most_seconds: what a request may expect to wait for the model; beyond it requests are refused.
    """

    def __init__(self, live: LiveModel, history: History, *, salt: bytes = b"", most_seconds: float = 0.04) -> None:
        self.live, self.history, self._salt = live, history, salt
        self.draining = False
        self._model: Batcher[Asked, dict[str, Any]] = Batcher(answers, most_seconds=most_seconds)
        self._writes: Batcher[list[tuple[str, Any]], int] = Batcher(self._append, most_together=64)
        self._reads: Batcher[Callable[[], Any], Any] = Batcher(_called, most_together=64)
        self._columns: Batcher[Callable[[], Any], Any] = Batcher(_called, most_waiting=32, most_together=1)
        self._changes: Batcher[Callable[[], Any], Any] = Batcher(_called, most_waiting=16, most_together=1)
        self._golden: tuple[float, str, str | None] = (0.0, "", None)

    @property
    def version(self) -> Version:
        """What is served now."""
        return self.live.current

    async def ask(self, body: Body) -> dict[str, Any]:
        """The model's answer to any body; its history is read from the store where a user is named.

        Raises:
            ValueError, Unknown: the request is at fault.
            Full, TooLate, Unavailable: the server is.
        """
        version = self.version
        milliseconds = body.deadline_ms if isinstance(body, Recommend) else None
        entered = time.monotonic()
        patience = entered + (PATIENCE_SECONDS if milliseconds is None else milliseconds / 1000)
        if isinstance(body, Recommend | Similar) and not version.knows_filter(body.where):
            await self._columns.ask(partial(version.allowed, body.where, None), deadline=patience)
        history = [] if isinstance(body, Similar) else await self._history_of(body, patience)
        WAITING.set(len(self._model))
        asked = Asked(version, body, history, time.monotonic(), NEVER if milliseconds is None else patience)
        answer = await self._model.ask(asked, deadline=patience)
        if isinstance(body, Found):  # takes long, so not on the thread that others wait for
            answer["pruned"] = await self._columns.ask(partial(found.pruned, version, search_of(asked)[0]))
        return answer

    async def _history_of(self, body: Any, patience: float) -> list[Any]:
        if body.user_id is None:
            history: list[Any] = body.history
            return history
        with STAGE_SECONDS.labels("history").time():
            found: list[Any] = await self._reads.ask(
                partial(self.history.last, str(body.user_id), MAX_HISTORY), deadline=patience
            )
            return found

    async def store(self, body: Events) -> dict[str, Any]:
        """Append events; those of many requests share a transaction."""
        version = self.version
        events = [(str(event.user_id), event.item_id) for event in body.events]
        unknown = int((version.recommender.positions([item for _, item in events]) < 0).sum())
        stored = await self._writes.ask(events)
        EVENTS.inc(stored)
        return {"model_version": version.name, "stored": stored, "unknown_items": unknown}

    def _append(self, batches: list[list[tuple[str, Any]]]) -> list[int]:
        self.history.append([event for batch in batches for event in batch])
        return [len(batch) for batch in batches]

    async def user(self, user_id: str) -> dict[str, Any]:
        """What is stored about a user."""
        history = await self._reads.ask(partial(self.history.last, user_id, MAX_HISTORY))
        return {"model_version": self.version.name, "user_id": user_id, "history": history}

    async def erase(self, user_id: str) -> dict[str, Any]:
        """Forget a user."""
        erased = await self._changes.ask(partial(self.history.erase, user_id))
        return {"model_version": self.version.name, "user_id": user_id, "erased": erased}

    async def change(self, body: Items) -> dict[str, Any]:
        """Change the catalogue, for all workers and for good; see `LiveModel.change`."""
        upsert = [NewItem(item.item_id, item.fields, item.like) for item in body.upsert]
        done: Change = await self._changes.ask(partial(self.live.change, upsert, list(body.delete)))
        version = self.version
        return {"model_version": version.name, "catalogue": version.index.num_items} | done._asdict()

    async def reload(self) -> dict[str, Any]:
        """Look at the model folder now, here and in the other workers."""
        await self._changes.ask(self.live.look)
        return {"model_version": self.version.name, "problem": self.live.refused}

    async def catalogue(self, query: str, limit: int) -> dict[str, Any]:
        """Items by words of their titles."""
        listed: dict[str, Any] = await self._columns.ask(partial(_listed, self.version, query.split(), limit))
        return listed

    def overdue(self) -> float | None:
        """Seconds that a question to the model would have to wait, where it would be refused; else None."""
        return self._model.overdue()

    def problem(self) -> str | None:
        """Why no request should be sent here; None: ready."""
        if self.draining:
            return "shutting down"
        at, name, problem = self._golden
        version = self.version
        if name != version.name or time.monotonic() > at + READY_SECONDS:
            problem = version.problem()
            self._golden = (time.monotonic(), version.name, problem)
        return problem

    def hashed(self, user_id: Any) -> str:
        """A user id as the log may hold it; the salt, and so the hash, is new whenever the server starts."""
        return hashlib.blake2b(str(user_id).encode(), key=self._salt, digest_size=8).hexdigest()

    def close(self) -> None:
        """Answer what waits, then let go of model and store."""
        for batcher in (self._model, self._writes, self._reads, self._columns, self._changes):
            batcher.close()
        self.live.close()
        self.history.close()


def _called(calls: list[Callable[[], Any]]) -> list[Any]:
    results: list[Any] = []
    for call in calls:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)
    return results


def _listed(version: Version, words: list[str], limit: int) -> dict[str, Any]:
    positions, matches = version.titles_with(words, limit)
    rows = zip(version.ids(positions), version.fields(positions, ["*"]), strict=True)
    return {
        "model_version": version.name,
        "items": [{"item_id": item_id, "fields": fields} for item_id, fields in rows],
        "matches": matches,
        "columns": version.columns,
    }
