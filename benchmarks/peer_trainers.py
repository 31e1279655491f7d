"""Trains a peer's sequence recommender and answers for given users. Runs in an environment of the peer's own.

    uv venv PEERS && uv pip install --python PEERS/bin/python "rectools[torch]" replay-rec lightning
    PEERS/bin/python benchmarks/peer_trainers.py MODEL EVENTS.parquet ASKED.parquet FOUND.parquet --minutes 3

EVENTS: user_id, item_id (0 to I - 1), place (0, 1, ... in time order). ASKED: user_id and history, all events before
the question. FOUND: user_id, item_id, rank. Prints a line of JSON: positions (targets trained on) and seconds, without
those of loading and answering. Knows nothing of everyitem; it also stands for how a stranger would use these
libraries: settings are those of their documentation but for the size, which is the same for all.
"""

import argparse
import json
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch

MODELS = ("rectools-sasrec", "rectools-bert4rec", "rectools-esasrec", "replay-sasrec")
COUNTS = ("steps", "positions", "seconds", "started")
Found = tuple[list[tuple[Any, list[int]]], dict[str, float]]


def main() -> None:
    args = arguments()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    events, asked = pd.read_parquet(args.events), pd.read_parquet(args.asked)
    run = replay if args.model.startswith("replay") else rectools
    found, counted = run(args, events, asked)
    rows = [(user, item, rank + 1) for user, items in found for rank, item in enumerate(items)]
    pd.DataFrame(rows, columns=["user_id", "item_id", "rank"]).to_parquet(args.found)
    print(json.dumps({name: counted[name] for name in ("positions", "seconds", "steps")}))


def rectools(args: argparse.Namespace, events: pd.DataFrame, asked: pd.DataFrame) -> Found:
    """SASRec, BERT4Rec or eSASRec as RecTools' transformer tutorials build them."""
    import pytorch_lightning
    from pytorch_lightning.callbacks import LambdaCallback
    from rectools.dataset import Dataset
    from rectools.models import BERT4RecModel, SASRecModel
    from rectools.models.nn.item_net import IdEmbeddingsItemNet

    counted = dict.fromkeys(COUNTS, 0.0)
    clock = clock_of(LambdaCallback, lambda batch: int((batch["y"] != 0).sum()), counted, args.warm_up)

    def trainer() -> Any:
        return pytorch_lightning.Trainer(max_epochs=args.epochs, max_time=limit(args), callbacks=[clock], **quiet())

    sizes = {"n_blocks": args.blocks, "n_heads": args.heads, "n_factors": args.dim, "session_max_len": args.length}
    shared = {**sizes, "batch_size": args.batch, "get_trainer_func": trainer, "dropout_rate": 0.2}
    shared["item_net_block_types"] = (IdEmbeddingsItemNet,)
    if args.model == "rectools-bert4rec":
        model = BERT4RecModel(**shared)
    elif args.model == "rectools-sasrec":
        model = SASRecModel(**shared, loss=args.loss, n_negatives=args.negatives)
    else:
        from rectools.models.nn.transformers.ligr import LiGRLayers

        model = SASRecModel(
            **shared, loss="sampled_softmax", n_negatives=args.negatives, transformer_layers_type=LiGRLayers
        )
    train = pd.DataFrame({"user_id": events["user_id"], "item_id": events["item_id"], "weight": 1.0})
    train["datetime"] = pd.Timestamp("2000-01-01") + pd.to_timedelta(events["place"], unit="s")
    model.fit(Dataset.construct(train))
    known = asked[asked["history"].map(len) > 0].explode("history")
    context = pd.DataFrame({"user_id": known["user_id"], "item_id": known["history"].astype(np.int64), "weight": 1.0})
    place = known.groupby("user_id").cumcount().to_numpy()
    context["datetime"] = pd.Timestamp("2000-01-01") + pd.to_timedelta(place, unit="s")
    found = model.recommend(
        users=context["user_id"].unique(), dataset=Dataset.construct(context), k=args.k, filter_viewed=False,
        on_unsupported_targets="ignore", context=None,
    )  # fmt: skip
    return [(user, rows["item_id"].tolist()) for user, rows in found.sort_values("rank").groupby("user_id")], counted


def replay(args: argparse.Namespace, events: pd.DataFrame, asked: pd.DataFrame) -> Found:
    """SASRec as RePlay's example notebook builds it."""
    import lightning
    from lightning.pytorch.callbacks import LambdaCallback
    from replay.data import FeatureHint, FeatureSource, FeatureType
    from replay.data.nn import PandasSequentialDataset, TensorFeatureInfo, TensorFeatureSource, TensorSchema
    from replay.models.nn.sequential import SasRec
    from replay.models.nn.sequential.sasrec import SasRecPredictionDataset, SasRecTrainingDataset
    from torch.utils.data import DataLoader

    num_items = int(max(events["item_id"].max(), max((max(h) for h in asked["history"] if len(h)), default=0))) + 1
    source = TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")
    feature = TensorFeatureInfo(
        "item_id", FeatureType.CATEGORICAL, is_seq=True, cardinality=num_items, padding_value=num_items,
        feature_sources=[source], feature_hint=FeatureHint.ITEM_ID, embedding_dim=args.dim,
    )  # fmt: skip
    schema = TensorSchema([feature])

    def sequences(frame: pd.DataFrame) -> PandasSequentialDataset:
        return PandasSequentialDataset(schema, "user_id", "item_id", frame)

    rows = events.sort_values(["user_id", "place"]).groupby("user_id")["item_id"].agg(list).reset_index()
    train = SasRecTrainingDataset(sequences(rows[rows["item_id"].map(len) > 1]), max_sequence_length=args.length)
    counted = dict.fromkeys(COUNTS, 0.0)
    clock = clock_of(LambdaCallback, lambda batch: int(batch["target_padding_mask"].sum()), counted, args.warm_up)
    sampled = {"loss_sample_count": args.negatives, "negatives_sharing": True} if args.loss == "sampled_softmax" else {}
    model = SasRec(
        schema, block_count=args.blocks, head_count=args.heads, hidden_size=args.dim, max_seq_len=args.length,
        dropout_rate=0.2, loss_type="CE", **sampled,
    )  # fmt: skip
    trainer = lightning.Trainer(max_epochs=args.epochs, max_time=limit(args), callbacks=[clock], **quiet())
    trainer.fit(model, DataLoader(train, batch_size=args.batch, shuffle=True))
    known = asked[asked["history"].map(len) > 0].rename(columns={"history": "item_id"})
    known["item_id"] = known["item_id"].map(list)
    questions = SasRecPredictionDataset(sequences(known), max_sequence_length=args.length)
    model.eval()
    found = []
    with torch.inference_mode():
        for batch in DataLoader(questions, batch_size=256):
            scores = model.predict_step(batch, 0)[:, :num_items]
            best = scores.topk(args.k).indices.tolist()
            found += list(zip(batch["query_id"].flatten().tolist(), best, strict=True))
    return found, counted


def clock_of(callback: Any, count: Any, counted: dict[str, float], warm_up: int) -> Any:
    """A callback that counts targets and seconds of training steps; the first few, which set things up, are left out.

    The counts are not its own: RecTools trains with a copy of the trainer and its callbacks.
    """

    def start(*_: Any) -> None:
        if counted["steps"] == warm_up:
            counted["started"] = time.perf_counter()

    def end(trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        counted["steps"] += 1
        if counted["steps"] > warm_up:
            counted["positions"] += count(batch)
            counted["seconds"] = time.perf_counter() - counted["started"]

    return callback(on_train_batch_start=start, on_train_batch_end=end)


def limit(args: argparse.Namespace) -> dict[str, float]:
    return {"seconds": args.minutes * 60}


def quiet() -> dict[str, Any]:
    return {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    for name in ("events", "asked", "found"):
        parser.add_argument(name)
    for name, value in (("dim", 64), ("blocks", 2), ("heads", 1), ("length", 50), ("batch", 128), ("k", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--loss", choices=("softmax", "sampled_softmax"), default="softmax", help="of SASRec")
    parser.add_argument("--negatives", type=int, default=256, help="of the sampled softmax")
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--warm-up", type=int, default=5, help="steps that are not timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
