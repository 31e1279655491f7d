"""An exported encoder with weights in bytes. Works without torch; needs onnx (extra "train")."""

import logging
from pathlib import Path
from typing import Any


def quantise_encoder(path: Path, out: Path) -> None:
    """Write the encoder with 8-bit weights, per output channel, whose inputs are quantised as they come.

    Products with a weight matrix are computed in integers; norms, softmax, products of two activations and what the
    newest event alone asks stay float32. What that changes is for `learn.precision` to measure.

    Args:
        path: what `export_onnx` wrote.
        out: the file to write.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    logging.getLogger().addFilter(_is_news)
    try:
        quantize_dynamic(
            model,
            out,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=_products_of_more_dimensions(model.graph),
        )
    finally:
        logging.getLogger().removeFilter(_is_news)


def _products_of_more_dimensions(graph: Any) -> list[str]:
    """Weights by head, which the integer kernels do not take channel by channel."""
    ranks = {weights.name: len(weights.dims) for weights in graph.initializer}
    return [node.name for node in graph.node if any(ranks.get(name, 2) > 2 for name in node.input)]


def _is_news(record: logging.LogRecord) -> bool:
    return "Please consider to run pre-processing" not in record.getMessage()
