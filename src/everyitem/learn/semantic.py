"""One training with semantic ids, from log to model folder: every item a string of tokens, written one by one.

The multi-token way (TIGER, LC-Rec) on the same log, split, backbone and loop as the other kinds of items.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from everyitem.compress import semantic_ids
from everyitem.compress.assign import INITIAL_SCALE
from everyitem.compress.codes import svd_vectors
from everyitem.compress.rq_vae import rq_vae_codes
from everyitem.compress.semantic_ids import Collisions
from everyitem.data.batches import Batches
from everyitem.data.interactions import Log
from everyitem.data.splits import Holdout, split_log
from everyitem.evaluate.measures import ndcg, ranks_of
from everyitem.index.beam import BeamIndex
from everyitem.index.dense import DenseIndex
from everyitem.index.files import load_index
from everyitem.learn.folder import metadata_of, write_metrics, write_token_model
from everyitem.learn.run import Settings, backbone_of, half, keep_settings, learn, training_rows, validated_every
from everyitem.model.items import DenseItems
from everyitem.model.loss import full_softmax
from everyitem.model.ranks import ranks
from everyitem.model.token_decoder import TokenBatches, TokenDecoder, length_in_tokens
from everyitem.model.train import Objective, Progressed, train
from everyitem.recommender import Recommender, load
from everyitem.types import Floats, Histories, Ids

VALIDATION_WIDTH = 10


class Strings(NamedTuple):
    """What every item is written as, and what its tokens' vectors can start from."""

    codes_IM: Ids
    vectors_VD: Floats | None
    """Centroids, for the tokens that have one; None where the codes come from elsewhere."""
    collisions: Collisions
    """Before the last digit."""
    seconds: float

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays, for a file."""
        named = {"codes_IM": self.codes_IM, "collisions": np.array(self.collisions), "seconds": np.array(self.seconds)}
        return named if self.vectors_VD is None else named | {"vectors_VD": self.vectors_VD}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> "Strings":
        """The inverse of `arrays`."""
        found = Collisions(*arrays["collisions"].tolist())
        return cls(arrays["codes_IM"], arrays.get("vectors_VD"), found, float(arrays["seconds"]))


def learn_semantic_ids(
    log: Log, folder: Path, settings: Settings, *, threads: int | None, resume: bool, show: bool
) -> Recommender:
    """Do what `fit` promises for `items="semantic-ids"`, with its keyword arguments in `settings`."""
    training, first = folder / "training", ranks().is_main_process
    if threads:
        torch.set_num_threads(threads)
    parts = split_log(log, settings["split"], seed=settings["seed"])
    rows = training_rows(parts, settings, settings["length"])
    if first:
        keep_settings(training, settings, resume)
    ranks().wait_for_everyone()
    strings, facts = _strings(log, parts.train.histories, training, settings, threads=threads, resume=resume, show=show)
    tokens_IM = semantic_ids.as_tokens(strings.codes_IM)
    decoder = _decoder(settings, strings)
    state = _train(decoder, tokens_IM, rows, parts.valid, training, settings, resume=resume, show=show)
    if first:
        metadata = metadata_of(settings["length"], settings, log, parts)
        index = BeamIndex(tokens_IM, width=settings["beam"])
        write_token_model(folder, decoder, index, log, parts.train.histories, metadata)
        write_metrics(folder, state, facts, metadata)
    ranks().wait_for_everyone()
    return load(folder)


def _decoder(settings: Settings, strings: Strings) -> TokenDecoder:
    torch.manual_seed(settings["seed"])
    length = length_in_tokens(settings["length"], strings.codes_IM.shape[1])
    backbone: Any = backbone_of(settings | {"length": length})
    table = DenseItems(int(semantic_ids.level_sizes(strings.codes_IM).sum()), backbone.dim)
    start = strings.vectors_VD
    if settings["warm_start"] and start is not None and start.shape[1] == backbone.dim:
        scale = INITIAL_SCALE / max(float(np.sqrt(np.mean(start**2))), 1e-12)
        with torch.no_grad():
            table.vectors[: len(start)] = torch.from_numpy(start * np.float32(scale))
    return TokenDecoder(backbone, table)


def _train(
    decoder: TokenDecoder,
    tokens_IM: Ids,
    rows: Histories,
    valid: Holdout,
    training: Path,
    settings: Settings,
    **running: Any,
) -> Progressed:
    """The loop: as many events per batch as with other kinds of items, so M times the tokens."""
    return train(
        Objective(decoder.backbone, decoder.table, full_softmax),
        TokenBatches(Batches(rows, positions=settings["batch_positions"], seed=settings["seed"]), tokens_IM),
        training,
        validate=partial(_validation_ndcg, decoder, tokens_IM, valid, settings["length"]),
        num_negatives=1,  # the loss has the whole vocabulary
        minutes=half(settings["minutes"]) if settings["codes"] == "dense" else settings["minutes"],
        validate_every=validated_every(rows, settings),
        **{name: settings[name] for name in ("learning_rate", "epochs", "patience", "seed")},
        **running,
    )


def _validation_ndcg(decoder: TokenDecoder, tokens_IM: Ids, valid: Holdout, length: int) -> float:
    prompts = decoder.prompts(tokens_IM, valid.histories.last(length))
    top = BeamIndex(tokens_IM, width=VALIDATION_WIDTH).top_k(prompts, 10)
    return float(ndcg(ranks_of(top.items, valid.targets), 10).mean())


def _strings(
    log: Log, histories: Histories, training: Path, settings: Settings, **running: Any
) -> tuple[Strings, dict[str, Any]]:
    """Every item's codes, which are kept for a resumed run, and what there is to say about them for `metrics.json`."""
    path, dense = training / "codes.npz", training / "dense"
    if settings["codes"] == "dense" and not path.is_file():
        learn(log, dense, settings | {"items": "dense", "memory": 0, "minutes": half(settings["minutes"])}, **running)
    if ranks().is_main_process and not path.is_file():
        started = time.perf_counter()
        found = _quantised(log, histories, dense, settings)
        temporary = training / "codes.new.npz"
        np.savez(temporary, **found._replace(seconds=time.perf_counter() - started).arrays())  # type: ignore[arg-type]
        temporary.replace(path)
    ranks().wait_for_everyone()
    with np.load(path, allow_pickle=False) as stored:
        strings = Strings.from_arrays(dict(stored))
    facts: dict[str, Any] = {"coding_seconds": strings.seconds, "collisions": strings.collisions._asdict()}
    facts["tokens_per_item"] = strings.codes_IM.shape[1]
    if settings["codes"] == "dense":
        facts["dense_start"] = json.loads((dense / "metrics.json").read_text())
    return strings, facts


def _quantised(log: Log, histories: Histories, dense: Path, settings: Settings) -> Strings:
    if settings["codes"] == "given":
        codes_IM = semantic_ids.read_semantic_ids(log.items[SID].to_list())
        return _told_apart(codes_IM, None)
    vectors_ID = _vectors(log, histories, dense, settings)
    num_levels, seed = settings["num_splits"], settings["seed"]
    if settings["quantiser"] == "rq-vae":
        return _told_apart(rq_vae_codes(vectors_ID, num_levels, seed=seed).codes_IM, None)
    balanced = settings["quantiser"] == "balanced"
    codes_IM, books_MBD = semantic_ids.residual_kmeans(vectors_ID, num_levels, balanced=balanced, seed=seed)
    return _told_apart(codes_IM, books_MBD)


SID = "sid"
"""Column of the items with ids that somebody else assigned."""
TITLE = "title"


def _vectors(log: Log, histories: Histories, dense: Path, settings: Settings) -> Floats:
    dim, seed = settings["dim"], settings["seed"]
    if settings["codes"] == "dense":
        index = load_index(dense / "index")
        assert isinstance(index, DenseIndex)
        return np.array(index.vectors_ID)
    if settings["codes"] == "text":
        return semantic_ids.text_vectors(log.items[TITLE].to_list(), dim, seed=seed)
    return svd_vectors(histories, log.num_items, dim, seed=seed)


def _told_apart(codes_IM: Ids, books_MBD: Floats | None) -> Strings:
    vectors_VD = None
    if books_MBD is not None:
        sizes_M = semantic_ids.level_sizes(codes_IM)
        vectors_VD = np.concatenate([book[:size] for book, size in zip(books_MBD, sizes_M, strict=True)])
    return Strings(semantic_ids.with_last_digit(codes_IM), vectors_VD, semantic_ids.collisions(codes_IM), 0.0)
