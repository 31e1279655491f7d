"""Vectors from other people's files, and the report on what compressing them costs."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from everyitem.index import DenseIndex, PQIndex, embeddings
from everyitem.index.embeddings import compression_report, read_codes, read_vectors

VECTORS = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)


def write(path: Path, content: Any) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, content)
        case ".safetensors":
            save_file(content, path)
        case ".parquet":
            pl.DataFrame(content).write_parquet(path)
    return path


def columns(vectors: Any) -> dict[str, Any]:
    return {f"d{j}": column for j, column in enumerate(vectors.T)}


SOURCES: dict[str, tuple[str, Any, str | None, list[Any] | None]] = {
    "npy": ("a.npy", VECTORS, None, None),
    "npy float64": ("a.npy", VECTORS.astype(np.float64), None, None),
    "tensor": ("a.safetensors", {"items": VECTORS, "bias": VECTORS[0]}, None, None),
    "named tensor": ("a.safetensors", {"items": VECTORS, "users": VECTORS * 2}, "items", None),
    "list": (
        "a.parquet",
        {"item_id": [f"i{i}" for i in range(50)], "v": VECTORS.tolist()},
        None,
        [f"i{i}" for i in range(50)],
    ),
    "array": ("a.parquet", {"item_id": range(50), "v": VECTORS}, None, list(range(50))),
    "named list": ("a.parquet", {"v": VECTORS, "w": VECTORS * 2}, "v", None),
    "columns": ("a.parquet", {"item_id": range(50)} | columns(VECTORS), None, list(range(50))),
}


@pytest.mark.parametrize(("name", "content", "chosen", "ids"), SOURCES.values(), ids=SOURCES)
def test_every_source_gives_the_same_vectors(
    tmp_path: Path, name: str, content: Any, chosen: str | None, ids: Any
) -> None:
    vectors, item_ids = read_vectors(write(tmp_path / name, content), name=chosen)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, VECTORS)
    assert (None if item_ids is None else item_ids.tolist()) == ids


BAD: dict[str, tuple[str, Any, str | None, str]] = {
    "suffix": ("a.csv", None, None, "are read from .npy, .safetensors or .parquet"),
    "damaged npy": ("a.npy", None, None, "not an .npy file"),
    "damaged tensor": ("a.safetensors", None, None, "cannot be read"),
    "damaged parquet": ("a.parquet", None, None, "not a parquet file"),
    "flat": ("a.npy", VECTORS[0], None, "float32 of shape .6,., but a matrix"),
    "text": ("a.npy", np.array([["a"]]), None, "a matrix of numbers is needed"),
    "objects": ("a.npy", np.array([[None]]), None, "not an .npy file of numbers"),
    "two tensors": ("a.safetensors", {"a": VECTORS, "b": VECTORS}, None, "exactly one matrix is needed"),
    "no such tensor": ("a.safetensors", {"a": VECTORS}, "b", "no matrix called 'b'"),
    "ragged": ("a.parquet", {"v": [[1.0, 2.0], [3.0]]}, None, "column 'v' is not one vector of numbers per item"),
    "two lists": ("a.parquet", {"v": VECTORS, "w": VECTORS}, None, "give the name of a list column"),
    "strings": ("a.parquet", {"item_id": [1], "title": ["x"]}, None, "numeric columns only"),
    "only ids": ("a.parquet", {"item_id": [1]}, None, "numeric columns only"),
}


@pytest.mark.parametrize(("name", "content", "chosen", "message"), BAD.values(), ids=BAD)
def test_mistakes_are_explained(tmp_path: Path, name: str, content: Any, chosen: str | None, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not what it says") if content is None else write(path, content)
    with pytest.raises(ValueError, match=message):
        read_vectors(path, name=chosen)
    with pytest.raises(FileNotFoundError):
        read_vectors(tmp_path / "nothing.npy")


def test_codes_come_from_two_files(tmp_path: Path) -> None:
    codes, codebooks = np.zeros((3, 2), np.uint8), np.ones((2, 4, 5), np.float32)
    found = read_codes(write(tmp_path / "codes.npy", codes), write(tmp_path / "codebooks.npy", codebooks))
    assert PQIndex(*found).num_items == 3


def test_the_report_measures_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "CHUNK_ROWS", 100)
    vectors = np.random.default_rng(1).standard_normal((450, 8)).astype(np.float32)
    coarse, fine = (PQIndex.from_embeddings(vectors, m, num_sub_items=b) for m, b in ((2, 4), (8, 256)))
    poor, good = compression_report(vectors, coarse), compression_report(vectors, fine)
    assert poor["recall"] < 0.6 < 0.95 < good["recall"] <= 1
    assert poor["relative_error"] > 5 * good["relative_error"]
    assert good["bytes_per_item_dense"] == 32
    assert good["bytes_per_item"] == pytest.approx(8 + 8 * 256 * 4 / 450)
    lossless = compression_report(fine.vectors(np.arange(450)), fine)
    assert lossless["recall"] > 0.99
    assert lossless["mean_abs_error"] < 1e-5


def test_the_chunked_scan_is_the_dense_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "CHUNK_ROWS", 7)
    for k in (1, 10, 60):
        wanted = DenseIndex(VECTORS).top_k(VECTORS[:3], k)
        found = embeddings._dense_top_k(VECTORS, VECTORS[:3], k)
        assert np.array_equal(found.items[:, : wanted.items.shape[1]], wanted.items)
        assert found.scores[:, :k].tobytes() == wanted.scores.tobytes()


def test_the_report_refuses_other_vectors() -> None:
    index = PQIndex(np.zeros((3, 2), np.uint8), np.ones((2, 4, 5), np.float32))
    with pytest.raises(ValueError, match=r"shape \(50, 6\), but the index needs \(3, 10\)"):
        compression_report(VECTORS, index)
