"""Index folders on disk: crash-safe to write, verified to the byte when opened, never parsed by C++.

    folder/CURRENT                       the version in use and the sha256 of its manifest
    folder/v000001/manifest.json         kind, format, and dtype, shape, size and XXH3-128 of every section
    folder/v000001/{codes,...}.npy       the sections, opened by mmap
    folder/LOCK                          held by the one process that may write

A version is written beside the others, synced and renamed into place; then CURRENT is replaced. Whenever that is cut
short, CURRENT names a complete version. Knows the arrays of each kind of index; does not know how they are searched.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

import everyitem
from everyitem.types import Floats, Index

if TYPE_CHECKING:
    from everyitem.index import ModelIndex

Array = NDArray[Any]

FORMAT = 1
GOLDEN_K = 10
CHUNK = 1 << 24
MAX_MANIFEST = 1 << 20
SECTION_NAME = "[a-z0-9_]{1,64}"
VERSION = r"v\d{6,9} [0-9a-f]{64}"
REMEDY = "restore the folder from a copy, or save the index again"


class Version(NamedTuple):
    """One version, opened: what kind of index it is and its arrays by name."""

    kind: str
    sections: dict[str, Array]


def golden(index: Index[Floats], dim: int) -> dict[str, Array]:
    """A fixed query and its answer, stored so that `check` can ask it again, on any machine: the bits must agree."""
    query = np.linspace(-1, 1, dim, dtype=np.float32)[None]
    top = index.top_k(query, GOLDEN_K)
    return {"golden_query": query, "golden_items": top.items, "golden_scores": top.scores}


def save(folder: str | Path, kind: str, sections: Mapping[str, Array]) -> Path:
    """Write a new version and make it current. Older versions stay until `collect_garbage`.

    Args:
        folder: made if missing.
        kind: "pq", "dense", "two-level" or "beam".
        sections: arrays by name, lower case.

    Returns:
        The version's own folder.

    Raises:
        BlockingIOError: another process is writing to the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _writer_lock(folder):
        name = f"v{max(_versions(folder), default=0) + 1:06d}"
        temporary = folder / f"{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        killpoint("before-write")
        described = {section: _write_section(temporary, section, array) for section, array in sections.items()}
        manifest = {"format": FORMAT, "everyitem": everyitem.__version__, "kind": kind, "sections": described}
        content = json.dumps(manifest, indent=1).encode()
        write_synced(temporary / "manifest.json", content)
        sync(temporary)
        killpoint("before-rename")
        temporary.rename(folder / name)
        sync(folder)
        killpoint("before-current")
        write_synced(folder / "CURRENT.tmp", f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
        killpoint("before-replace")
        os.replace(folder / "CURRENT.tmp", folder / "CURRENT")
        sync(folder)
        killpoint("after-current")
    return folder / name


def load_index(folder: str | Path, *, version: str | None = None, verify: bool = True) -> "ModelIndex":
    """Open a version of an index folder; sections are mapped, not read into memory.

    Args:
        folder: what `save` wrote.
        version: as `named` or `current_version` names it; None opens the current one.
        verify: compare every byte with its checksum first. False is for folders that were checked before.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: a section is damaged or does not fit the others; the message names it.

    Cost: reads every byte once, about 0.1 s per GB from memory; much less without `verify`.
    """
    from everyitem.index.beam import BeamIndex
    from everyitem.index.dense import DenseIndex
    from everyitem.index.pq import PQIndex
    from everyitem.index.two_level import TwoLevelIndex

    kind, sections = open_version(folder, version=version, verify=verify)
    index: ModelIndex
    try:
        match kind:
            case "pq":
                index = PQIndex.from_sections(sections, verify=verify)
            case "dense":
                index = DenseIndex(sections["vectors"])
            case "two-level":
                index = TwoLevelIndex.from_sections(sections)
            case "beam":
                width, exact = sections["width"].item(), bool(sections["exact"])
                index = BeamIndex(sections["tokens"], width=width, exact=exact)
            case _:
                raise ValueError(f"the kind is {kind!r}, but this release opens 'pq', 'dense', 'two-level' and 'beam'")
        removed = sections["removed"]
        if removed.dtype != bool or removed.shape != (index.num_items,):
            raise ValueError(f"removed is {removed.dtype} {removed.shape}, but bool ({index.num_items},) is needed")
    except KeyError as error:
        raise ValueError(f"{folder}: section {error} is missing; {REMEDY}") from None
    except ValueError as error:
        raise ValueError(f"{folder}: {error}; {REMEDY}") from None
    if removed.any():
        index.remove(np.flatnonzero(removed))
    return index


def open_version(folder: str | Path, *, version: str | None = None, verify: bool = True) -> Version:
    """A version's arrays, mapped read-only; None: the current one. Raises as `load_index` does."""
    where, manifest = _read_manifest(Path(folder), version)
    for name, description in manifest["sections"].items():
        _check_file(where / f"{name}.npy", description, verify=verify)
    return Version(manifest["kind"], {name: _map(where / f"{name}.npy", d) for name, d in manifest["sections"].items()})


def named(where: Path) -> str:
    """How a version is named where it is chosen, such as in CURRENT: its folder and the sha256 of its manifest."""
    return f"{where.name} {hashlib.sha256((where / 'manifest.json').read_bytes()).hexdigest()}"


def current_version(folder: str | Path) -> str:
    """The version that CURRENT names. Raises FileNotFoundError or ValueError where there is none or it is damaged."""
    try:
        content = (Path(folder) / "CURRENT").read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} holds no index (no file CURRENT); write one with index.save") from None
    if re.fullmatch(rb"%b\n" % VERSION.encode(), content) is None:
        raise ValueError(f"{Path(folder) / 'CURRENT'} is damaged; {REMEDY}")
    return content.decode().strip()


def check(folder: str | Path, *, version: str | None = None) -> list[str]:
    """Everything wrong with a version of an index folder (None: the current one), one sentence each.

    Compares every byte with its checksum, looks at structure (codes within codebooks, finite values, shapes), and asks
    the golden query again: ids and score bits must be those recorded when the index was saved.
    """
    problems = []
    try:
        where, manifest = _read_manifest(Path(folder), version)
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    for name, description in manifest["sections"].items():
        try:
            _check_file(where / f"{name}.npy", description, verify=True)
        except ValueError as error:
            problems.append(str(error))
    return problems or _check_answers(folder, version)


def collect_garbage(folder: str | Path) -> list[Path]:
    """Delete what no reader needs: all versions but the current and the one before, and leftovers of killed writers.

    Returns:
        What was deleted.

    Raises:
        BlockingIOError: another process is writing to the folder.
    """
    folder = Path(folder)
    with _writer_lock(folder):
        current = int(current_version(folder).split()[0][1:])
        previous = max((number for number in _versions(folder) if number < current), default=current)
        kept = {f"v{current:06d}", f"v{previous:06d}"}
        gone = [path for path in sorted(folder.iterdir()) if _is_ours(path.name) and path.name not in kept]
        for path in gone:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return gone


def recorded_golden(folder: str | Path, version: str | None = None) -> dict[str, Array]:
    """The golden query of a version, where its index does not bring its own, and the answer; in memory.

    Raises:
        ValueError: the version holds no golden answer, or is gone.
    """
    sections = open_version(folder, version=version, verify=False).sections
    recorded = {name: np.array(array) for name, array in sections.items() if name.startswith("golden_")}
    if missing := {"golden_items", "golden_scores"} - recorded.keys():
        raise ValueError(f"{folder}: section {min(missing)} is missing; {REMEDY}")
    return recorded


def golden_answered(index: Any, recorded: Mapping[str, Array]) -> bool:
    """Whether an index as it was opened gives the answer that was recorded when it was saved, to the bit.

    A PQ index holds its codes twice, as rows and in blocks: both are asked.
    """
    from everyitem.index.beam import BeamIndex
    from everyitem.index.pq import PQIndex

    items, scores = recorded["golden_items"], recorded["golden_scores"]
    answers = [index.golden()] if isinstance(index, BeamIndex) else [index.top_k(recorded["golden_query"], GOLDEN_K)]
    if isinstance(index, PQIndex):
        answers.append(index.top_k(recorded["golden_query"], GOLDEN_K, algorithm="pqtopk"))
    return all(top.items.tobytes() + top.scores.tobytes() == items.tobytes() + scores.tobytes() for top in answers)


def _check_answers(folder: str | Path, version: str | None) -> list[str]:
    try:
        if golden_answered(load_index(folder, version=version), recorded_golden(folder, version)):
            return []
    except ValueError as error:
        return [str(error)]
    return [f"{folder}: the golden query no longer gives the answer recorded at save; {REMEDY}"]


def _read_manifest(folder: Path, version: str | None) -> tuple[Path, dict[str, Any]]:
    version = version or current_version(folder)
    if re.fullmatch(VERSION, version) is None:
        raise ValueError(f"{version!r} names no version of {folder}; give one that index.save wrote")
    name, digest = version.split()
    path = folder / name / "manifest.json"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path} is missing; {REMEDY}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path} is damaged (sha256 differs from the one it was saved with); {REMEDY}")
    manifest = _parsed(content)
    if manifest is None:
        raise ValueError(f"{path} is not a manifest of format {FORMAT}; {REMEDY}, or upgrade everyitem")
    return path.parent, manifest


def _parsed(content: bytes) -> dict[str, Any] | None:
    """The manifest if all its fields are there, of the right types, and no name leads out of the folder."""
    try:
        manifest: dict[str, Any] = json.loads(content)
        sound = manifest["format"] == FORMAT and isinstance(manifest["kind"], str)
        for name, section in manifest["sections"].items():
            sound &= re.fullmatch(SECTION_NAME, name) is not None
            sound &= all(isinstance(section[key], str) for key in ("dtype", "xxh3_128"))
            sound &= all(type(number) is int for number in (section["bytes"], *section["shape"]))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return manifest if sound else None


def _check_file(path: Path, description: Mapping[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise ValueError(f"section {path.stem} ({path}) is missing; {REMEDY}")
    size = path.stat().st_size
    if size != description["bytes"]:
        raise ValueError(f"section {path.stem} ({path}) has {size} bytes, not {description['bytes']}; {REMEDY}")
    if verify and _checksum(path) != description["xxh3_128"]:
        raise ValueError(f"section {path.stem} ({path}) is damaged (checksum differs); {REMEDY}")


def _map(path: Path, description: Mapping[str, Any]) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header makes NumPy raise a dozen kinds
        raise ValueError(f"section {path.stem} ({path}) is not an .npy file ({error}); {REMEDY}") from None
    got, wanted = (array.dtype.str, list(array.shape)), (description["dtype"], description["shape"])
    if got != wanted:
        raise ValueError(f"section {path.stem} ({path}) is {got}, but its manifest says {wanted}; {REMEDY}")
    return array


def _write_section(where: Path, name: str, array: Array) -> dict[str, Any]:
    assert re.fullmatch(SECTION_NAME, name)
    path = where / f"{name}.npy"
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    killpoint("between-sections")
    size, checksum = path.stat().st_size, _checksum(path)
    return {"dtype": array.dtype.str, "shape": list(array.shape), "bytes": size, "xxh3_128": checksum}


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that survives a power cut once its folder is synced as well."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions(folder: Path) -> list[int]:
    return [int(path.name[1:]) for path in folder.iterdir() if re.fullmatch(r"v\d{6,9}", path.name)]


def _is_ours(name: str) -> bool:
    return re.fullmatch(r"v\d{6,9}(\.tmp)?|CURRENT\.tmp", name) is not None


@contextlib.contextmanager
def _writer_lock(folder: Path) -> Iterator[None]:
    with (folder / "LOCK").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{folder} is being written by another process; wait until it has finished"
            raise BlockingIOError(error.errno, message) from None
        yield


def killpoint(name: str) -> None:
    """Die here if a test asks for it: a writer that is killed must leave a readable folder."""
    if os.environ.get("EVERYITEM_KILLPOINT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
