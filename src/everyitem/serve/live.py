"""The model that is served now, its successors, and changes of its catalogue. Knows folders; no bodies, no HTTP."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from everyitem.model_folder import Overtaken, read_metadata
from everyitem.recommender import Recommender
from everyitem.serve.metrics import RELOADS, SERVING
from everyitem.serve.version import Version

LOG = logging.getLogger("everyitem.serve")
WATCHED = ("recommender.json", "items.parquet", "encoder.onnx", "index/CURRENT")
LOOK_SECONDS = 0.5
RETRY_SECONDS = 30.0
"""A version that was refused is opened again after so long, as whoever copies it may not have finished."""
CHANGE_SECONDS = 20.0
"""How long a change waits for others to finish theirs."""


class NewItem(NamedTuple):
    """An item to add or to update."""

    item_id: Any
    fields: dict[str, Any]
    like: list[Any]


class Change(NamedTuple):
    """What became of a change of the catalogue."""

    added: int
    updated: int
    deleted: int


class LiveModel:
    """The version that is served, replaced by the one in the folder whenever that is a complete and sound one.

    A request takes `current` once and is answered by it, whatever comes after. A thread looks at the folder twice a
    second, or when `wake` is called. A new version is opened, verified to the byte, asked its golden query and warmed
    while the old one serves; one that fails is refused, and `refused` says why.

    Args:
        folder: the model folder; a path that is opened anew each time, so that a folder may be moved into its place.
        announce: called after this process has changed the folder; tells the other workers.
    """

    def __init__(self, folder: Path, *, announce: Callable[[], None] = lambda: None) -> None:
        self._folder, self._announce = folder, announce
        self._seen: Any = _stamps(folder)
        self._opening, self._changing, self._wake = threading.Lock(), threading.Lock(), threading.Event()
        self._tried = time.monotonic()
        self._closed = False
        self.refused: str | None = None
        self.current = Version(folder)
        SERVING.labels(self.current.name).set(1)
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._watcher.start()

    def wake(self) -> None:
        """Look at the folder now."""
        self._wake.set()

    def look(self) -> None:
        """Look at the folder now, in all workers; return when this one has. A refused version is tried again."""
        self._announce()
        self.refresh(again=True)

    def close(self) -> None:
        """Look no more."""
        self._closed = True
        self._wake.set()
        self._watcher.join()

    def refresh(self, *, again: bool = False) -> None:
        """Serve the folder's version if it is another one; `again`: also one that was refused before."""
        with self._opening:
            stamps = _stamps(self._folder)
            retry = self.refused is not None and (again or time.monotonic() > self._tried + RETRY_SECONDS)
            if stamps == self._seen and not retry:
                return
            self._seen, self._tried = stamps, time.monotonic()
            try:
                version = Version(self._folder)
            except Exception as error:  # whatever is wrong with it: the old version serves on
                self.refused = f"{type(error).__name__}: {error}"
                RELOADS.labels("refused").inc()
                LOG.error("refused", extra={"fields": {"event": "reload_refused", "problem": self.refused}})
                return
            self.refused = None
            self._serve(version)

    def change(self, upsert: list[NewItem], delete: list[Any]) -> Change:
        """Change the catalogue on disk, all or nothing, and serve it.

        The folder's own commit makes the change (`model_folder.py`): so it reaches every worker, outlives them all, and
        whoever else reads the folder never sees half of it.

        Raises:
            ValueError: an item or attribute is not as it must be; nothing has changed.
            BlockingIOError: others were changing the folder all the time, or left it damaged.

        Cost: writes attributes and index: about a second per million items, for one change or a thousand.
        """
        with self._changing:
            until = time.monotonic() + CHANGE_SECONDS
            while True:
                self.refresh()
                if self.refused:
                    raise BlockingIOError(f"the model folder cannot be changed: {self.refused}")
                recommender = self.current.recommender.twin()
                done = _changed(recommender, upsert, delete)
                try:
                    self._save(recommender)
                    break
                except (BlockingIOError, Overtaken) as error:
                    if time.monotonic() > until:
                        raise BlockingIOError(*error.args) from None
                    time.sleep(0.05)
        self._announce()
        return done

    def _save(self, recommender: Recommender) -> None:
        with self._opening:  # what was written here need not be opened again
            recommender.save(self._folder)
            stamps, version = _stamps(self._folder), Version(self._folder, recommender)
            if read_metadata(self._folder) == recommender.metadata:  # else another process came after us
                self._seen = stamps
            self._serve(version)

    def _serve(self, version: Version) -> None:
        old, self.current = self.current, version
        SERVING.labels(old.name).set(0)
        SERVING.labels(version.name).set(1)
        RELOADS.labels("served").inc()
        LOG.info("serving", extra={"fields": {"event": "reloaded", "from": old.name, "to": version.name}})

    def _watch(self) -> None:
        while not self._closed:
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            if not self._closed:
                self.refresh()


def _changed(recommender: Recommender, upsert: list[NewItem], delete: list[Any]) -> Change:
    if upsert:
        ids = recommender.positions([item.item_id for item in upsert])
        columns = recommender.items.columns
        for item in upsert:
            if unknown := [name for name in item.fields if name not in columns]:
                raise ValueError(f"fields has {unknown[0]!r}, but the attributes are {', '.join(columns[1:])}")
        new = [item for item, position in zip(upsert, ids, strict=True) if position < 0]
        known = [item for item, position in zip(upsert, ids, strict=True) if position >= 0]
        for names, items in _by_fields(known):
            recommender.update_items(_frame(recommender, names, items))
        if new:
            names = list(dict.fromkeys(name for item in new for name in item.fields))
            recommender.add_items(_frame(recommender, names, new), like=[item.like for item in new])
    else:
        new = known = []
    recommender.remove_items(delete)
    return Change(len(new), len(known), len(delete))


def _by_fields(items: list[NewItem]) -> list[tuple[list[str], list[NewItem]]]:
    """Items with the same attributes together: what an item does not name keeps its value."""
    groups: dict[tuple[str, ...], list[NewItem]] = {}
    for item in items:
        groups.setdefault(tuple(item.fields), []).append(item)
    return [(list(names), group) for names, group in groups.items()]


def _frame(recommender: Recommender, names: list[str], items: list[NewItem]) -> pl.DataFrame:
    schema = {name: recommender.items.schema[name] for name in ("item_id", *names)}
    rows = [{"item_id": item.item_id} | item.fields for item in items]
    try:
        return pl.DataFrame(rows, schema=schema, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        types = ", ".join(f"{name}: {dtype}" for name, dtype in schema.items())
        raise ValueError(f"an attribute is of another type ({str(error).splitlines()[0]}); needed: {types}") from None


def _stamps(folder: Path) -> Any:
    """What changes when a file of the folder is replaced."""
    found = []
    for name in WATCHED:
        with contextlib.suppress(OSError):
            status = (folder / name).stat()
            found.append((name, status.st_ino, status.st_mtime_ns, status.st_size))
    return found
