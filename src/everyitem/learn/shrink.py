"""Prunes the backbone of an item-ID model: heads, feed-forward width, blocks. `prune` has checked the settings."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from everyitem.compress import encoder
from everyitem.compress.distil import restore
from everyitem.compress.encoder import Encoder, EncoderPlan, ItemLoss, Questions
from everyitem.compress.plan import best
from everyitem.data.batches import Batches, windows
from everyitem.data.interactions import Log
from everyitem.data.splits import Split
from everyitem.evaluate.heldout import split_for
from everyitem.evaluate.measures import ndcg, ranks_of, recall
from everyitem.index.dense import DenseIndex
from everyitem.index.pq import PQIndex
from everyitem.learn.folder import build_index, write_model
from everyitem.learn.remember import fit_memory
from everyitem.learn.run import BACKBONES
from everyitem.memory import count_transitions
from everyitem.model.encode import Encoder as Exported
from everyitem.model.export import export_onnx, history_length, torch_queries
from everyitem.model.items import DenseItems, Items, PQItems
from everyitem.model.transformer import GBERT4Rec, SASRec
from everyitem.recommender import Recommender, load
from everyitem.types import Histories

SHAPE = "shape"
"""Where recommender.json keeps the sizes of a backbone that was cut."""
TIMED = 200


def prune_item_model(model: Path, out: Path, log: Log, settings: dict[str, Any], *, show: bool) -> dict[str, Any]:
    """Do what `prune` promises for a model folder: width, then depth, each restored; item vectors stay as they are."""
    recommender = load(model)
    backbone = read_backbone(model, recommender)
    keep = _sizes(backbone, settings)
    if settings["dry_run"]:
        return {"stages": [{"stage": name, **sizes} for name, sizes in (("uncut", _shape(backbone)), ("cut", keep))]}
    parts, table = split_for(recommender, log), items_of(recommender)
    rows = windows(parts.train.histories, backbone.length)
    asked = _questions(parts, backbone, settings)
    (out / "stages").mkdir(parents=True, exist_ok=True)
    before = measure(backbone, table, parts) | {"encoder_ms": encoder_ms(backbone, out)}
    student, reports = backbone, []
    for number, part in enumerate(("width", "depth")):
        plan = _plan(student, table, asked, keep, part, settings["alpha"])
        student = encoder.cut(student, plan)
        report: dict[str, Any] = {"part": part, "cut": measure(student, table, parts)}
        loss = _loss(student, backbone, table, rows, settings)
        state = restore(
            student,
            loss,
            len(loss.batches),
            out / "stages" / f"{number + 1}-{part}",
            show=show,
            **{name: settings[name] for name in ("epochs", "minutes", "learning_rate", "seed")},
        )
        report |= {"updates": state.update, "seconds": state.seconds}
        reports.append(report | {"restored": measure(student, table, parts)})
    reports[-1]["restored"] |= {"encoder_ms": encoder_ms(student, out)}
    document = {"before": before, "stages": reports, "after": reports[-1]["restored"]}
    _write(out, student, table, recommender, log, parts, document)
    return document


def read_backbone(folder: Path, recommender: Recommender) -> Encoder:
    """The backbone of a model folder, as it was trained or cut.

    Raises:
        ValueError: a backbone of another kind than SASRec and gBERT4Rec.
    """
    settings = recommender.metadata["settings"]
    if settings["backbone"] not in ("sasrec", "gbert4rec"):
        raise ValueError(f"got a {settings['backbone']} model; what can be pruned: sasrec, gbert4rec, language models")
    made = BACKBONES[settings["backbone"]](**{name: settings[name] for name in ("dim", "blocks", "length", "dropout")})
    assert isinstance(made, SASRec | GBERT4Rec)
    if SHAPE in recommender.metadata:
        made = encoder.in_shape(made, **recommender.metadata[SHAPE])
    made.load_state_dict(load_file(folder / "encoder.safetensors"))
    made.eval()
    return made


def items_of(recommender: Recommender) -> Items:
    """The item side of a trained model, from its index."""
    index = recommender.index
    if isinstance(index, DenseIndex):
        return DenseItems(index.num_items, index.dim, vectors_ID=np.array(index.vectors_ID))
    assert isinstance(index, PQIndex)
    rotation = index.rotation_DD
    return PQItems(
        np.array(index.codes_IM),
        index.dim,
        codebooks_MBd=np.array(index.codebooks_MBd),
        rotation_DD=None if rotation is None else np.array(rotation),
    )


def measure(backbone: Encoder, table: Items, parts: Split) -> dict[str, Any]:
    """Sizes, parameters, NDCG@10 and recall@10 on the validation users, by vectors alone."""
    valid = parts.valid
    top = build_index(table).top_k(torch_queries(backbone, table, valid.histories), 10)
    ranks_U = ranks_of(top.items, valid.targets)
    return {
        **_shape(backbone),
        "parameters": sum(weight.numel() for weight in backbone.parameters()),
        "ndcg@10": float(ndcg(ranks_U, 10).mean()),
        "recall@10": float(recall(ranks_U, 10).mean()),
    }


def encoder_ms(backbone: Encoder, folder: Path) -> dict[str, float]:
    """Milliseconds of the exported encoder for one history as long as the model sees, one thread."""
    path = folder / "stages" / "timed.onnx"
    export_onnx(backbone, path)
    exported, times = Exported(path, history_length(backbone)), []
    x_1TD = np.zeros((1, history_length(backbone), backbone.dim), np.float32)
    for _ in range(TIMED):
        started = time.perf_counter()
        exported(x_1TD)
        times.append(1e3 * (time.perf_counter() - started))
    path.unlink()
    return {"median": float(np.median(times)), "p95": float(np.quantile(times, 0.95))}


def _shape(backbone: Encoder) -> dict[str, int]:
    shape = encoder.shape_of(backbone)
    return {name: shape[name] for name in ("blocks", "heads", "neurons")}


def _sizes(backbone: Encoder, settings: dict[str, Any]) -> dict[str, int]:
    if settings["keep_hidden"] is not None or settings["target_parameters"] is not None:
        raise ValueError(
            "an item-ID model shares its hidden dimensions with the item vectors, and is small enough to be sized by "
            "hand; give keep_heads, keep_mlp or drop_layers"
        )
    whole = _shape(backbone)
    keep = {
        "blocks": whole["blocks"] - settings["drop_layers"],
        "heads": settings["keep_heads"] or whole["heads"],
        "neurons": settings["keep_mlp"] or whole["neurons"],
    }
    for name, kept in keep.items():
        if not 0 < kept <= whole[name]:
            raise ValueError(f"got {kept} {name} to keep; allowed: 1 to {whole[name]}, what the model has")
    return keep


def _questions(parts: Split, backbone: Encoder, settings: dict[str, Any]) -> Questions:
    """The last training events of random users, asked after those before them."""
    histories = parts.train.histories
    rng = np.random.default_rng([settings["seed"], 7])
    users = rng.permutation(np.flatnonzero(histories.lengths >= 2))[: settings["calibration"]]
    chosen = histories.select(users)
    before = Histories(chosen.items, chosen.starts, chosen.stops - 1).last(history_length(backbone))
    targets = chosen.items[chosen.stops - 1]
    return Questions(torch.from_numpy(before.padded("left")), torch.from_numpy(targets).long())


def _plan(
    student: Encoder, table: Items, asked: Questions, keep: dict[str, int], part: str, alpha: float
) -> EncoderPlan:
    plan, shape = encoder.keep_everything(student), _shape(student)
    if part == "depth":
        drop = shape["blocks"] - keep["blocks"]
        scores_L = encoder.block_scores(student, table, asked, drop=drop)
        return plan._replace(blocks_L=best(scores_L, keep["blocks"]))
    if keep["heads"] < shape["heads"]:
        heads = encoder.head_scores(student, table, asked, keep=keep["heads"], alpha=alpha)
        plan = plan._replace(heads_LH=np.stack([best(row, keep["heads"]) for row in heads]))
    if keep["neurons"] < shape["neurons"]:
        neurons = encoder.neuron_scores(student, table, asked, keep=keep["neurons"])
        plan = plan._replace(neurons_LF=np.stack([best(row, keep["neurons"]) for row in neurons]))
    return plan


def _loss(student: Encoder, teacher: Encoder, table: Items, rows: Histories, settings: dict[str, Any]) -> ItemLoss:
    batches = list(Batches(rows, positions=settings["batch_tokens"], seed=settings["seed"]).epoch(0))
    return ItemLoss(
        student,
        teacher,
        table,
        batches,
        kind=settings["divergence"],
        truth=settings["truth"],
        seed=settings["seed"],
    )


def _write(
    out: Path, student: Encoder, table: Items, before: Recommender, log: Log, parts: Split, document: dict[str, Any]
) -> None:
    """The pruned model as a model folder like any other."""
    metadata = {
        name: value for name, value in before.metadata.items() if name in ("format", "versions", "protocol", "log")
    }
    metadata |= {"settings": before.metadata["settings"], "history_length": history_length(student)}
    metadata[SHAPE] = encoder.shape_of(student)
    memory = None
    if before.memory is not None:
        length = before.metadata["settings"]["length"]
        memory = fit_memory(
            count_transitions(parts.train.histories, table.num_items, before.metadata["settings"]["memory"]),
            build_index(table),
            torch_queries(student, table, parts.valid.histories),
            parts.valid.histories,
            parts.valid.targets,
            length=length,
            seed=before.metadata["settings"]["seed"],
        )
    write_model(out, student, table, log, parts.train.histories, metadata, memory)
    (out / "prunerec.json").write_text(json.dumps(document, indent=1) + "\n")
