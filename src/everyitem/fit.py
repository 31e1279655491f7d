"""From a log to a model folder: split, codes, training, export, index. Here all rooms of learning meet."""

import json
import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

import everyitem
from everyitem.data.batches import Batches, windows
from everyitem.data.interactions import Log
from everyitem.data.splits import Holdout, Split, SplitName, split_log
from everyitem.evaluate.measures import ndcg, ranks_of
from everyitem.index.dense import DenseIndex
from everyitem.index.pq import PQIndex
from everyitem.model.encode import Encoder
from everyitem.recommender import EVENTS, Recommender, load
from everyitem.types import Histories

if TYPE_CHECKING:  # torch is imported where training starts, so that the signature can be read without it
    from everyitem.compress.ties import TieReport
    from everyitem.model.items import Items
    from everyitem.model.train import Progressed
    from everyitem.model.transformer import Backbone

BackboneName = Literal["sasrec", "gbert4rec"]
ItemsName = Literal["pq", "dense"]
LossName = Literal["softmax", "gbce", "bce", "full-softmax"]
CodesName = Literal["svd", "svd-rank", "bpr", "random", "kmeans"]

INITIAL_SCALE = 0.1
"""Root mean square of sub-items that start from centroids; between .03 and .3 it hardly matters (docs/log.md)."""
_NOT_SETTINGS = ("log", "folder", "resume", "show", "threads")
"""Arguments of `fit` that do not shape the result."""


def fit(
    log: Log,
    folder: str | Path,
    *,
    backbone: BackboneName = "sasrec",
    items: ItemsName = "pq",
    loss: LossName = "softmax",
    codes: CodesName = "kmeans",
    num_splits: int = 8,
    dim: int = 128,
    blocks: int = 2,
    length: int = 50,
    dropout: float = 0.3,
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
        codes: how PQ codes are assigned, see `compress.codes`.
        num_splits: M, bytes per item.
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
    table, coding = _items(parts.train, items, codes, num_splits, dim, seed, folder / "training" / "codes.npz")
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
        folder / "training",
        validate=partial(_validation_ndcg, network, table, parts.valid, threads),
        num_negatives=1 if loss == "bce" else num_negatives,
        negatives_per_position=loss == "bce",
        learning_rate=learning_rate,
        epochs=epochs,
        minutes=minutes,
        patience=patience,
        validate_every=validate_every,
        seed=seed,
        resume=resume,
        show=show,
    )
    metadata = _metadata(network, settings, log, parts)
    _write(folder, network, table, log, parts.train.histories, metadata)
    _write_metrics(folder, state, coding, metadata)
    return load(folder)


def assign_codes(
    histories: Histories, num_items: int, kind: CodesName, num_splits: int, dim: int, seed: int
) -> tuple[Any, Any, "TieReport"]:
    """Codes (I, M) without ties, codebooks (M, B, D / M) to start from or None, and what ties there were."""
    from everyitem.compress import codes as coding
    from everyitem.compress.ties import break_ties

    simple: dict[str, Callable[..., Any]] = {
        "svd": coding.svd_codes,
        "svd-rank": coding.svd_rank_codes,
        "bpr": coding.bpr_codes,
        "random": coding.random_codes,
    }
    codebooks = None
    if kind in simple:
        codes_IM = simple[kind](histories, num_items, num_splits, seed=seed)
    else:
        codes_IM, codebooks, _ = coding.kmeans_codes(histories, num_items, num_splits, dim=dim, seed=seed)
    unique_IM, ties = break_ties(codes_IM, seed=seed, codebooks_MBd=codebooks)
    return unique_IM, codebooks, ties


def _items(
    train_log: Log, items: ItemsName, codes: CodesName, num_splits: int, dim: int, seed: int, path: Path
) -> tuple["Items", dict[str, Any]]:
    """Item embeddings, and what there is to say about their codes. `path` keeps the codes for a resumed run."""
    from everyitem.model.items import DenseItems, PQItems

    if items == "dense":
        return DenseItems(train_log.num_items, dim), {}
    started = time.perf_counter()
    if not path.is_file():
        codes_IM, codebooks, ties = assign_codes(train_log.histories, train_log.num_items, codes, num_splits, dim, seed)
        facts = np.array([time.perf_counter() - started, *ties])
        np.savez(path, codes=codes_IM, facts=facts, **({} if codebooks is None else {"codebooks": codebooks}))
    with np.load(path, allow_pickle=False) as stored:
        codes_IM, codebooks, facts = stored["codes"], stored.get("codebooks"), stored["facts"]
    if codebooks is not None:
        codebooks = codebooks * (INITIAL_SCALE / max(float(np.sqrt(np.mean(codebooks**2))), 1e-12))
    names = ("coding_seconds", "tied_before", "largest_tie_before", "tied_after", "largest_tie_after", "codes_changed")
    return PQItems(codes_IM, dim, codebooks_MBd=codebooks), dict(zip(names, facts.tolist(), strict=True))


def build_index(table: "Items") -> PQIndex | DenseIndex:
    """The index of trained item embeddings."""
    arrays: dict[str, Any] = table.arrays()
    return DenseIndex(arrays["vectors"]) if "vectors" in arrays else PQIndex(arrays["codes"], arrays["codebooks"])


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


def _write_metrics(folder: Path, state: "Progressed", coding: dict[str, Any], metadata: dict[str, Any]) -> None:
    metrics = {
        "protocol": metadata["protocol"],
        "validation_ndcg@10": state.best,
        "training_seconds": state.seconds,
        **coding,
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
