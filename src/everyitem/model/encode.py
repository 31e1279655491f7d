"""Histories of item vectors to queries, by ONNX Runtime. Works without torch; `export.py` makes its file."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from everyitem.model import PrecisionName
from everyitem.types import Floats, Histories, Ids

Graph = Callable[[dict[str, Floats]], Sequence[Floats]]
"""Inputs by name to outputs in order."""


class Encoder:
    """An exported backbone: (U, T, D) item vectors, oldest first and without padding, to (U, D) queries.

    One thread per session: several requests on several threads beat one request on several threads, and spinning
    pools starve each other. Length is free, so a short history costs little.

    Args:
        path: the .onnx file.
        length: the newest events that the backbone sees.
        precision: "float32"; "int8" for a file that `model.int8` wrote; "bf16" computes a float32 file in bfloat16 by
            OpenVINO (extra "openvino"), on CPUs that have it.

    Raises:
        ValueError: the file cannot be loaded.
        ModuleNotFoundError: "bf16" without OpenVINO.
    """

    def __init__(self, path: Path, length: int, precision: PrecisionName = "float32") -> None:
        try:
            self._graph, widths = _openvino(path) if precision == "bf16" else _onnxruntime(path)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # engines raise their own types per cause, all of them mean: not loadable
            raise ValueError(f"{path}: the encoder cannot be loaded ({str(error).splitlines()[0][:200]})") from None
        self.length, self.precision = length, precision
        self.state_width: int = widths.get("past", 0)

    @property
    def keeps_state(self) -> bool:
        """Whether `extend` is there: of a causal backbone, exported by a release that knows of it."""
        return self.state_width > 0

    def __call__(self, x_UTD: Floats) -> Floats:
        """(U, D) queries."""
        return self.extend(x_UTD)[0] if self.keeps_state else self._graph({"x": x_UTD})[0]

    def extend(self, x_UTD: Floats, past_UPE: Floats | None = None) -> tuple[Floats, Floats]:
        """Queries after T more events, and what to keep of them.

        Args:
            x_UTD: item vectors of the new events, T >= 1 and P + T <= `length`.
            past_UPE: what earlier calls returned for the P events before, joined along the second axis; None: P = 0.

        Returns:
            (U, D) queries and (U, T, E) state of the new events. In float32 they equal those of the whole history but
            for rounding; in int8 and bf16 but for what these lose, which depends on how the history is cut.
        """
        past = np.empty((len(x_UTD), 0, self.state_width), np.float32) if past_UPE is None else past_UPE
        query, state = self._graph({"x": x_UTD, "past": past})
        return query, state


def open_session(path: Path) -> ort.InferenceSession:
    """An exported model on one thread of the CPU; onnxruntime raises its own types where it cannot be loaded."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _onnxruntime(path: Path) -> tuple[Graph, dict[str, int]]:
    """The graph, and how wide its inputs are."""
    session = open_session(path)

    def graph(inputs: dict[str, Floats]) -> Sequence[Floats]:
        found: Sequence[Floats] = session.run(None, inputs)
        return found

    return graph, {given.name: given.shape[2] for given in session.get_inputs()}


def _openvino(path: Path) -> tuple[Graph, dict[str, int]]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": "1", "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(str(path), "CPU", settings)
    mine = threading.local()  # a request computes one thing at a time

    def graph(inputs: dict[str, Floats]) -> Sequence[Floats]:
        request: Any = mine.__dict__.setdefault("request", None) or model.create_infer_request()
        mine.request = request
        found = request.infer(inputs)
        return [np.array(found[output]) for output in model.outputs]

    return graph, {given.any_name: given.partial_shape[2].get_length() for given in model.inputs}


def equal_lengths(histories: Histories, length: int, batch: int) -> Iterator[tuple[NDArray[np.int64], Ids]]:
    """Groups of rows that need no padding: (rows, ids (U, T)) with the newest `length` events, at most `batch` rows."""
    newest = histories.last(length)
    order = np.argsort(newest.lengths, kind="stable")
    cuts = np.flatnonzero(np.diff(newest.lengths[order])) + 1
    for group in np.split(order, cuts):
        for first in range(0, len(group), batch):
            rows = group[first : first + batch]
            yield rows, newest.select(rows).padded()
