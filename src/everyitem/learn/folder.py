"""Writes a model folder: encoder, index, items with their counts, metadata, metrics, model card."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import everyitem
from everyitem.data.interactions import Log
from everyitem.data.splits import Split
from everyitem.index import AnyIndex, BeamIndex, DenseIndex, PQIndex, TwoLevelIndex
from everyitem.index.files import open_version
from everyitem.memory import Memory
from everyitem.model.decode import Decoder
from everyitem.model.encode import Encoder
from everyitem.model.esasrec import ESASRec
from everyitem.model.export import export_onnx
from everyitem.model.items import Items
from everyitem.model.token_decoder import TokenDecoder, export_decoder
from everyitem.model.train import Progressed
from everyitem.model.transformer import Backbone, GBERT4Rec, SASRec
from everyitem.model.two_level import TwoLevelItems
from everyitem.model_folder import EVENTS, MEMORY
from everyitem.recommender import Recommender
from everyitem.types import Histories

LANGUAGE_MODEL = "language_model"
"""Folder inside a model folder: the backbone as plain Hugging Face files."""


def build_index(table: Items) -> AnyIndex:
    """The index of trained item embeddings."""
    arrays: dict[str, Any] = table.arrays()
    if isinstance(table, TwoLevelItems):
        return TwoLevelIndex(**arrays, logit_cap=table.logit_cap)
    return DenseIndex(**arrays) if "vectors_ID" in arrays else PQIndex(**arrays)


def metadata_of(history_length: int, settings: dict[str, Any], log: Log, parts: Split) -> dict[str, Any]:
    """What `recommender.json` says: settings, versions, and the split, which evaluation repeats."""
    return {
        "format": 1,
        "versions": {"everyitem": everyitem.__version__, "torch": torch.__version__},
        "history_length": history_length,
        "settings": settings,
        "protocol": {
            "split": settings["split"],
            "seed": settings["seed"],
            "train_events": parts.train.num_events,
            "valid_users": len(parts.valid.rows),
            "test_users": len(parts.test.rows),
        },
        "log": {"users": log.num_users, "items": log.num_items, "events": log.num_events, "notes": list(log.notes)},
    }


def write_model(
    folder: Path,
    network: Backbone,
    table: Items,
    log: Log,
    train_histories: Histories,
    metadata: dict[str, Any],
    memory: Memory | None = None,
) -> None:
    """Write everything that answers: weights, encoder as ONNX, index, items, metadata, model card."""
    _write_weights(network, table, folder)
    metadata["export_error"] = export_onnx(network, folder / "encoder.onnx")
    items = _counted_items(log, train_histories)
    encoder = Encoder(folder / "encoder.onnx", metadata["history_length"])
    Recommender(encoder, build_index(table), items, metadata, memory).save(folder)
    (folder / "README.md").write_text(_model_card(metadata))


def write_token_model(
    folder: Path,
    decoder: TokenDecoder,
    index: BeamIndex,
    log: Log,
    train_histories: Histories,
    metadata: dict[str, Any],
) -> None:
    """The same for items that are strings of tokens; the tokens' vectors are part of the encoder."""
    if isinstance(decoder.backbone, SASRec):
        _save_state(decoder, folder / "encoder.safetensors")
    else:
        _write_weights(decoder.backbone, decoder.table, folder)
    length, num_levels, path = metadata["history_length"], index.tokens_IM.shape[1], folder / "encoder.onnx"
    metadata["export_error"] = export_decoder(decoder, path, length, num_levels)
    items = _counted_items(log, train_histories)
    Recommender(Decoder(path, length), index, items, metadata).save(folder)
    (folder / "README.md").write_text(_model_card(metadata))


def _counted_items(log: Log, train_histories: Histories) -> pl.DataFrame:
    events = np.bincount(train_histories.events(), minlength=log.num_items)
    return log.items.with_columns(pl.Series(EVENTS, events, dtype=pl.Int64))


def _write_weights(network: Backbone, table: Items, folder: Path) -> None:
    """The backbone's weights; beside those of a language model, in its own folder, stand those of its items."""
    if isinstance(network, SASRec | ESASRec | GBERT4Rec):
        _save_state(network, folder / "encoder.safetensors")
    else:
        network.save(folder / LANGUAGE_MODEL)
        _save_state(table, folder / "item_head.safetensors")


def read_weights(network: Backbone, folder: Path) -> None:
    """Give a backbone the weights that were written to a model folder."""
    if isinstance(network, SASRec | ESASRec | GBERT4Rec):
        network.load_state_dict(load_file(folder / "encoder.safetensors"))
    else:
        network.restore(folder / LANGUAGE_MODEL)


def _save_state(module: nn.Module, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, path)


def write_metrics(folder: Path, state: Progressed, facts: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write `metrics.json`: the protocol, how training went, and sizes in bytes."""
    metrics = {
        "protocol": metadata["protocol"],
        "validation_ndcg@10": state.best,
        "training_seconds": state.seconds,
        **facts,
        "updates": state.updates,
        "best_update": state.best_update,
        "positions": state.positions,
        "positions_per_second": state.positions / max(state.seconds, 1e-9),
        "encoder_bytes": (folder / "encoder.onnx").stat().st_size,
        "memory_bytes": (folder / MEMORY).stat().st_size if metadata["settings"]["memory"] else 0,
        "index_bytes": sum(array.nbytes for array in open_version(folder / "index").sections.values()),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


def _model_card(metadata: dict[str, Any]) -> str:
    settings, log = metadata["settings"], metadata["log"]
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    return (
        f"# {settings['backbone']} with {settings['items']} items\n\nA next-item recommender made by everyitem "
        f"{metadata['versions']['everyitem']} from {log['events']:,} events of {log['users']:,} users on "
        f"{log['items']:,} items.\nSplit: {metadata['protocol']['split']}; what it was not trained on is stated in "
        f"`metrics.json`.\n\n| setting | value |\n|---|---|\n{rows}\n\n`everyitem recommend` needs "
        f"`encoder.onnx`, `items.parquet`, `recommender.json` and `index/`;\n`training/` may be deleted.\n"
    )
