"""Bring your own embeddings: vectors and codes from files, and what compressing them costs. Knows no index folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from everyitem.index.dense import DenseIndex
from everyitem.index.pq import PQIndex
from everyitem.types import Floats, TopK

CHUNK_ROWS = 1 << 16
PAIRS_PER_QUERY = 100


class Embeddings(NamedTuple):
    """Item vectors and, where the file has them, the items' external ids."""

    vectors_ID: Floats
    """(I, D) float32; a memory map where the file allows it."""
    item_ids: NDArray[Any] | None
    """(I,) str or int64, in the order of the vectors."""


def read_vectors(path: str | Path, *, name: str | None = None) -> Embeddings:
    """Item vectors from .npy (a matrix), .safetensors (a matrix) or .parquet.

    Parquet: the column item_id, if there is one, names the items. The vectors are the one list or array column, or all
    numeric columns side by side.

    Args:
        path: the file; its suffix says what it is.
        name: the tensor (.safetensors) or the list column (.parquet) to read; None: the only one there is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, or the file does not hold one matrix of numbers; the message says what it holds.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    match path.suffix:
        case ".npy":
            return Embeddings(_matrix(_load_npy(path), path), None)
        case ".safetensors":
            return Embeddings(_matrix(_load_tensor(path, name), path), None)
        case ".parquet":
            return _load_parquet(path, name)
    raise ValueError(f"{path} ends in {path.suffix!r}, but vectors are read from .npy, .safetensors or .parquet")


def read_codes(codes_path: str | Path, codebooks_path: str | Path) -> tuple[NDArray[np.uint8], Floats]:
    """(codes_IM, codebooks_MBd) from two .npy files, mapped; `PQIndex` checks that they fit each other."""
    return _load_npy(Path(codes_path)), _load_npy(Path(codebooks_path))


def compression_report(
    vectors_ID: Floats, index: PQIndex, *, k: int = 10, num_queries: int = 200, seed: int = 0
) -> dict[str, float]:
    """What product quantisation cost, asked with item vectors as queries (what is similar to this item?).

    Args:
        vectors_ID: (I, D) the vectors that the index was made of, in its order; may be a memory map.
        index: made of them.
        k: depth of the comparison.
        num_queries: items drawn without replacement.
        seed: of the draw.

    Returns:
        recall (share of the dense top k that is in the index's top k), mean_abs_error and relative_error (against
        the mean magnitude of dense scores) of scores of random pairs, bytes_per_item_dense and bytes_per_item (codes,
        codebooks and rotation).

    Raises:
        ValueError: the vectors are not the index's.

    Cost: one dense scan per query, O(num_queries D I); reads 65536 vectors at a time.
    """
    num_items, dim = vectors_ID.shape
    if (num_items, dim) != (index.num_items, index.dim):
        raise ValueError(f"vectors have shape {vectors_ID.shape}, but the index needs {(index.num_items, index.dim)}")
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(num_items, min(num_queries, num_items), replace=False))
    query_UD = np.ascontiguousarray(vectors_ID[sample], np.float32)
    dense, compressed = _dense_top_k(vectors_ID, query_UD, k), index.top_k(query_UD, k)
    hits = [len(np.intersect1d(a[a >= 0], b)) for a, b in zip(dense.items, compressed.items, strict=True)]

    pairs_UN = rng.integers(0, num_items, (len(sample), PAIRS_PER_QUERY))
    wanted_UN = np.stack([q @ np.asarray(vectors_ID[p], np.float32).T for q, p in zip(query_UD, pairs_UN, strict=True)])
    error = float(np.abs(index.scores(query_UD, pairs_UN) - wanted_UN).mean())
    fixed = index.codebooks_MBd.nbytes + (0 if index.rotation_DD is None else index.rotation_DD.nbytes)
    return {
        "recall": sum(hits) / max(1, int((dense.items >= 0).sum())),
        "mean_abs_error": error,
        "relative_error": error / max(float(np.abs(wanted_UN).mean()), float(np.finfo(np.float32).tiny)),
        "bytes_per_item_dense": 4.0 * dim,
        "bytes_per_item": index.num_splits + fixed / num_items,
    }


def _dense_top_k(vectors_ID: Floats, query_UD: Floats, k: int) -> TopK:
    """`DenseIndex(vectors_ID).top_k`, reading a chunk of the vectors at a time."""
    starts = range(0, len(vectors_ID), CHUNK_ROWS)
    found = [DenseIndex(vectors_ID[start : start + CHUNK_ROWS]).top_k(query_UD, k) for start in starts]
    items = np.concatenate([top.items + start for top, start in zip(found, starts, strict=True)], axis=1)
    scores = np.concatenate([top.scores for top in found], axis=1)
    order = np.lexsort((items, -scores), axis=1)[:, :k]
    items, scores = np.take_along_axis(items, order, 1), np.take_along_axis(scores, order, 1)
    items[np.isneginf(scores)] = -1
    return TopK(items, scores, scores[:, -1], np.full(len(query_UD), len(vectors_ID), np.int64))


def _load_npy(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an .npy file of numbers ({error})") from None
    return array


def _load_tensor(path: Path, name: str | None) -> NDArray[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            array: NDArray[Any] = file.get_tensor(_only(shapes, name, path))
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as .safetensors of float32 or float16 ({error})") from None
    return array


def _only(shapes: Mapping[str, tuple[int, ...]], name: str | None, path: Path) -> str:
    matrices = [key for key, shape in shapes.items() if len(shape) == 2 and name in (None, key)]
    if len(matrices) != 1:
        wanted = "exactly one matrix is needed" if name is None else f"there is no matrix called {name!r}"
        raise ValueError(f"{path} holds {dict(shapes)}, but {wanted}; give the name of one")
    return matrices[0]


def _load_parquet(path: Path, name: str | None) -> Embeddings:
    try:
        frame = pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} is not a parquet file ({error})") from None
    item_ids = frame["item_id"].to_numpy() if "item_id" in frame.columns else None
    values = frame.drop("item_id", strict=False)
    nested = [key for key, dtype in values.schema.items() if dtype.is_nested() and name in (None, key)]
    if len(nested) == 1:
        return Embeddings(_matrix(_stacked(values[nested[0]], path), path), item_ids)
    if nested or name is not None or not values.width or not all(dtype.is_numeric() for dtype in values.dtypes):
        raise ValueError(
            f"{path} holds {dict(frame.schema)}, but one list column is needed, or numeric columns only (beside "
            "item_id); give the name of a list column"
        )
    return Embeddings(_matrix(values.to_numpy(), path), item_ids)


def _stacked(column: pl.Series, path: Path) -> NDArray[Any]:
    width = len(column[0]) if len(column) and column[0] is not None else 0
    try:
        return column.cast(pl.Array(pl.Float32, width)).to_numpy()
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path}: column {column.name!r} is not one vector of numbers per item ({error})") from None


def _matrix(array: NDArray[Any], path: Path) -> Floats:
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}, but a matrix of numbers is needed")
    return array if array.dtype == np.float32 else array.astype(np.float32)
