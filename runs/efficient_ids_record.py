"""What `efficient_ids.sh` keeps of one model, printed as JSON; and the small language model that it starts from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from everyitem.compress.assign import starting_vectors
from everyitem.data.interactions import Log, read_log
from everyitem.data.splits import Holdout, split_log
from everyitem.evaluate.grounding import best_gamma, grounded
from everyitem.evaluate.heldout import sample, split_for
from everyitem.evaluate.run import evaluate, time_stages
from everyitem.index import DenseIndex, TwoLevelIndex, reference
from everyitem.recommender import Recommender, load
from everyitem.types import Floats, Histories, Ids, TopK

KS = (5, 10, 20)
ROWS = 1024

app = typer.Typer()


@app.command()
def small(folder: Path, dim: int = 64, layers: int = 2) -> None:
    """Write a small Qwen2 with random weights."""
    import torch

    from everyitem.model.llm import save_language_model, small_language_model

    torch.manual_seed(0)
    save_language_model(folder, small_language_model(dim, layers), None)


@app.command()
def items(model: Path, log: Path, users: int = 20_000) -> None:
    """A model folder of `everyitem train`."""
    recommender, events = load(model), read_log(log)
    test = sample(split_for(recommender, events).test, users)
    # the first 20 places: to find more is much more work for a beam
    found = evaluate(recommender, test.histories, test.targets, num_items=events.num_items, ks=KS)
    timing = time_stages(
        lambda histories: (recommender.encode(histories), histories),
        lambda asked, k: recommender.best(*asked, k, threads=1),
        test.histories.select(np.flatnonzero(test.histories.lengths > 0)),
        num_users=500,
    )
    found = replace(found, timing=timing).to_json()
    settings = recommender.metadata["settings"]
    if settings["language_model"]:
        settings["language_model"] = Path(settings["language_model"]).name
    found |= {"training": json.loads((model / "metrics.json").read_text()), "settings": settings}
    if isinstance(recommender.index, TwoLevelIndex):
        found |= _of_clusters(recommender, events, users)
    print(json.dumps(found, indent=1))


def _of_clusters(recommender: Recommender, log: Log, users: int) -> dict[str, Any]:
    """How good the clusters are, and the ranking without the normaliser inside of them (the paper's serving code)."""
    index, split = recommender.index, split_for(recommender, log)
    assert isinstance(index, TwoLevelIndex)
    settings = recommender.metadata["settings"]
    start = starting_vectors(split.train.histories, log.num_items, settings["dim"], seed=settings["seed"])
    test = sample(split.test, users)
    flat = DenseIndex(index.vectors_ID + index.clusters_CD[index.cluster_of_I])
    top = flat.top_k(recommender.encode(test.histories), max(KS))
    return {"silhouette": silhouette(start, index.cluster_of_I), "uncorrected": _judged(top, test, log)}


def _judged(top: TopK, asked: Holdout, log: Log) -> dict[str, Any]:
    """The metrics of answers to held-out users."""
    ranker = _Found(top)
    found = evaluate(ranker, asked.histories, asked.targets, num_items=log.num_items, ks=KS, batch=len(asked.rows))
    return {name: value._asdict() for name, value in found.metrics().items()}


class _Found:
    """A ranker whose answers are known."""

    def __init__(self, top: TopK) -> None:
        self.top = top

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = False) -> TopK:
        assert not exclude_seen
        assert (len(histories), k) == self.top.items.shape
        return self.top


def silhouette(vectors_ID: Floats, cluster_of_I: Ids) -> float:
    """Mean of (b - a) / max(a, b): a is an item's mean distance from its cluster, b from the nearest other one.

    Euclidean (Rousseeuw 1987). An item that is alone in its cluster counts 0.

    Cost: I^2 D.
    """
    order = np.argsort(cluster_of_I, kind="stable")
    vectors, clusters = vectors_ID[order].astype(np.float64), cluster_of_I[order]
    sizes = np.bincount(clusters)
    kept = np.flatnonzero(sizes)
    starts, squares = np.searchsorted(clusters, kept), np.square(vectors).sum(axis=1)
    own_I = np.searchsorted(kept, clusters)
    values = np.zeros(len(order))
    for first in range(0, len(order), ROWS):
        part = slice(first, first + ROWS)
        square = squares[part, None] + squares - 2 * vectors[part] @ vectors.T
        sums = np.add.reduceat(np.sqrt(np.maximum(square, 0)), starts, axis=1)
        row, own = np.arange(len(sums)), own_I[part]
        size = sizes[kept][own]
        a = sums[row, own] / np.maximum(size - 1, 1)
        means = sums / sizes[kept]
        means[row, own] = np.inf
        b = means.min(axis=1)
        values[part] = np.where(size > 1, (b - a) / np.maximum(np.maximum(a, b), 1e-12), 0)
    return float(values.mean())


@app.command()
def titles(model: Path, log: Path, users: int = 2000) -> None:
    """A language model that writes titles, searched over the titles there are."""
    from everyitem.learn.titles import evaluate_title_models

    found = evaluate_title_models([model], log, max_users=users, time_users=50)[str(model)].to_json()
    print(json.dumps(found | {"training": json.loads((model / "training.json").read_text())}, indent=1))


@app.command()
def bigrec(
    model: Path,
    log: Path,
    users: int = 2000,
    injected: Annotated[Path | None, typer.Option(help="A dense model whose scores are mixed in.")] = None,
) -> None:
    """The same as BIGRec: written freely and grounded; by itself, with popularity, with a recommender's scores."""
    from everyitem.learn.bigrec import BIGRec, popularity_weights
    from everyitem.learn.titles import load_titles

    events = read_log(log)
    split = split_log(events, "leave-one-out", seed=0)
    language_model, text, told = load_titles(model, events)
    ranker = BIGRec(language_model, text.titles, text.start, length=told["length"])
    test, valid = sample(split.test, users), sample(split.valid, users)
    weights: dict[str, Any] = {"popularity": popularity_weights(_events(split.train))}
    if injected is not None:
        recommender = load(injected)
        assert isinstance(recommender.index, DenseIndex)
        table = recommender.index.vectors_ID
        weights["recommender"] = lambda histories: recommender.encode(histories) @ table.T
    far, far_valid = ranker.distances(test.histories), ranker.distances(valid.histories)
    found: dict[str, Any] = {"users": len(test.rows), "num_items": events.num_items}
    found["alone"] = _judged(reference.top_k(-far, max(KS)), test, events)
    for name, weight in weights.items():
        gamma = best_gamma(far_valid, weight(valid.histories), valid.targets)
        top = reference.top_k(grounded(far, weight(test.histories), gamma), max(KS))
        found[name] = _judged(top, test, events) | {"gamma": gamma}
    print(json.dumps(found, indent=1))


def _events(log: Log) -> NDArray[np.int64]:
    return np.bincount(log.histories.events(), minlength=log.num_items)


if __name__ == "__main__":
    app()
