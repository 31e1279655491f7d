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

from everyitem.model.encode import Encoder, equal_lengths
from everyitem.model.items import Items
from everyitem.model.transformer import Backbone
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

    The graph starts at item vectors, not ids: the index has them, so adding an item needs no new export.

    Returns:
        The largest absolute difference from torch on random histories of several lengths.

    Raises:
        RuntimeError: the difference passes 1e-5 (relative to the largest value).
    """
    backbone = backbone.eval().cpu()
    example = torch.randn(2, min(3, history_length(backbone)), backbone.dim)
    shapes = {"x": {0: torch.export.Dim("rows"), 1: torch.export.Dim("time", max=history_length(backbone))}}
    with _without_noise():
        program = torch.onnx.export(
            _Last(backbone).eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["x"],
            output_names=["query"],
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)
    worst = _largest_difference(backbone, Encoder(path, history_length(backbone)))
    if worst > TOLERANCE:
        raise RuntimeError(f"{path}: the exported encoder differs from torch by {worst:.1e}, allowed {TOLERANCE:.0e}")
    return worst


@contextmanager
def _without_noise() -> Iterator[None]:
    """Drops what the exporter says whatever it exports: torchvision is not there, and torch uses its own old names."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")

    def is_news(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    logger.addFilter(is_news)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.removeFilter(is_news)


class _Last(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone.last(x)


def _largest_difference(backbone: Backbone, encoder: Encoder) -> float:
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for length in {1, 2, min(7, encoder.length), encoder.length}:
        x = torch.randn(3, length, backbone.dim, generator=generator) * 0.1
        with torch.inference_mode():
            expected = backbone.last(x).numpy()
        worst = max(worst, float(np.abs(encoder(x.numpy()) - expected).max() / max(1.0, np.abs(expected).max())))
    return worst
