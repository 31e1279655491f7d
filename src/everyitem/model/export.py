"""From a trained backbone to files that answer without torch. Also the reference encoder, in torch."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from everyitem.model.attention import no_past
from everyitem.model.encode import Encoder, equal_lengths
from everyitem.model.esasrec import ESASRec
from everyitem.model.items import Items
from everyitem.model.transformer import Backbone, SASRec
from everyitem.types import Histories

TOLERANCE = 1e-5


def torch_queries(backbone: Backbone, items: Items, histories: Histories, *, batch: int = 256) -> NDArray[np.float32]:
    """(U, D) queries of non-empty histories, computed by torch: the reference for the exported encoder."""
    out = np.empty((len(histories), backbone.dim), np.float32)
    device = next(backbone.parameters()).device
    with torch.inference_mode():
        for rows, ids in equal_lengths(histories, history_length(backbone), batch):
            out[rows] = backbone.last(items(torch.from_numpy(ids).to(device))).float().cpu().numpy()
    return out


def history_length(backbone: Backbone) -> int:
    """The newest events that the backbone sees: a mask takes one place."""
    return backbone.length - (backbone.objective == "masked")


def export_onnx(backbone: Backbone, path: Path) -> float:
    """Write the encoder (U, T, D) -> (U, D) with free U and T, and check it against torch.

    The graph starts at item vectors, not ids: the index has them, so adding an item needs no new export. That of SASRec
    and eSASRec also takes the state of P past events (U, P, E), P = 0 allowed, and returns that of the T new ones, see
    `attention.extend`.

    Returns:
        The largest absolute difference from torch on random histories of several lengths, in one piece and in two.

    Raises:
        RuntimeError: the difference passes 1e-5 (relative to the largest value), or the backbone, as some language
            models, does what ONNX cannot express.
    """
    backbone = backbone.eval().cpu()
    longest = history_length(backbone)
    rows, time, past = (
        torch.export.Dim("rows"),
        torch.export.Dim("time", max=longest),
        torch.export.Dim("past", max=longest),
    )
    x_UTD = torch.randn(2, min(3, longest), backbone.dim)
    inputs, shapes = {"x": x_UTD}, {"x": {0: rows, 1: time}}
    if isinstance(backbone, SASRec | ESASRec):
        width = no_past(x_UTD, list(backbone.blocks)).shape[2]  # type: ignore[arg-type]
        inputs["past"], shapes["past"] = torch.randn(2, 2, width), {0: rows, 1: past}
    try:
        with without_noise():
            program = torch.onnx.export(
                _Encoder(backbone).eval(),
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=["query", "state"][: len(inputs)],
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise RuntimeError(
            f"{path}: this backbone cannot be exported as ONNX, by which models answer without torch; its trained "
            f"weights are in {path.parent} ({str(error.__cause__ or error).strip().splitlines()[0][:200]})"
        ) from None
    assert program is not None
    program.save(path, external_data=False)
    worst = _largest_difference(backbone, Encoder(path, longest))
    if worst > TOLERANCE:
        raise RuntimeError(f"{path}: the exported encoder differs from torch by {worst:.1e}, allowed {TOLERANCE:.0e}")
    return worst


@contextmanager
def without_noise() -> Iterator[None]:
    """Drops what the exporter says whatever it exports: torchvision is not there, and torch uses its own old names."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")

    def is_news(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    logger.addFilter(is_news)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name: rows will not be used", UserWarning)
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.removeFilter(is_news)


class _Encoder(nn.Module):
    """What is exported: queries, and of a backbone that keeps it the state as well."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        if past is None:
            return self.backbone.last(x)
        assert isinstance(self.backbone, SASRec | ESASRec)
        return self.backbone.extend(x, past)


def _largest_difference(backbone: Backbone, encoder: Encoder) -> float:
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for length in {1, 2, min(7, encoder.length), encoder.length}:
        x = torch.randn(3, length, backbone.dim, generator=generator) * 0.1
        with torch.inference_mode():
            expected = backbone.last(x).numpy()
        found = [encoder(x.numpy())]
        if encoder.keeps_state and length > 1:
            found.append(encoder.extend(x[:, -1:].numpy(), encoder.extend(x[:, :-1].numpy())[1])[0])
        scale = max(1.0, float(np.abs(expected).max()))
        worst = max([worst, *(float(np.abs(query - expected).max()) / scale for query in found)])
    return worst
