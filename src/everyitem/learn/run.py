"""One training from log to model folder: split, item embeddings, loop, files. `fit` has checked the settings."""

import json
import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everyitem.compress.assign import Assigned, assign_codes, compress_vectors, starting_vectors
from everyitem.compress.clusters import assign_clusters
from everyitem.data.batches import Batches, windows
from everyitem.data.interactions import Log
from everyitem.data.splits import Holdout, Split, split_log
from everyitem.evaluate.measures import ndcg, ranks_of
from everyitem.index.dense import DenseIndex
from everyitem.index.files import load_index
from everyitem.learn.folder import build_index, metadata_of, read_weights, write_metrics, write_model
from everyitem.learn.remember import fit_memory
from everyitem.memory import Memory, count_transitions
from everyitem.model import loss as losses
from everyitem.model.esasrec import ESASRec
from everyitem.model.export import history_length, torch_queries
from everyitem.model.items import DenseItems, Items, PQItems
from everyitem.model.projection import Projection
from everyitem.model.ranks import ranks
from everyitem.model.train import Loss, Objective, Progressed, train
from everyitem.model.transformer import Backbone, GBERT4Rec, SASRec
from everyitem.model.two_level import TwoLevelItems
from everyitem.recommender import Recommender, load
from everyitem.types import Floats, Histories

Settings = dict[str, Any]
BACKBONES: dict[str, Callable[..., Backbone]] = {"sasrec": SASRec, "esasrec": ESASRec, "gbert4rec": GBERT4Rec}
LARGEST_ENCODER = (1 << 31) - (1 << 24)
"""Bytes of weights that fit into one ONNX file, which ends at 2 GiB."""
MAY_CHANGE = ("epochs", "minutes", "patience")
"""Settings that a resumed run may have otherwise: they only say when to stop."""


def learn(log: Log, folder: Path, settings: Settings, *, threads: int | None, resume: bool, show: bool) -> Recommender:
    """Do what `fit` promises, with its keyword arguments in `settings`.

    Of several processes (`model/ranks.py`) the first writes, and what is long and not training it does alone.
    """
    training, first = folder / "training", ranks().is_main_process
    if threads:
        torch.set_num_threads(threads)
    parts = split_log(log, settings["split"], seed=settings["seed"])
    torch.manual_seed(settings["seed"])
    network = backbone_of(settings)
    # a masked model sees its target's place among the `length` positions, a causal one has it beyond them
    rows = training_rows(parts, settings, settings["length"] - (network.objective == "masked"))
    if first:
        keep_settings(training, settings, resume)
    ranks().wait_for_everyone()
    table, facts = _items(log, parts.train, training, settings, network, threads=threads, resume=resume, show=show)
    state = _train(network, table, rows, parts.valid, training, settings, threads=threads, resume=resume, show=show)
    if first:
        metadata = metadata_of(history_length(network), settings, log, parts)
        memory = _memory(network, table, parts, settings) if settings["memory"] else None
        write_model(folder, network, table, log, parts.train.histories, metadata, memory)
        write_metrics(folder, state, facts, metadata)
    ranks().wait_for_everyone()
    return load(folder)


def training_rows(parts: Split, settings: Settings, length: int) -> Histories:
    """Windows of `length` events and the next. Raises ValueError where the split leaves too little."""
    rows = windows(parts.train.histories, length)
    if not len(rows) or not len(parts.valid.rows):
        raise ValueError(
            f"after the split ({settings['split']}) {len(rows)} histories are left to train on and "
            f"{len(parts.valid.rows)} users to validate with; give a log with longer histories (4 events or more)"
        )
    return rows


def validated_every(rows: Histories, settings: Settings) -> int:
    """Updates between validations: as asked, or an epoch within limits."""
    updates_per_epoch = int(rows.lengths.sum()) // settings["batch_positions"]
    asked: int | None = settings["validate_every"]
    return asked or min(max(updates_per_epoch, 200), 1000)


def backbone_of(settings: Settings) -> Backbone:
    """A new one, as the settings say."""
    if settings["backbone"] == "llm":
        return _language_model(settings)
    return BACKBONES[settings["backbone"]](**{name: settings[name] for name in ("dim", "blocks", "length", "dropout")})


def _language_model(settings: Settings) -> Backbone:
    from everyitem.model.llm import LLM, load_language_model, small_language_model  # transformers: seconds to import

    source = settings["language_model"]
    if source is None:
        model, tokenizer = small_language_model(settings["dim"], settings["blocks"]), None
    else:
        model, tokenizer = load_language_model(source)
    names = ("length", "prompt", "dropout", "lora_rank", "pack", "gradient_checkpointing")
    network = LLM(model, tokenizer, **{name: settings[name] for name in names})
    if settings["items"] == "pq" and network.dim % settings["num_splits"]:
        raise ValueError(
            f"num_splits={settings['num_splits']} must divide the language model's hidden size {network.dim}; choose "
            "another value"
        )
    if network.encoder_bytes > LARGEST_ENCODER:
        raise ValueError(
            f"{source}: its encoder has {network.encoder_bytes / 1e9:.1f} GB of weights, and the ONNX file takes "
            f"{LARGEST_ENCODER / 1e9:.1f}; give a smaller language model, or prune it (`everyitem prune`)"
        )
    return network


def _memory(network: Backbone, table: Items, parts: Split, settings: Settings) -> Memory:
    transitions = count_transitions(parts.train.histories, table.num_items, settings["memory"])
    index, users = build_index(table), parts.valid
    query = torch_queries(network, table, users.histories)
    return fit_memory(
        transitions, index, query, users.histories, users.targets, length=settings["length"], seed=settings["seed"]
    )


def _train(
    network: Backbone,
    table: Items,
    rows: Histories,
    valid: Holdout,
    training: Path,
    settings: Settings,
    *,
    threads: int | None,
    **running: Any,
) -> Progressed:
    """The loop, with the settings that are not simply handed on."""
    one_negative = settings["loss"] == "bce"
    has_dense_start = settings["items"] == "pq" and settings["codes"] == "dense"
    return train(
        Objective(network, table, _loss(settings, table.num_items)),
        Batches(rows, positions=settings["batch_positions"], seed=settings["seed"]),
        training,
        validate=partial(_validation_ndcg, network, table, valid, threads),
        num_negatives=1 if one_negative else settings["num_negatives"],
        negatives_per_position=one_negative,
        minutes=half(settings["minutes"]) if has_dense_start else settings["minutes"],
        validate_every=validated_every(rows, settings),
        **{name: settings[name] for name in ("learning_rate", "epochs", "patience", "seed")},
        **running,
    )


def _loss(settings: Settings, num_items: int) -> Loss:
    if settings["items"] == "two-level":
        return losses.two_level_softmax
    base_rate = math.log(num_items)
    functions: dict[str, Loss] = {
        "softmax": losses.sampled_softmax,
        "gbce": partial(losses.gbce, offset=base_rate),
        "bce": partial(losses.gbce, calibration=0.0, offset=base_rate),
        "full-softmax": losses.full_softmax,
        "split-softmax": losses.split_softmax,
    }
    loss, weight = functions[settings["loss"]], settings["concentration"]
    return partial(losses.concentrated, loss=loss, weight=weight) if weight else loss


def _validation_ndcg(network: Backbone, table: Items, valid: Holdout, threads: int | None) -> float:
    top = build_index(table).top_k(torch_queries(network, table, valid.histories), 10, threads=threads)
    return float(ndcg(ranks_of(top.items, valid.targets), 10).mean())


def _items(
    log: Log, train_log: Log, training: Path, settings: Settings, network: Backbone, **running: Any
) -> tuple[Items, dict[str, Any]]:
    """Item embeddings, and what there is to say about them for `metrics.json`."""
    if settings["items"] == "dense":
        start = _starting_vectors(train_log, settings) if settings["warm_start"] else None
        projection = _projection(network, settings)
        return DenseItems(log.num_items, settings["dim"], vectors_ID=start, projection=projection), {}
    if settings["items"] == "two-level":
        return _two_level_items(train_log, settings, training, _projection(network, settings))
    if settings["codes"] != "dense":
        return _pq_items(train_log, settings, training, network.dim)
    dense = training / "dense"
    if not (training / "codes.npz").is_file():
        first = settings | {"items": "dense", "memory": 0, "concentration": 0.0, "minutes": half(settings["minutes"])}
        if settings["loss"] == "split-softmax":
            first["loss"] = "softmax"
        learn(log, dense, first, **running)
    read_weights(network, dense)
    table, facts = _pq_items(train_log, settings, training, network.dim)
    return table, facts | {"dense_start": json.loads((dense / "metrics.json").read_text())}


def _projection(network: Backbone, settings: Settings) -> Projection | None:
    """A language model is wider than an item needs to be."""
    return Projection(settings["dim"], network.dim) if settings["backbone"] == "llm" else None


def _starting_vectors(train_log: Log, settings: Settings) -> Floats:
    return starting_vectors(train_log.histories, train_log.num_items, settings["dim"], seed=settings["seed"])


def _two_level_items(
    train_log: Log, settings: Settings, training: Path, projection: Projection | None
) -> tuple[TwoLevelItems, dict[str, Any]]:
    """Item embeddings in clusters, which are kept for a resumed run."""
    started, path = time.perf_counter(), training / "clusters.npy"
    vectors_ID = _starting_vectors(train_log, settings)
    if not path.is_file():
        events_I = np.bincount(train_log.histories.events(), minlength=train_log.num_items)
        asked = settings["clusters"], settings["num_clusters"]
        temporary = training / "clusters.new.npy"
        np.save(temporary, assign_clusters(vectors_ID, events_I, *asked, seed=settings["seed"]), allow_pickle=False)
        temporary.replace(path)
    cluster_of_I = np.load(path, allow_pickle=False)
    table = TwoLevelItems(
        cluster_of_I,
        settings["dim"],
        vectors_ID=vectors_ID if settings["warm_start"] else None,
        logit_cap=settings["logit_cap"],
        projection=projection,
    )
    sizes = {"clusters": len(table.sizes), "largest_cluster": int(table.sizes.max())}
    return table, {"clustering_seconds": time.perf_counter() - started} | sizes


def half(minutes: float | None) -> float | None:
    """What a training with a dense start has for either part."""
    return None if minutes is None else minutes / 2


def _pq_items(train_log: Log, settings: Settings, training: Path, dim: int) -> tuple[PQItems, dict[str, Any]]:
    """PQ item embeddings, and what there is to say about their codes, which are kept for a resumed run.

    They live in the backbone's own space: M B sub-items are few, and projecting them would only bind them.
    """
    started, path = time.perf_counter(), training / "codes.npz"
    if ranks().is_main_process and not path.is_file():
        found = _assign(train_log, settings, training, dim)
        temporary = training / "codes.new.npz"
        np.savez(temporary, seconds=time.perf_counter() - started, **found.arrays())  # type: ignore[arg-type]
        temporary.replace(path)
    ranks().wait_for_everyone()
    with np.load(path, allow_pickle=False) as stored:
        assigned, seconds = Assigned.from_arrays(dict(stored)), float(stored["seconds"])
    table = PQItems(assigned.codes_IM, dim, codebooks_MBd=assigned.codebooks_MBd, rotation_DD=assigned.rotation_DD)
    return table, {"coding_seconds": seconds, "ties": assigned.ties._asdict()}


def _assign(train_log: Log, settings: Settings, training: Path, dim: int) -> Assigned:
    kind, histories, num_items = settings["codes"], train_log.histories, train_log.num_items
    shape = {name: settings[name] for name in ("num_splits", "num_sub_items", "seed")}
    if kind == "dense":
        index = load_index(training / "dense" / "index")
        assert isinstance(index, DenseIndex)
        return compress_vectors(np.array(index.vectors_ID), **shape)
    return assign_codes(histories, num_items, kind, dim=dim, **shape)


def keep_settings(folder: Path, settings: Settings, resume: bool) -> None:
    """Refuse to resume a run that had other settings; more time, epochs or patience are allowed."""
    path = folder / "settings.json"
    if resume and path.is_file():
        before = json.loads(path.read_text())
        changed = [k for k in settings if before.get(k) != settings[k] and k not in MAY_CHANGE]
        if changed:
            was = ", ".join(f"{k}={before.get(k)}" for k in changed)
            raise ValueError(
                f"{folder.parent}: cannot resume, the run was started with {was}; give the same or train anew"
            )
    elif folder.exists() and not resume:
        if not path.is_file():
            raise ValueError(
                f"{folder}: not of a training by everyitem, so it is not overwritten; choose another folder"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")
