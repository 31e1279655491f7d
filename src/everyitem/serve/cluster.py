"""Beyond one machine, on Ray: a catalogue in shards that actors hold, and the parts of a batch job on all machines.

Nothing is computed otherwise than on one machine: shards are indexes (`index/shards.py`), parts are those of
`offline.py`. All machines see the same folders by the same paths. Needs the extra `cluster`; torch-free.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import ray
import ray.data
from numpy.typing import ArrayLike, NDArray
from rich.console import Console

from everyitem.index import shards
from everyitem.index.dense import DenseIndex
from everyitem.index.pq import PQIndex
from everyitem.index.shards import Shards
from everyitem.recommender import Recommender, load
from everyitem.serve import offline
from everyitem.types import Floats, Ids, TopK

GRACE = 0.05
"""Seconds past a deadline that a shard's answer may take on its way."""
OBJECT_STORE = 256 << 20
"""Bytes for what actors send each other, in a cluster that is started here."""
RESTARTS = 10
"""Of a shard's actor, until its shard counts as lost."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to a cluster.

    Args:
        address: "auto" takes the cluster that runs on this machine and starts one of this machine alone where there is
            none; else HOST:PORT, or ray://HOST:PORT.

    Raises:
        ConnectionError: nobody answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    if ray.is_initialized():  # the caller's own connection stays his
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address=address, **quiet)
    except ConnectionError:
        if address != "auto":
            remedy = "start one there with `ray start --head`, or give auto"
            raise ConnectionError(f"{address}: no Ray cluster answers; {remedy}") from None
        with _loopback_only():
            ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """What Ray starts meanwhile listens where nobody else can reach it: as it does by itself on desktop systems."""
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    os.environ[constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes that it starts
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        del os.environ[constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


# a catalogue in shards ------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What the shards found."""

    top: TopK
    """A row is exact where `bound <= scores[:, -1]`, also one to which a silent shard could not have added anything."""
    silent: tuple[int, ...]
    """Shards that did not answer in time; empty: all did."""


class Shard:
    """What an actor runs: one shard, opened by memory map."""

    def __init__(self, where: Shards, number: int) -> None:
        self._index = where.open(number)

    def top_k(self, query_UD: Floats, k: int, options: dict[str, Any]) -> TopK:
        """As of the index."""
        return self._index.top_k(query_UD, k, **options)

    def scores(self, query_UD: Floats, items_UN: NDArray[Any]) -> Floats:
        """As of the index."""
        return self._index.scores(query_UD, items_UN)

    def vectors(self, positions: NDArray[Any]) -> Floats:
        """As of the index."""
        return self._index.vectors(positions)

    def removed(self) -> NDArray[np.bool_]:
        """As of the index."""
        return self._index.removed_I

    def outline(self) -> dict[str, Any]:
        """What `shards.outline` makes, as arguments for its class."""
        found = shards.outline(self._index)
        if isinstance(found, DenseIndex):
            return {"vectors_ID": found.vectors_ID}
        return {"codes_IM": found.codes_IM, "codebooks_MBd": found.codebooks_MBd, "rotation_DD": found.rotation_DD}


class ShardedIndex:
    """A catalogue whose shards are held by actors: the reading half of an index, with the same bits.

    An actor that dies is started again, up to `RESTARTS` times, and asked again; who gave a deadline may get an answer
    without its shard, which says so and whose bound holds for what the shard could have found.
    """

    def __init__(self, where: Shards) -> None:
        """Start an actor for every shard, spread over the machines; call it inside `connected`."""
        lasting = {"max_restarts": RESTARTS, "max_task_retries": -1}  # asking again is harmless: shards only answer
        actor = ray.remote(Shard).options(num_cpus=0, scheduling_strategy="SPREAD", **lasting)
        self._starts = where.starts
        self._actors = [actor.remote(where, number) for number in range(len(where.versions))]
        outlines = self._gathered("outline", [()] * len(self._actors))
        self._outlines = [DenseIndex(**o) if "vectors_ID" in o else PQIndex(**o) for o in outlines]
        self._removed_I = np.concatenate(self._gathered("removed", [()] * len(self._actors)))

    @property
    def num_items(self) -> int:
        """Positions in the catalogue, removed ones included."""
        return self._starts[-1]

    @property
    def dim(self) -> int:
        """D: length of a query and of an item vector."""
        return self._outlines[0].dim

    @property
    def removed_I(self) -> NDArray[np.bool_]:
        """True where an item was removed: bool (I,)."""
        return self._removed_I

    def removed_at(self, positions_UN: Ids) -> NDArray[np.bool_]:
        """(U, N) whether the items at these positions were removed; False for -1."""
        found: NDArray[np.bool_] = (positions_UN >= 0) & self._removed_I[np.maximum(positions_UN, 0)]
        return found

    def top_k(self, query_UD: ArrayLike, k: int, **options: Any) -> TopK:
        """The k best eligible items for each query: as `PQIndex.top_k`, of which it takes the options. See `ask`."""
        return self.ask(query_UD, k, **options).top

    def ask(
        self,
        query_UD: ArrayLike,
        k: int,
        *,
        allow: ArrayLike | None = None,
        exclude: ArrayLike | None = None,
        deadline: float | None = None,
        threads: int | None = None,
    ) -> Answer:
        """The k best eligible items for each query, and which shards did not say.

        Args:
            query_UD, k, allow, exclude, threads: as of `PQIndex.top_k`.
            deadline: seconds, for every shard's search; shards that have not answered shortly after are left out.
                None: waits until all have, also for one that is being started again.

        Raises:
            ValueError: an argument does not fit the index.
            RuntimeError: a shard is lost (without a deadline).

        Cost: the slowest shard's search, one round trip (1 ms on one machine) and `merge_top_k`.
        """
        query = np.asarray(query_UD, np.float32)
        filters = shards.cut_filters(self._starts, len(query), allow, exclude)
        asked = [
            actor.top_k.remote(query, k, {"allow": a, "exclude": e, "deadline": deadline, "threads": threads})
            for actor, (a, e) in zip(self._actors, filters, strict=True)
        ]
        if deadline is None:
            return Answer(shards.merge_top_k(_got(asked), self._starts, k), ())
        _, late = ray.wait(asked, num_returns=len(asked), timeout=deadline + GRACE)
        heard = [None if future in late else _heard(future) for future in asked]
        for future in late:
            ray.cancel(future)
        parts = [
            shards.unanswered(outline, query, k) if part is None else part
            for outline, part in zip(self._outlines, heard, strict=True)
        ]
        silent = tuple(number for number, part in enumerate(heard) if part is None)
        return Answer(shards.merge_top_k(parts, self._starts, k), silent)

    def scores(self, query_UD: ArrayLike, items_UN: ArrayLike) -> Floats:
        """The scores of given items: the bits that `top_k` would return; see `PQIndex.scores`."""
        items, query = np.asarray(items_UN), np.asarray(query_UD, np.float32)
        placed = shards.locate(self._starts, items)
        here = [np.where(inside, items - start, 0) for (inside, _), start in zip(placed, self._starts, strict=False)]
        found = self._gathered("scores", [(query, local) for local in here])
        out = np.empty(items.shape, np.float32)
        for (inside, _), scores in zip(placed, found, strict=True):
            out[inside] = scores[inside]
        return out

    def vectors(self, positions: ArrayLike) -> Floats:
        """(N, D) float32: the vectors at these positions."""
        placed = shards.locate(self._starts, np.asarray(positions))
        found = self._gathered("vectors", [(local,) for _, local in placed])
        out = np.empty((len(np.asarray(positions)), self.dim), np.float32)
        for (inside, _), vectors in zip(placed, found, strict=True):
            out[inside] = vectors
        return out

    def _gathered(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What every shard answers; waits for all."""
        asked = zip(self._actors, arguments, strict=True)
        return _got([getattr(actor, method).remote(*given) for actor, given in asked])


def _heard(future: Any) -> TopK | None:
    """The answer of a shard that has come; None where its actor died."""
    try:
        top: TopK = ray.get(future)
    except ray.exceptions.RayActorError:
        return None
    return top


def _got(asked: list[Any]) -> list[Any]:
    try:
        found: list[Any] = ray.get(asked)
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(f"a shard is lost, its actor died {RESTARTS + 1} times ({str(error)[:200]})") from None
    return found


def load_sharded(model: str | Path, folder: str | Path) -> Recommender:
    """A model that searches a catalogue in shards; it answers as `load` does, bit for bit. Call it inside `connected`.

    Args:
        model: a model folder.
        folder: shards of its index, from `shard`.

    Raises:
        FileNotFoundError, ValueError: as `load` does; or the shards are of another index or damaged.
    """
    found, where = load(model), shards.read_shards(folder)
    if where.of != found.metadata["fingerprints"]["index"]:
        raise ValueError(f"{folder}: shards of another index than that of {model}; cut them again")
    index = cast(Any, ShardedIndex(where))  # it only reads, which is all that answering needs
    return Recommender(found.encoder, index, found.items, found.metadata, found.memory)


def shard(model: str | Path, folder: str | Path, num_shards: int) -> Shards:
    """Cut a model's catalogue into shards; see `shards.save_shards`."""
    version = load(model).metadata["fingerprints"]["index"]
    return shards.save_shards(Path(model) / "index", folder, num_shards, version=version)


# a batch job on all machines ------------------------------------------------------------------------------------------


def recommend_to_parquet(
    address: str,
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    k: int = 10,
    where: str | None = None,
    exclude_seen: bool = True,
    console: Console | None = None,
) -> offline.Written:
    """`offline.recommend_to_parquet` on a cluster: the same file, and a killed run goes on here or there.

    Args:
        address: see `connected`.
        model, source, out: on storage that all machines see by these paths.
        k, where, exclude_seen, console: as there.

    Cost: Ray Data with one actor per machine and all its cores; some seconds to start, and a part (4 million events)
    is the least that an actor does: for tens of millions of users, not for thousands.
    """
    options = {"k": k, "where": where, "exclude_seen": exclude_seen}
    with (
        offline.opened_job(model, source, out, **options) as job,
        connected(address),
        offline.progress(job, console) as advance,
    ):
        for row in _done(job, job.missing()):
            advance(row["users"], row["events"])
        return offline.finish(job)


def _done(job: offline.Job, missing: list[int]) -> Iterator[dict[str, int]]:
    """Have parts done by actors; how many users and events they had, as they come."""
    if not missing:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    cores, actors = _actors(ray.nodes())
    rows = [{"number": number, "job": str(job.folder / "job.json"), "threads": cores} for number in missing]
    yield from (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map_batches(
            _Parts,
            batch_size=1,
            num_cpus=cores,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(missing))),
        )
        .iter_rows()
    )


class _Parts:
    """What an actor runs: the model, opened once, and one part of the job after the other."""

    def __init__(self) -> None:
        self._worker: offline.Worker | None = None

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Do parts by number; how many users and events they had."""
        worker = self._worker = self._worker or offline.Worker(offline.read_job(batch["job"][0]))
        facts = [worker.do(int(number), int(batch["threads"][0])) for number in batch["number"]]
        return {name: np.array([fact[name] for fact in facts]) for name in ("users", "events")}


def _actors(nodes: list[dict[str, Any]]) -> tuple[int, int]:
    """(cores per actor, actors): an actor has all cores of the smallest machine, a larger one has several."""
    cores = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    cores = [found for found in cores if found]
    return min(cores), sum(found // min(cores) for found in cores)
