"""Histories of item vectors to queries, by ONNX Runtime. Works without torch; `export.py` makes its file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from everyitem.types import Floats, Histories, Ids


class Encoder:
    """An exported backbone: (U, T, D) item vectors, oldest first and without padding, to (U, D) queries.

    One thread per session: several requests on several threads beat one request on several threads, and spinning
    pools starve each other. Length is free, so a short history costs little.

    Args:
        path: the .onnx file.
        length: the newest events that the backbone sees.
    """

    def __init__(self, path: Path, length: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own types per cause, all of them mean: not loadable
            raise ValueError(f"{path}: the encoder cannot be loaded ({str(error).splitlines()[0][:200]})") from None
        self.length = length

    def __call__(self, x_UTD: Floats) -> Floats:
        """(U, D) queries."""
        query: Floats = self.session.run(["query"], {"x": x_UTD})[0]
        return query


def equal_lengths(histories: Histories, length: int, batch: int) -> Iterator[tuple[NDArray[np.int64], Ids]]:
    """Groups of rows that need no padding: (rows, ids (U, T)) with the newest `length` events, at most `batch` rows."""
    newest = histories.last(length)
    order = np.argsort(newest.lengths, kind="stable")
    cuts = np.flatnonzero(np.diff(newest.lengths[order])) + 1
    for group in np.split(order, cuts):
        for first in range(0, len(group), batch):
            rows = group[first : first + batch]
            yield rows, newest.select(rows).padded()
