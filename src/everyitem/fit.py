"""From a log to a model folder: split, codes, training, export, index. Here all rooms of learning meet."""

import json
import math
import shutil
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

import everyitem
from everyitem.compress import CodesName
from everyitem.data.batches import Batches, windows
from everyitem.data.interactions import Log
from everyitem.data.splits import Holdout, Split, SplitName, split_log
from everyitem.evaluate.measures import ndcg, ranks_of
from everyitem.index.dense import DenseIndex
from everyitem.index.files import load_index
from everyitem.index.pq import PQIndex
from everyitem.model.encode import Encoder
from everyitem.recommender import EVENTS, Recommender, load
from everyitem.types import Histories

if TYPE_CHECKING:  # torch is imported where training starts, so that the signature can be read without it
    from everyitem.model.items import Items, PQItems
    from everyitem.model.train import Progressed
    from everyitem.model.transformer import Backbone

BackboneName = Literal["sasrec", "gbert4rec"]
ItemsName = Literal["pq", "dense"]
LossName = Literal["softmax", "gbce", "bce", "full-softmax"]

LARGEST_DENSE_START = 200_000
"""Items up to which a dense model is trained first and items get 32 bytes; docs/results.md has the reasons."""
_NOT_SETTINGS = ("log", "folder", "resume", "show", "threads", "small")
"""Locals of `fit` that are no settings of the result."""


def fit(
    log: Log,
    folder: str | Path,
    *,
    backbone: BackboneName = "sasrec",
    items: ItemsName = "pq",
    loss: LossName = "softmax",
    codes: CodesName | None = None,
    num_splits: int | None = None,
    dim: int = 64,
    blocks: int = 2,
    length: int = 50,
    dropout: float = 0.2,
    num_negatives: int = 1024,
    learning_rate: float = 1e-3,
    batch_positions: int = 1600,
    epochs: int = 1000,
    minutes: float | None = None,
    patience: int = 5,
    validate_every: int = 200,
    split: SplitName = "leave-one-out",
    seed: int = 0,
    threads: int | None = None,
    resume: bool = False,
    show: bool = True,
) -> Recommender:
    """Train a recommender on a log and write its folder; afterwards it serves without torch.

    SASRec with `loss="gbce"` is gSASRec; `items="pq"` makes any of them a RecJPQ model. The folder also holds
    `training/` (checkpoints, codes, log.jsonl, TensorBoard), which only `resume` needs.

    Args:
        log: from `read_log`.
        folder: model folder; created.
        backbone: "sasrec" (causal) or "gbert4rec" (masked, bidirectional).
        items: "pq" (shared sub-items, frozen byte codes) or "dense" (a vector per item).
        loss: "softmax" (sampled), "gbce", "bce", or "full-softmax" (chunked).
        codes: how PQ codes are assigned. "dense" spends half of the time on a dense model, compresses its vectors
            (OPQ) and trains on from there; the others need the log alone, for catalogues whose dense table is too big.
            None: "dense" up to 200,000 items, "kmeans" beyond.
        num_splits: M, bytes per item. None: 32 up to 200,000 items, 8 beyond.
        dim: D, a multiple of `num_splits`.
        blocks: attention blocks.
        length: T, events of a history that the model sees.
        dropout: everywhere in the backbone.
        num_negatives: K, shared by a batch.
        learning_rate: of Adam.
        batch_positions: padded positions per batch.
        epochs: at most.
        minutes: of training, at most; None trains until validation stops improving.
        patience: validations without improvement after which training stops.
        validate_every: updates between validations.
        split: "leave-one-out" (the papers') or "time" (one instant for everybody, nothing leaks).
        seed: of everything random.
        threads: of torch and index; None leaves torch's choice.
        resume: go on from the checkpoint in the folder.
        show: progress bars.

    Returns:
        The trained `Recommender`, loaded from the folder.

    Raises:
        ValueError: settings that do not fit each other, or `resume` with other settings than the checkpoint's.
    """
    small = log.num_items <= LARGEST_DENSE_START
    codes = codes or ("dense" if small else "kmeans")
    num_splits = num_splits or (32 if small else 8)
    settings = {name: value for name, value in locals().items() if name not in _NOT_SETTINGS}
    import torch

    from everyitem.model import loss as losses
    from everyitem.model.train import Loss, Objective, train
    from everyitem.model.transformer import GBERT4Rec, SASRec

    if EVENTS in log.items.columns:
        raise ValueError(f"the items have a column {EVENTS}, which the model folder uses itself; rename it")
    folder = Path(folder)
    if threads:
        torch.set_num_threads(threads)
    _keep_settings(folder / "training", settings, resume)
    parts = split_log(log, split, seed=seed)
    torch.manual_seed(seed)
    network: Backbone = (SASRec if backbone == "sasrec" else GBERT4Rec)(
        dim, blocks=blocks, length=length, dropout=dropout
    )
    training = folder / "training"
    table, facts = _items(log, parts.train, training, settings, network, threads=threads, resume=resume, show=show)
    rows = windows(parts.train.histories, length if network.objective == "next" else length - 1)
    base_rate = math.log(log.num_items)
    functions: dict[str, Loss] = {
        "softmax": losses.sampled_softmax,
        "gbce": partial(losses.gbce, offset=base_rate),
        "bce": partial(losses.gbce, calibration=0.0, offset=base_rate),
        "full-softmax": losses.full_softmax,
    }
    state = train(
        Objective(network, table, functions[loss]),
        Batches(rows, positions=batch_positions, seed=seed),
        training,
        validate=partial(_validation_ndcg, network, table, parts.valid, threads),
        num_negatives=1 if loss == "bce" else num_negatives,
        negatives_per_position=loss == "bce",
        learning_rate=learning_rate,
        epochs=epochs,
        minutes=_half(minutes) if "dense_start" in facts else minutes,
        patience=patience,
        validate_every=validate_every,
        seed=seed,
        resume=resume,
        show=show,
    )
    metadata = _metadata(network, settings, log, parts)
    _write(folder, network, table, log, parts.train.histories, metadata)
    _write_metrics(folder, state, facts, metadata)
    return load(folder)


def _items(
    log: Log, train_log: Log, training: Path, settings: dict[str, Any], network: "Backbone", **running: Any
) -> tuple["Items", dict[str, Any]]:
    """Item embeddings, and what there is to say about them for `metrics.json`."""
    from safetensors.torch import load_file

    from everyitem.model.items import DenseItems

    if settings["items"] == "dense":
        return DenseItems(log.num_items, settings["dim"]), {}
    if settings["codes"] != "dense":
        return _pq_items(train_log, settings, training)
    dense = training / "dense"
    if not (training / "codes.npz").is_file():
        fit(log, dense, **(settings | {"items": "dense", "minutes": _half(settings["minutes"])}), **running)
    network.load_state_dict(load_file(dense / "encoder.safetensors"))
    table, facts = _pq_items(train_log, settings, training)
    return table, facts | {"dense_start": json.loads((dense / "metrics.json").read_text())}


def _half(minutes: float | None) -> float | None:
    return None if minutes is None else minutes / 2


def _pq_items(train_log: Log, settings: dict[str, Any], folder: Path) -> tuple["PQItems", dict[str, Any]]:
    """PQ item embeddings, and what there is to say about their codes, which are kept for a resumed run."""
    from everyitem.compress.assign import Assigned, assign_codes, compress_vectors
    from everyitem.model.items import PQItems

    started, path = time.perf_counter(), folder / "codes.npz"
    num_splits, dim, seed = settings["num_splits"], settings["dim"], settings["seed"]
    if not path.is_file():
        if settings["codes"] == "dense":
            vectors = np.array(load_dense(folder / "dense" / "index").vectors_ID)
            found = compress_vectors(vectors, num_splits, seed=seed)
        else:
            histories, num_items = train_log.histories, train_log.num_items
            found = assign_codes(histories, num_items, settings["codes"], num_splits, dim=dim, seed=seed)
        temporary = folder / "codes.new.npz"
        np.savez(temporary, seconds=time.perf_counter() - started, **found.arrays())  # type: ignore[arg-type]
        temporary.replace(path)
    with np.load(path, allow_pickle=False) as stored:
        assigned, seconds = Assigned.from_arrays(dict(stored)), float(stored["seconds"])
    table = PQItems(assigned.codes_IM, dim, codebooks_MBd=assigned.codebooks_MBd, rotation_DD=assigned.rotation_DD)
    return table, {"coding_seconds": seconds, "ties": assigned.ties._asdict()}


def load_dense(folder: Path) -> DenseIndex:
    """A dense index from its folder."""
    index = load_index(folder)
    assert isinstance(index, DenseIndex)
    return index


def build_index(table: "Items") -> PQIndex | DenseIndex:
    """The index of trained item embeddings."""
    arrays: dict[str, Any] = table.arrays()
    return DenseIndex(**arrays) if "vectors_ID" in arrays else PQIndex(**arrays)


def _validation_ndcg(network: "Backbone", table: "Items", valid: Holdout, threads: int | None) -> float:
    from everyitem.model.export import torch_queries

    top = build_index(table).top_k(torch_queries(network, table, valid.histories), 10, threads=threads)
    return float(ndcg(ranks_of(top.items, valid.targets), 10).mean())


def _keep_settings(folder: Path, settings: dict[str, Any], resume: bool) -> None:
    """Refuse to resume a run that had other settings; more time, epochs or patience are allowed."""
    path = folder / "settings.json"
    if resume and path.is_file():
        before = json.loads(path.read_text())
        changed = [k for k in settings if before.get(k) != settings[k] and k not in ("epochs", "minutes", "patience")]
        if changed:
            was = ", ".join(f"{k}={before.get(k)}" for k in changed)
            raise ValueError(
                f"{folder.parent}: cannot resume, the run was started with {was}; give the same or train anew"
            )
    elif folder.exists() and not resume:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")


def _metadata(network: "Backbone", settings: dict[str, Any], log: Log, parts: Split) -> dict[str, Any]:
    import torch

    from everyitem.model.export import history_length

    return {
        "format": 1,
        "versions": {"everyitem": everyitem.__version__, "torch": torch.__version__},
        "history_length": history_length(network),
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


def _write(
    folder: Path, network: "Backbone", table: "Items", log: Log, train_histories: Histories, metadata: dict[str, Any]
) -> None:
    from safetensors.torch import save_file

    from everyitem.model.export import export_onnx

    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()}, folder / "encoder.safetensors"
    )
    metadata["export_error"] = export_onnx(network, folder / "encoder.onnx")
    events = np.bincount(train_histories.events(), minlength=log.num_items)
    items = log.items.with_columns(pl.Series(EVENTS, events, dtype=pl.Int64))
    encoder = Encoder(folder / "encoder.onnx", metadata["history_length"])
    Recommender(encoder, build_index(table), items, metadata).save(folder)
    (folder / "README.md").write_text(_model_card(metadata))


def _write_metrics(folder: Path, state: "Progressed", facts: dict[str, Any], metadata: dict[str, Any]) -> None:
    metrics = {
        "protocol": metadata["protocol"],
        "validation_ndcg@10": state.best,
        "training_seconds": state.seconds,
        **facts,
        "updates": state.updates,
        "positions": state.positions,
        "positions_per_second": state.positions / max(state.seconds, 1e-9),
        "encoder_bytes": (folder / "encoder.onnx").stat().st_size,
        "index_bytes": sum(f.stat().st_size for f in (folder / "index").rglob("*.npy")),
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
