"""Index folders: whatever happens to the bytes or to the writer, an answer is the saved one or a clear error."""

import hashlib
import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from forks import Forks

from everyitem.index import DenseIndex, PQIndex, files, load_index

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 20, (300, 4), dtype=np.uint8)
CODEBOOKS = RNG.standard_normal((4, 20, 3)).astype(np.float32)
QUERY = RNG.standard_normal((2, 12)).astype(np.float32)
KINDS: dict[str, Callable[[], Any]] = {
    "pq": lambda: PQIndex(CODES, CODEBOOKS),
    "rotated pq": lambda: PQIndex(CODES, CODEBOOKS, rotation_DD=np.eye(12)[::-1]),
    "dense": lambda: DenseIndex(PQIndex(CODES, CODEBOOKS).vectors(range(300))),
}


def answer(index: Any) -> bytes:
    return b"".join(part.tobytes() for part in index.top_k(QUERY, 10))


@pytest.fixture(params=KINDS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bytes]:
    index = KINDS[request.param]()
    index.remove([5, 6])
    index.save(tmp_path / "index")
    return tmp_path / "index", answer(index)


def test_a_sound_folder(saved: tuple[Path, bytes]) -> None:
    folder, wanted = saved
    assert files.check(folder) == []
    assert answer(load_index(folder)) == wanted
    assert answer(load_index(folder, verify=False)) == wanted
    manifest = json.loads((folder / "v000001" / "manifest.json").read_bytes())
    for name, section in manifest["sections"].items():
        content = (folder / "v000001" / f"{name}.npy").read_bytes()
        assert section["xxh3_128"] == xxhash.xxh3_128_hexdigest(content)
        assert section["bytes"] == len(content)


def test_sections_are_mapped_and_a_loaded_index_can_change(saved: tuple[Path, bytes]) -> None:
    folder, _ = saved
    index = load_index(folder)
    array = index.codes_IM if isinstance(index, PQIndex) else index.vectors_ID
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    assert isinstance(array, np.memmap)
    index.remove([7])
    assert index.add(vectors=index.vectors([1])).tolist() == [300]
    index.save(folder)
    assert answer(load_index(folder)) == answer(index)


def test_an_empty_catalogue_survives(tmp_path: Path) -> None:
    empty: list[PQIndex | DenseIndex] = [PQIndex(CODES[:0], CODEBOOKS), DenseIndex(np.empty((0, 12), np.float32))]
    for number, index in enumerate(empty):
        index.save(tmp_path / str(number))
        assert answer(load_index(tmp_path / str(number))) == answer(index)
        assert files.check(tmp_path / str(number)) == []


def mutate(content: bytes, rng: random.Random) -> bytes:
    """One kind of damage."""
    at = rng.randrange(len(content)) if content else 0
    match rng.randrange(5):
        case 0:  # a bit
            return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
        case 1:  # a zeroed stretch
            length = min(rng.choice([1, 64, 512]), len(content) - at)
            return content[:at] + bytes(length) + content[at + length :]
        case 2:
            return content[: rng.choice([0, at, len(content) - 1])]
        case 3:
            return content + rng.randbytes(rng.choice([1, 64]))
        case _:  # a byte of the first ones, where the header is
            at = min(at, rng.randrange(128))
            return content[:at] + rng.randbytes(1) + content[at + 1 :]


def rehash(folder: Path) -> None:
    """What an attacker does: make every checksum fit the damage."""
    path = folder / "v000001" / "manifest.json"
    content = path.read_bytes()
    try:
        manifest = json.loads(content)
        for name, section in manifest["sections"].items():
            data = (path.parent / f"{name}.npy").read_bytes()
            section |= {"bytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
        content = json.dumps(manifest).encode()
        path.write_bytes(content)
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        pass  # the manifest itself is the damage
    (folder / "CURRENT").write_text(f"v000001 {hashlib.sha256(content).hexdigest()}\n")


def outcome(folder: Path) -> bytes | None:
    """The answer, or None where the folder was refused with a clear error."""
    try:
        return answer(load_index(folder))
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
    assert str(folder) in message
    return None


@pytest.mark.parametrize("fixed", [False, True], ids=["", "checksums fixed"])
def test_mutations_are_refused_or_change_nothing(saved: tuple[Path, bytes], fixed: bool) -> None:
    folder, wanted = saved
    originals = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "LOCK"}
    rng = random.Random(f"{fixed}")
    refused = 0
    for _ in range(100):
        path = rng.choice(sorted(originals))
        swapped = rng.random() < 0.1  # another section in its place
        damaged = rng.choice(sorted(originals.values())) if swapped else mutate(originals[path], rng)
        path.write_bytes(damaged)
        if fixed:
            rehash(folder)
        got = outcome(folder)
        problems = files.check(folder)
        assert all(problems)
        refused += got is None
        if not fixed:
            assert got in (None, wanted)
            assert bool(problems) == (damaged != originals[path])
        for touched in {path} | ({folder / "CURRENT", folder / "v000001" / "manifest.json"} if fixed else set()):
            touched.write_bytes(originals[touched])
    assert refused > (20 if fixed else 80)
    assert outcome(folder) == wanted


@pytest.mark.parametrize("value", [None, -1, 0, 2**63, 2**70, "x", [], {}, [1] * 40, True, 1.5, [2**40, 2**40]])
def test_a_manifest_with_strange_fields_is_refused(saved: tuple[Path, bytes], value: Any) -> None:
    folder, wanted = saved
    path = folder / "v000001" / "manifest.json"
    original = json.loads(path.read_bytes())
    section = next(iter(original["sections"]))
    edits = [("format",), ("kind",), ("sections",), ("sections", section)]
    edits += [("sections", section, key) for key in original["sections"][section]]
    for *parents, key in edits:
        manifest = json.loads(json.dumps(original))
        place = manifest
        for parent in parents:
            place = place[parent]
        place[key] = value
        content = json.dumps(manifest).encode()
        path.write_bytes(content)
        (folder / "CURRENT").write_text(f"v000001 {hashlib.sha256(content).hexdigest()}\n")
        assert outcome(folder) in (None, wanted)
        assert files.check(folder) or outcome(folder) == wanted


def test_no_name_leads_out_of_the_folder(saved: tuple[Path, bytes]) -> None:
    folder, _ = saved
    for name in ("../v000001", "/etc", "v1", "v000001/../.."):
        (folder / "CURRENT").write_text(f"{name} {'0' * 64}\n")
        with pytest.raises(ValueError, match="CURRENT is damaged"):
            load_index(folder)


def test_the_errors_name_the_section_and_the_remedy(saved: tuple[Path, bytes]) -> None:
    folder, _ = saved
    section = next(path for path in (folder / "v000001").glob("*.npy") if path.stem in ("codes", "vectors"))
    content = section.read_bytes()
    section.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"section {section.stem} .*checksum differs.*save the index again"):
        load_index(folder)
    assert [section.stem in problem for problem in files.check(folder)] == [True]
    with pytest.raises(FileNotFoundError, match="holds no index"):
        load_index(folder / "nowhere")


def test_a_changed_answer_is_noticed(tmp_path: Path) -> None:
    """Checksums that fit cannot hide codes that were exchanged: the golden query answers differently."""
    index = PQIndex(CODES, CODEBOOKS)
    version = index.save(tmp_path)
    np.save(version / "codes.npy", np.roll(CODES, 1, axis=0))
    rehash(tmp_path)
    assert "golden query" in files.check(tmp_path)[0]


def test_versions_stay_until_they_are_collected(saved: tuple[Path, bytes]) -> None:
    folder, wanted = saved
    index = load_index(folder)
    for _ in range(3):
        index.save(folder)
    (folder / "v000009.tmp").mkdir()
    (folder / "CURRENT.tmp").touch()
    (folder / "notes.txt").touch()
    gone = {path.name for path in files.collect_garbage(folder)}
    assert gone == {"v000001", "v000002", "v000009.tmp", "CURRENT.tmp"}
    assert (folder / "notes.txt").exists()
    assert answer(index) == answer(load_index(folder)) == wanted


def test_a_second_writer_is_told_to_wait(saved: tuple[Path, bytes]) -> None:
    folder, _ = saved
    index = load_index(folder)
    with files._writer_lock(folder), pytest.raises(BlockingIOError, match="being written by another process; wait"):
        index.save(folder)
    index.save(folder)


WRITER = """
import itertools
import numpy as np
from everyitem.index import PQIndex
codes, codebooks = np.load(sys.argv[1]), np.load(sys.argv[2])
def run(folder):
    for turn in itertools.count():
        PQIndex(np.roll(codes, turn % 2, axis=0), codebooks).save(folder)
        print("at", os.getpid(), flush=True)
"""
ANSWERS = [answer(PQIndex(np.roll(CODES, turn, axis=0), CODEBOOKS)) for turn in range(2)]


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Processes that save two indexes by turns for ever."""
    paths = [tmp_path_factory.mktemp("arrays") / name for name in ("codes.npy", "codebooks.npy")]
    for path, array in zip(paths, (CODES, CODEBOOKS), strict=True):
        np.save(path, array)
    with Forks(WRITER, *paths) as forks:
        yield forks


def test_twenty_kills_leave_a_readable_index(writers: Forks, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    rng = random.Random(0)
    version = 0
    for _ in range(20):
        said, process = writers.start(folder)
        assert said == "at"
        time.sleep(rng.random() * 0.03)
        assert writers.kill(process) == -signal.SIGKILL
        assert answer(load_index(folder)) in ANSWERS
        assert files.check(folder) == []
        now = int(files.current_version(folder).split()[0][1:])
        assert now > version, "a killed writer took the index backwards"
        version = now
    files.collect_garbage(folder)
    assert sum(path.is_dir() for path in folder.iterdir()) <= 2


POINTS = ["before-write", "between-sections", "before-rename", "before-current", "before-replace", "after-current"]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_every_point(point: str, writers: Forks, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    PQIndex(np.roll(CODES, 1, axis=0), CODEBOOKS).save(folder)
    assert writers.run(folder, killpoint=point) == -signal.SIGKILL
    assert answer(load_index(folder)) == ANSWERS[0 if point == "after-current" else 1]
    load_index(folder).save(folder)
    assert files.check(folder) == []


def test_a_full_disk_leaves_the_old_version(saved: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, wanted = saved
    index = load_index(folder)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        index.save(folder)
    assert answer(load_index(folder)) == wanted
    assert files.check(folder) == []


def test_a_folder_can_be_moved(saved: tuple[Path, bytes], tmp_path: Path) -> None:
    folder, wanted = saved
    shutil.move(folder, tmp_path / "elsewhere")
    assert answer(load_index(tmp_path / "elsewhere")) == wanted
