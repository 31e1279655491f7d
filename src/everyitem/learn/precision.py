"""A faster encoder for a trained model, taken only if it recommends the same items. Works without torch."""

from pathlib import Path

import numpy as np

from everyitem.data.interactions import Log
from everyitem.evaluate.heldout import sample, split_for
from everyitem.model import PrecisionName
from everyitem.model.encode import Encoder
from everyitem.model.int8 import quantise_encoder
from everyitem.model_folder import PRECISION
from everyitem.recommender import Recommender, load
from everyitem.types import Histories, Ids

OVERLAP = 0.99
"""Of the ten best items of the float32 encoder, on average, that another one must find."""
K = 10


def set_precision(
    folder: str | Path, log: Log, precision: PrecisionName, *, max_users: int = 2000, seed: int = 0
) -> float:
    """Let a model answer with an encoder of another precision, if its ten best items stay the same.

    They are compared by vector alone on real histories, those of the test users: what a memory adds is the same for
    both, and would hide differences.

    Args:
        folder: model folder.
        log: the log it was trained on.
        precision: "float32" (as trained), "int8" (weights in bytes) or "bf16" (needs OpenVINO and a CPU that has it).
        max_users: histories compared, at most.
        seed: chooses them.

    Returns:
        The share of the ten best items that both have.

    Raises:
        ValueError: the share is below 99 %; the model is as it was.
        ModuleNotFoundError: onnx ("int8", extra "train") or OpenVINO ("bf16", extra "openvino") is missing.

    Cost: twice the encoder and the search for the histories compared.
    """
    folder = Path(folder)
    recommender = load(folder)
    length = recommender.encoder.length
    recommender.encoder = Encoder(folder / "encoder.onnx", length)
    users = sample(split_for(recommender, log).test, max_users, seed=seed).histories
    users = users.select(np.flatnonzero(users.lengths))
    new, final = folder / "encoder.int8.onnx.new", folder / "encoder.int8.onnx"
    expected_UK = _best(recommender, users)
    try:
        if precision == "int8":
            quantise_encoder(folder / "encoder.onnx", new)
        recommender.encoder = Encoder(new if precision == "int8" else folder / "encoder.onnx", length, precision)
        overlap = overlap_of(_best(recommender, users), expected_UK)
        if overlap < OVERLAP:
            raise ValueError(
                f"{folder}: {precision} finds {overlap:.1%} of the {K} best items of float32 (on {len(users):,} "
                f"histories), allowed: {OVERLAP:.0%} or more; the model stays as it was"
            )
        if precision == "int8":
            new.replace(final)
    finally:
        new.unlink(missing_ok=True)
    recommender.metadata[PRECISION] = precision
    recommender.save(folder)
    return overlap


def overlap_of(found_UK: Ids, expected_UK: Ids) -> float:
    """The mean share of the expected items that were found; -1 is no item."""
    both_UK = ((found_UK[:, :, None] == expected_UK[:, None, :]) & (expected_UK >= 0)[:, None, :]).any(1)
    return float(both_UK.sum() / max(1, (expected_UK >= 0).sum()))


def _best(recommender: Recommender, users: Histories) -> Ids:
    return recommender.index.top_k(recommender.encode(users), K).items
