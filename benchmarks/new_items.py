"""How well are items recommended that training never saw?

    python benchmarks/new_items.py LOG WORK [--share .05] [--epochs 8] [--items two-level] [--out FILE.json]

A share of the items, drawn at random, leaves the log before training; they are then added, as a shop would, and every
user whose last event is one of them is asked for it. A new item is placed among known items (`Recommender.add_items`),
in the cluster whose mean is nearest; which known items, is what is compared:

    text        the three with the most similar titles
    neighbours  those that came directly before it in up to three other users' histories
    random      three of any: what a place without knowledge is worth
    trained     the same model trained with all items: what waiting for a training would give

Measured among all items and among the new ones alone. The users whose last event is a known item are asked before and
after, for what adding does to others; and after clusters were halved to the size they had before (`rebalance`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from everyitem.data.alike import alike_by_text
from everyitem.data.interactions import Log, read_log
from everyitem.evaluate.measures import ndcg, ranks_of
from everyitem.index import TwoLevelIndex
from everyitem.learn.fit import fit
from everyitem.recommender import Recommender, load
from everyitem.types import Histories

ALIKE, WITNESSES, K = 3, 3, 10
Asked = tuple[Histories, np.ndarray]
"""Histories without their last event, and that event, in positions of the whole log."""


def main() -> None:
    args = arguments()
    log = read_log(args.log)
    rng = np.random.default_rng(args.seed)
    new = np.sort(rng.permutation(log.num_items)[: round(args.share * log.num_items)])
    settings = {"items": args.items, "memory": 0, "epochs": args.epochs, "threads": 1, "seed": args.seed}
    without = trained(without_items(log, new), args.work / "without", settings)
    known, fresh, histories_of = asked_of(log, new)
    known = some(known, args.users, rng)
    found: dict[str, Any] = {"known users": len(known[1]), "new users": len(fresh[1]), "new items": len(new)}
    found["before"] = measured(without, log, known, None)
    for name, likes in ways(log, new, histories_of, rng).items():
        model = load(args.work / "without")
        add(model, log, new, likes)
        found[name] = both(model, log, fresh, new) | {"others": measured(model, log, known, None)}
        if name == "text" and isinstance(model.index, TwoLevelIndex):
            found["rebalanced"] = rebalanced(model, without, log, (known, fresh), new)
    found |= {"settings": settings, "log": args.log.resolve().name, "share": args.share}
    keep(found, args.out)  # what comes last takes longest
    found["trained"] = both(trained(log, args.work / "all", settings), log, fresh, new)
    keep(found, args.out)


def keep(found: dict[str, Any], out: Path | None) -> None:
    """Print what was found, and write it where asked."""
    print(json.dumps(found, indent=1), flush=True)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n")


def trained(log: Log, folder: Path, settings: dict[str, Any]) -> Recommender:
    """The model, trained where it is not there yet; a training that was cut short goes on."""
    done = (folder / "metrics.json").is_file()
    return load(folder) if done else fit(log, folder, show=False, resume=True, **settings)


def without_items(log: Log, new: np.ndarray) -> Log:
    """The log as it was before these items came."""
    lengths = log.histories.lengths
    frame = pl.DataFrame({"user_id": log.user_ids.gather(np.repeat(np.arange(log.num_users), lengths))})
    events = log.histories.events()
    frame = frame.with_columns(log.items["item_id"].gather(events).alias("item_id"))
    kept = np.ones(log.num_items, bool)
    kept[new] = False
    return read_log(frame.filter(pl.Series(kept[events])), items=log.items.filter(pl.Series(kept)))


def asked_of(log: Log, new: np.ndarray) -> tuple[Asked, Asked, Histories]:
    """Users whose last event is a known item, those whose last is a new one, and the histories without it of all."""
    histories = log.histories.select(np.flatnonzero(log.histories.lengths >= 3))
    targets = histories.items[histories.stops - 1]
    before = Histories(histories.items, histories.starts, histories.stops - 1)
    is_new = np.isin(targets, new)
    known, fresh = ((before.select(np.flatnonzero(m)), targets[m]) for m in (~is_new, is_new))
    return known, fresh, before


def some(asked: Asked, count: int, rng: np.random.Generator) -> Asked:
    """So many users at random."""
    drawn = np.sort(rng.permutation(len(asked[1]))[:count])
    return asked[0].select(drawn), asked[1][drawn]


def ways(log: Log, new: np.ndarray, before: Histories, rng: np.random.Generator) -> dict[str, list[list[int]]]:
    """For every new item the known ones (positions in the whole log) it is placed among."""
    old = np.setdiff1d(np.arange(log.num_items), new)
    titles = log.items["title"]
    random = [rng.choice(old, ALIKE).tolist() for _ in new]
    rows = alike_by_text(titles.gather(old), titles.gather(new), ALIKE)
    text = [old[row].tolist() or spare for row, spare in zip(rows, random, strict=True)]
    events, owner = before.events(), np.repeat(np.arange(len(before)), before.lengths)
    follows = np.flatnonzero((owner[1:] == owner[:-1]) & np.isin(events[1:], new) & ~np.isin(events[:-1], new))
    witnessed: dict[int, list[int]] = {}
    for at in rng.permutation(follows):
        witnessed.setdefault(int(events[at + 1]), []).append(int(events[at]))
    seen = [witnessed.get(int(item), [])[:WITNESSES] or spare for item, spare in zip(new, random, strict=True)]
    return {"text": text, "neighbours": seen, "random": random}


def add(model: Recommender, log: Log, new: np.ndarray, likes: list[list[int]]) -> None:
    """Add the new items to a model that was trained without them."""
    ids = log.items["item_id"]
    model.add_items(log.items[new.tolist()], like=[ids.gather(like).to_list() for like in likes])


def both(model: Recommender, log: Log, asked: Asked, new: np.ndarray) -> dict[str, Any]:
    """Among all items, and among the new ones alone."""
    only = np.zeros(model.index.num_items, bool)
    only[model.positions(log.items["item_id"].gather(new))] = True
    return {"all": measured(model, log, asked, None), "new": measured(model, log, asked, only)}


def measured(model: Recommender, log: Log, asked: Asked, allow: np.ndarray | None) -> dict[str, float]:
    """NDCG@10 and Recall@10 of the targets."""
    return figures(top_items(model, log, asked, allow), model.positions(log.items["item_id"])[asked[1]])


def figures(items_UK: np.ndarray, targets_U: np.ndarray) -> dict[str, float]:
    ranks = ranks_of(items_UK, targets_U)
    return {"ndcg@10": float(ndcg(ranks, K).mean()), "recall@10": float((items_UK == targets_U[:, None]).any(1).mean())}


def top_items(model: Recommender, log: Log, asked: Asked, allow: np.ndarray | None) -> np.ndarray:
    histories = asked[0].translate(model.positions(log.items["item_id"]))
    return model.rank(histories, K, allow=allow).items


def rebalanced(
    model: Recommender, before: Recommender, log: Log, asked: tuple[Asked, Asked], new: np.ndarray
) -> dict[str, Any]:
    """What halving the clusters does that have grown beyond the largest there was."""
    known, fresh = asked
    index, largest = model.index, int(before.index.cluster_sizes_C.max())  # type: ignore[union-attr]
    assert isinstance(index, TwoLevelIndex)

    def sizes() -> list[int]:
        return [index.num_clusters, int(index.cluster_sizes_C.max())]

    grown, was = sizes(), top_items(model, log, known, None)
    index.rebalance(largest)
    now = top_items(model, log, known, None)
    overlap = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(was, now, strict=True)])
    result = both(model, log, fresh, new) | {"others": measured(model, log, known, None)}
    return result | {"clusters, largest": [grown, sizes()], "overlap@10": float(overlap)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("work", type=Path, help="models are kept here, and not trained twice")
    parser.add_argument("--share", type=float, default=0.05, help="of the items that training does not see")
    parser.add_argument("--users", type=int, default=5000, help="of those whose last event is a known item")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--items", default="two-level")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
