"""A model folder on disk: catalogue, index and metadata change together or not at all.

    recommender.json     settings; names the version of the index, and the digests of all that belongs to it
    items.parquet        item_id, attributes, training_events
    index/               versions of the index; the model reads the one that recommender.json names
    encoder.onnx         never changed here
    encoder.int8.onnx    the same with weights in bytes, where the model answers with it
    memory.safetensors   what the model remembers, where it does; never changed after training

**Replacing recommender.json is the commit.** Before it, the new items stand in `items.parquet.new` and the new index
in a version of its own, so that the old model is whole; after it the new one is, and `items.parquet.new` only has to
get its name. Whoever finds it there with the right digest uses it. `index/CURRENT` serves those who open the index
alone; here nobody reads it.
Knows files; does not know what is recommended.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from everyitem.data.columns import UNREADABLE
from everyitem.index import AnyIndex, BeamIndex, ModelIndex, files
from everyitem.memory import Memory

EVENTS = "training_events"
"""Column of `items.parquet`: how often training saw the item; answers an empty history."""
FINGERPRINTS = "fingerprints"
"""Key of `recommender.json`: XXH3-128 of encoder.onnx, items.parquet and itself; version and sha256 of the index."""
MEMORY = "memory.safetensors"
PRECISION = "precision"
"""Key of `recommender.json`: of the encoder that answers; "float32" if there is none."""
REMEDY = "copy or train the model again"
FINGERPRINTED_ITEMS = 1000


class Overtaken(ValueError):
    """The folder has changed since its model was read: read it again and repeat the change."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What a model folder holds beside the encoder, all of one version."""

    index: ModelIndex
    items: pl.DataFrame
    metadata: dict[str, Any]
    memory: Memory | None


def write(folder: Path, parts: Parts) -> dict[str, Any]:
    """Make this the model of a folder that holds the encoder already; a kill leaves the model before or this one.

    Args:
        folder: may hold a model. The version of its index before this one stays, for readers that are opening it.
        parts: `metadata` as it was read from the folder, or new (without fingerprints): then whatever is there goes.

    Returns:
        The metadata with new fingerprints.

    Raises:
        BlockingIOError: another process is writing.
        Overtaken: the folder has changed since the metadata was read.
    """
    new_items, new_metadata = folder / "items.parquet.new", folder / "recommender.json.new"
    with locked(folder):
        _refuse_if_changed(folder, parts.metadata)
        _finish(folder)
        files.killpoint("before-items")
        parts.items.write_parquet(new_items)
        files.sync(new_items)
        version = files.named(parts.index.save(folder / "index"))
        encoders = {"encoder.onnx", encoder_file(parts.metadata)}
        prints = {
            **{name: _digest((folder / name).read_bytes()) for name in sorted(encoders)},
            "items.parquet": _digest(new_items.read_bytes()),
            "index": version,
        }
        if parts.memory is not None:
            prints[MEMORY] = _kept(folder / MEMORY, parts.memory)
        metadata = parts.metadata | {FINGERPRINTS: prints}
        prints["recommender.json"] = _own_digest(metadata)
        files.killpoint("before-metadata")
        files.write_synced(new_metadata, (json.dumps(metadata, indent=2) + "\n").encode())
        files.sync(folder)
        files.killpoint("before-commit")
        new_metadata.replace(folder / "recommender.json")
        files.sync(folder)
        files.killpoint("after-commit")
        _finish(folder)
        files.killpoint("after-items")
        with contextlib.suppress(BlockingIOError):  # somebody saves the index alone: the next change clears up
            files.collect_garbage(folder / "index")
    return metadata


def read(folder: Path) -> Parts:
    """One complete version; checks every byte but the encoder's, see `recommender.load`.

    Raises:
        FileNotFoundError: no model there.
        ValueError: a part is damaged or does not belong to the others.
    """
    while True:
        metadata = read_metadata(folder)
        try:
            return _read_parts(folder, metadata)
        except (ValueError, FileNotFoundError):
            # a writer may have taken this version away while it was being opened
            if read_metadata(folder) == metadata:
                raise


def check(folder: Path) -> list[str]:
    """Everything wrong with catalogue, index and metadata, one sentence each; empty if they are sound."""
    index = folder / "index"
    try:
        version = index_version(read_metadata(folder))
        problems = files.check(index, version=version)
        if not problems:
            read(folder)
            files.current_version(index)  # who opens the index alone needs it
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    return problems


def read_metadata(folder: Path) -> dict[str, Any]:
    """What `recommender.json` holds, verified. Raises as `read` does."""
    path = folder / "recommender.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no model here (recommender.json is missing); train one with `everyitem train`"
        )
    try:
        metadata: dict[str, Any] = json.loads(path.read_text())
        damaged = metadata[FINGERPRINTS]["recommender.json"] != _own_digest(metadata)
    except (KeyError, RecursionError, TypeError, ValueError):
        damaged = True
    if damaged:
        raise ValueError(f"{path}: damaged; {REMEDY}")
    return metadata


def index_version(metadata: dict[str, Any]) -> str | None:
    """The version of the index that belongs to the model; None: of an early release, which named none."""
    named: str = metadata[FINGERPRINTS]["index"]
    return named if " " in named else None


def encoder_file(metadata: dict[str, Any]) -> str:
    """The file of the encoder that answers: bf16 is computed from the float32 one."""
    return "encoder.int8.onnx" if metadata.get(PRECISION) == "int8" else "encoder.onnx"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other writers out of the model folder; readers do not wait. Raises BlockingIOError if one is at work."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        message = f"{folder}: another process is changing this model; wait until it has finished"
        raise BlockingIOError(error.errno, message) from None
    finally:
        os.close(descriptor)


def _refuse_if_changed(folder: Path, metadata: dict[str, Any]) -> None:
    known = metadata.get(FINGERPRINTS)
    if known and (folder / "recommender.json").is_file() and read_metadata(folder)[FINGERPRINTS] != known:
        raise Overtaken(
            f"{folder}: changed since this model was loaded; load it again, repeat the change and save, "
            "or save to a folder of its own"
        )


def _finish(folder: Path) -> None:
    """Give the committed items their name, if whoever committed them was killed before."""
    new_items = folder / "items.parquet.new"
    try:
        committed = _digest(new_items.read_bytes()) == read_metadata(folder)[FINGERPRINTS]["items.parquet"]
    except (ValueError, FileNotFoundError):
        return
    if committed:
        new_items.replace(folder / "items.parquet")
        files.sync(folder)


def _read_parts(folder: Path, metadata: dict[str, Any]) -> Parts:
    prints, encoder = metadata[FINGERPRINTS], encoder_file(metadata)
    if _digest((folder / encoder).read_bytes()) != prints[encoder]:
        raise ValueError(f"{folder / encoder}: damaged or of another model (checksum differs); {REMEDY}")
    items = _read_items(folder, prints["items.parquet"])
    version = index_version(metadata)
    index = files.load_index(folder / "index", version=version)
    if len(items) != index.num_items or not {"item_id", EVENTS} <= set(items.columns):
        raise ValueError(
            f"{folder}: items.parquet has {len(items):,} rows and the index {index.num_items:,} items; "
            f"they do not belong together, {REMEDY}"
        )
    if version is None and not isinstance(index, BeamIndex) and _vectors_digest(index) != prints["index"]:
        raise ValueError(f"{folder / 'index'}: holds other vectors than this model's; {REMEDY}")
    return Parts(index, items, metadata, _read_memory(folder, prints[MEMORY]) if MEMORY in prints else None)


def _kept(path: Path, memory: Memory) -> str:
    """The digest of the memory's file, which is written unless it is there already."""
    content = save(memory.arrays())
    if not path.is_file() or path.read_bytes() != content:
        new = path.with_name(path.name + ".new")
        files.write_synced(new, content)
        new.replace(path)
    return _digest(content)


def _read_memory(folder: Path, wanted: str) -> Memory:
    path = folder / MEMORY
    if not path.is_file() or _digest(path.read_bytes()) != wanted:
        raise ValueError(f"{path}: damaged or of another model (checksum differs); {REMEDY}")
    try:
        return Memory.from_arrays(load_file(path))
    except (SafetensorError, KeyError):
        raise ValueError(f"{path}: not of this release; {REMEDY}") from None


def _read_items(folder: Path, wanted: str) -> pl.DataFrame:
    """The catalogue with the wanted digest. Looked for in this order, it is found even if it is renamed meanwhile."""
    for name in ("items.parquet.new", "items.parquet"):
        path = folder / name
        content = path.read_bytes() if name == "items.parquet" or path.is_file() else b""
        if _digest(content) == wanted:
            try:
                return pl.read_parquet(content)
            except UNREADABLE:
                raise ValueError(f"{path}: damaged; {REMEDY}") from None
    raise ValueError(f"{folder / 'items.parquet'}: damaged or of another model (checksum differs); {REMEDY}")


def _own_digest(metadata: dict[str, Any]) -> str:
    """Of everything but itself, the other fingerprints included."""
    others = {name: value for name, value in metadata[FINGERPRINTS].items() if name != "recommender.json"}
    return _digest(json.dumps(metadata | {FINGERPRINTS: others}).encode())


def _vectors_digest(index: AnyIndex) -> str:
    """Of its first vectors, which is how an early release knew an index again."""
    return _digest(index.vectors(np.arange(min(index.num_items, FINGERPRINTED_ITEMS))).tobytes())


def _digest(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)
